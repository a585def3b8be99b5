"""The loop around a network, and what feeds it: LeNet-5 on images of MNIST's size, and the augmentation of CIFAR.

The usual script is a DataLoader with torchvision's transforms over PIL images, in this process or with two workers.
Three things stand beside it: images as tensors, picked and augmented as a minibatch; and `rais.Loader` over the same
data set with the same transforms. All contenders of a row do the same work, the images are random, and workers may
use every core, though this process keeps to one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

import rais
from benches.timing import Row, in_turns
from rais import rng
from rais.paper import data, models
from rais.paper.data.augment import Augment
from rais.sampling import Uniform

N, M, FASTER = 60_000, 32, 1 / 3
CIFAR, CIFAR_M = (3, 32, 32), 128

Batches = Iterable[tuple[Tensor, Tensor]]


def rows(quick: bool) -> Iterator[Row]:
    """Seconds of a stretch of steps, or of minibatches without a network."""
    g = rng.generator(0, "evaluation")
    split = _random(N, (1, 28, 28), g)
    usual = _Images(split, transforms.ToTensor())
    steps, rounds = (10, 2) if quick else (200, 7)
    case = f"lenet5, m = {M}, {steps} steps"
    for workers in (0,) if quick else (0, 2):
        seconds = in_turns(
            {
                "ours": _training(_picked(split), steps),
                "Loader": _training(_loaded(usual, workers), steps),
                "usual": _training(_usual(usual, M, workers), steps),
            },
            rounds=rounds,
        )
        rival = f"DataLoader, {workers} workers"
        yield Row("loop", case, seconds["ours"], rival, seconds["usual"], FASTER)
        yield Row("loop", f"{case}, rais.Loader", seconds["Loader"], rival, seconds["usual"])
    split = _random(N if not quick else 1000, CIFAR, g)
    steps = 2 if quick else 50
    usual = _Images(split, _cifar())
    for workers in (0,) if quick else (0, 2):
        seconds = in_turns(
            {"ours": _taking(_augmented(split), steps), "usual": _taking(_usual(usual, CIFAR_M, workers), steps)},
            rounds=rounds,
        )
        case = f"crops and flips, m = {CIFAR_M}, {steps} minibatches"
        yield Row("loop", case, seconds["ours"], f"torchvision v2, {workers} workers", seconds["usual"])


class _Images(Dataset):
    """PIL images made as they are asked for, as torchvision's data sets make them."""

    def __init__(self, split: data.Split, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images = split.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels, self.transform = split.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        image = self.images[i]
        return self.transform(Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)), int(self.labels[i])


def _random(n: int, shape: tuple[int, ...], g: torch.Generator) -> data.Split:
    images = torch.randint(256, (n, *shape), generator=g, dtype=torch.uint8)
    return data.Split(images, torch.randint(10, (n,), generator=g))


def _cifar() -> Callable[[Image.Image], Tensor]:
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )


def _picked(split: data.Split) -> Batches:
    sampler = Uniform(len(split), M, generator=rng.generator(0, "sampling"))
    while True:
        yield split.batch(sampler.draw().index)


def _augmented(split: data.Split) -> Batches:
    augment = Augment(crop=4, flip=True, generator=partial(rng.generator, 0))
    sampler = Uniform(len(split), CIFAR_M, generator=rng.generator(0, "sampling"))
    while True:
        x, y = split.batch(sampler.draw().index)
        yield augment(x), y


def _loaded(dataset: _Images, workers: int) -> Batches:
    sampler = Uniform(len(dataset), M, generator=rng.generator(0, "sampling"))
    loader = rais.Loader(dataset, sampler, **_workers(workers))
    while True:
        for _, batch in loader:
            yield batch


def _usual(dataset: _Images, m: int, workers: int) -> Batches:
    loader = DataLoader(dataset, batch_size=m, shuffle=True, **_workers(workers))
    while True:
        yield from loader


def _workers(count: int) -> dict[str, Any]:
    return {"num_workers": count, "persistent_workers": count > 0, "worker_init_fn": _use_every_core}


def _use_every_core(worker: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _training(batches: Batches, steps: int) -> Callable[[], None]:
    model: nn.Module = models.build(name="lenet5", channels=1, classes=10, size=28, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
    source = iter(batches)

    def run() -> None:
        for _ in range(steps):
            x, y = next(source)
            cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def _taking(batches: Batches, steps: int) -> Callable[[], None]:
    source = iter(batches)

    def run() -> None:
        for _ in range(steps):
            next(source)

    return run
