"""When a run is evaluated, and the loss and error of a model over a split.

All arms of a task are looked at on one grid in t̂: who is looked at more often finds a low loss earlier. Nothing here
belongs to the timed region of a run.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rais import rng
from rais.paper.data import Split

TARGET_AT = 0.75  # share of the budget at which uniform's loss is the target of a task


def grid(budget: float, evaluations: int) -> list[float]:
    """The values of t̂ at which a run is evaluated, in the unit of `budget`: 0, then `evaluations` points evenly up to
    the budget, and three quarters of it, increasing."""
    shares = {k / evaluations for k in range(evaluations)} | {TARGET_AT}
    return [*(budget * share for share in sorted(shares)), budget]


def fixed_subset(split: Split, size: int | None) -> Split:
    """The same `size` random examples of `split` for every seed; all of it where `size` is None or no smaller."""
    if size is None or size >= len(split):
        return split
    order = torch.randperm(len(split), generator=rng.generator(0, "evaluation"))[:size]
    index = order.sort().values.to(split.labels.device)
    return Split(split.images[index], split.labels[index])


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, *, chunk: int = 500) -> tuple[float, float]:
    """Mean cross-entropy (nats, summed in float64) and share of wrong labels in [0, 1] over `split`. One
    synchronisation.

    The model is put into evaluation mode for the pass and back after it. Chunks are small enough for the activations
    of a small network to stay in the processor's cache.
    """
    was_training = model.training
    model.eval()
    totals = torch.zeros(2, dtype=torch.float64, device=split.labels.device)
    for index in torch.arange(len(split), device=split.labels.device).split(chunk):
        x, y = split.batch(index)
        logits = model(x)
        totals[0] += cross_entropy(logits, y, reduction="sum")
        totals[1] += (logits.argmax(1) != y).sum()
    model.train(was_training)
    loss, error = (totals / len(split)).tolist()
    return loss, error
