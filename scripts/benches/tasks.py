"""What a step of uniform SGD takes on every task, and what a run would take at that pace: for planning."""

from __future__ import annotations

import time

import numpy as np

from benches.step import loop_of, random_images

HEADER = ("task", "batch_size", "seconds_per_step", "steps_per_run", "hours_per_run")
TASKS = {  # training examples, classes, shape of an image
    "digits": (20_000, 10, (1, 28, 28)),
    "mnist": (60_000, 10, (1, 28, 28)),
    "rot_mnist": (12_000, 10, (1, 28, 28)),
    "cifar10_small": (10_000, 10, (3, 32, 32)),
    "cifar10_resnet8": (50_000, 10, (3, 32, 32)),
    "svhn": (604_388, 10, (3, 32, 32)),
    "cifar10": (50_000, 10, (3, 32, 32)),
    "cifar100": (50_000, 100, (3, 32, 32)),
}


def rows(steps: int = 5) -> list[tuple[str, int, float, int, float]]:
    """Rows of HEADER: medians of `steps` steps on one core. Evaluations are not in it."""
    found = []
    for task, (n, classes, shape) in TASKS.items():
        # A few images are enough: a step does not depend on how many there are.
        loop = loop_of(task, ["sampler=uniform", "data.n_train=null"], random_images(512, shape, classes))
        loop.step()
        seconds = []
        for _ in range(steps):
            begin = time.perf_counter()
            loop.step()
            seconds.append(time.perf_counter() - begin)
        middle, m = float(np.median(seconds)), loop.parts.sampler.m
        run = round(loop.epochs * n / m)
        found.append((task, m, middle, run, middle * run / 3600))
    return found
