"""A training step of RAIS against one of uniform SGD: everything that the method adds, solves of (PT) and φ included.

The images are random and the norms that the sampler learns from at first are made up, because what a step costs does
not depend on them; from then on the steps are those of a run. A block of steps is long enough to hold its share of
solves. Times are CPU seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from hydra import compose

from benches.timing import Row, in_turns
from rais import rng
from rais.paper import data
from rais.paper import settings as config
from rais.paper.training import build
from rais.paper.training.loop import Loop

TARGET = 1.05
CASES = {  # task: (overrides, training examples, shape of an image, steps of a block, rounds)
    "digits": ([], 20_000, (1, 28, 28), 40, 3),
    "mnist": ([], 60_000, (1, 28, 28), 63, 48),
    "mnist, m = 128": (["batch_size=128"], 60_000, (1, 28, 28), 16, 48),
    "cifar10_small": ([], 10_000, (3, 32, 32), 16, 32),
    "cifar10_resnet8": ([], 50_000, (3, 32, 32), 16, 12),
}


def rows(quick: bool) -> Iterator[Row]:
    """The step of each task; in miniature the one of digits alone."""
    for case in ("digits",) if quick else list(CASES)[1:]:
        overrides, n, shape, block, rounds = CASES[case]
        task, dataset = case.split(",")[0], random_images(n, shape)
        steps = {
            sampler: training_step(task, [f"sampler={sampler}", *overrides], dataset) for sampler in ("rais", "uniform")
        }
        seconds = in_turns(steps, rounds=rounds, block=block, clock=time.process_time)
        yield Row("step", case, seconds["rais"], "uniform", seconds["uniform"], TARGET)


def random_images(n: int, shape: tuple[int, ...], classes: int = 10, device: str = "cpu") -> data.Dataset:
    g = rng.generator(0, "evaluation")
    images = torch.randint(256, (n, *shape), generator=g, dtype=torch.uint8)
    split = data.Split(images, torch.randint(classes, (n,), generator=g)).to(device)
    return data.Dataset("random", split, split.first(1), classes)


def loop_of(task: str, overrides: list[str], dataset: data.Dataset) -> Loop:
    cfg = config.from_hydra(compose("config", [f"task={task}", *overrides]))
    return Loop(build.build(cfg, dataset), None, epochs=cfg.epochs, evaluations=cfg.evaluations)


def training_step(task: str, overrides: list[str], dataset: data.Dataset) -> Callable[[], None]:
    """One step of a run whose sampler, if it learns, has learned already."""
    loop = loop_of(task, overrides, dataset)
    sampler = loop.parts.sampler
    norms = torch.randn(sampler.n, generator=rng.generator(0, "evaluation")).exp().to(dataset.train.labels.device)
    while not getattr(sampler, "has_learned", True):
        draw = sampler.draw()
        sampler.observe(draw, norms[draw.index])
    return loop.step
