"""Loss and error of a model over a whole split.

The model is put into evaluation mode for the pass and back after it. Nothing here belongs to the timed region of a run.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rais.paper.data import Split


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, *, chunk: int = 500) -> tuple[float, float]:
    """Mean cross-entropy (nats, summed in float64) and share of wrong labels in [0, 1] over `split`. One
    synchronisation.

    Chunks are small enough for the activations of a small network to stay in the processor's cache.
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
