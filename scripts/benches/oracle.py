"""One measurement of the oracle, all n exact norms and the full gradient, against plain passes over the same data."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benches.timing import Row, in_turns
from rais import rng
from rais.gradnorm import norms_and_gradient
from rais.paper import models

CHUNK = 500


def rows(quick: bool) -> Iterator[Row]:
    """The norms of n images of MNIST's size with LeNet-5; the floor is forward and backward of the same chunks."""
    n = 1_000 if quick else 10_000
    g = rng.generator(0, "evaluation")
    x, y = torch.rand(n, 1, 28, 28, generator=g), torch.randint(10, (n,), generator=g)
    model = models.build(name="lenet5", channels=1, classes=10, size=28, seed=0)
    seconds = in_turns({"ours": norms(model, x, y), "floor": passes(model, x, y)}, rounds=2 if quick else 9)
    yield Row("oracle", f"lenet5, n = {n}", seconds["ours"], "forward + backward of all", seconds["floor"], 1.3)


def norms(model: nn.Module, x: torch.Tensor, y: torch.Tensor, chunk: int = CHUNK) -> Callable[[], object]:
    def loss(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return cross_entropy(logits, target, reduction="none")

    return lambda: norms_and_gradient(model, loss, zip(x.split(chunk), y.split(chunk), strict=True))


def passes(model: nn.Module, x: torch.Tensor, y: torch.Tensor, chunk: int = CHUNK) -> Callable[[], object]:
    def run() -> None:
        for inputs, targets in zip(x.split(chunk), y.split(chunk), strict=True):
            cross_entropy(model(inputs), targets, reduction="sum").backward()
        model.zero_grad(set_to_none=True)

    return run
