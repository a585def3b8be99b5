"""An epoch of uniform SGD, LeNet-5 on images of MNIST's size, against the usual script.

The usual script is a DataLoader with torchvision's ToTensor over PIL images, minibatches of 32, in this process or
with two workers. What is timed is a stretch of steps, scaled to nothing: the contenders do the same work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benches.timing import Row, in_turns
from rais import rng
from rais.paper import data, models
from rais.sampling import Uniform

N, M, FASTER = 60_000, 32, 1 / 3


class _Images(Dataset):
    """PIL images made as they are asked for, as torchvision's MNIST makes them."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.labels, self.transform = images, labels, transforms.ToTensor()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[i, 0].numpy(), mode="L")), int(self.labels[i])


def rows(quick: bool) -> Iterator[Row]:
    """Seconds of `steps` steps of each way."""
    g = rng.generator(0, "evaluation")
    images, labels = torch.randint(256, (N, 1, 28, 28), generator=g, dtype=torch.uint8), torch.randint(10, (N,))
    steps = 30 if quick else 200
    for workers in (0,) if quick else (0, 2):
        contenders = {"ours": _ours(images, labels, steps), "usual": _usual(images, labels, steps, workers)}
        seconds = in_turns(contenders, rounds=2 if quick else 7)
        case = f"lenet5, m = {M}, {steps} steps"
        yield Row("loop", case, seconds["ours"], f"DataLoader, {workers} workers", seconds["usual"], FASTER)


def _model() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = models.build(name="lenet5", channels=1, classes=10, size=28, seed=0)
    return model, torch.optim.SGD(model.parameters(), lr=0.01, fused=True)


def _ours(images: torch.Tensor, labels: torch.Tensor, steps: int) -> Callable[[], None]:
    model, optimizer = _model()
    split, sampler = data.Split(images, labels), Uniform(N, M, generator=rng.generator(0, "sampling"))

    def run() -> None:
        for _ in range(steps):
            x, y = split.batch(sampler.draw().index)
            cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def _usual(images: torch.Tensor, labels: torch.Tensor, steps: int, workers: int) -> Callable[[], None]:
    model, optimizer = _model()
    loader = DataLoader(
        _Images(images, labels), batch_size=M, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    batches = iter(loader)

    def run() -> None:
        nonlocal batches
        for _ in range(steps):
            try:
                x, y = next(batches)
            except StopIteration:
                batches = iter(loader)
                x, y = next(batches)
            cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run
