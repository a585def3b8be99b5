"""A configuration and a data set small enough for tests that train."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from rais.paper import settings as config
from rais.paper.data import Dataset, Split

N = 256


def settings(runs: Path, **changes) -> config.Config:
    """A complete configuration with records under `runs`; `changes` replace top-level settings."""
    cfg = config.Config(
        task="toy",
        seed=3,
        data=config.DataConfig("digits"),
        model=config.ModelConfig("lenet5"),
        schedule=config.InverseSqrtConfig(scale=3.4, offset=100),
        sampler=config.RAISConfig(visits=100, refresh=2),
        gain=config.GainConfig(mode="adaptive", phi="half_batch", alpha=0.01, every=16),
        batch_size=32,
        epochs=2,
        weight_decay=0,
        momentum=0,
        evaluations=4,
        runs=str(runs),
        device="cpu",
        threads=1,
    )
    return dataclasses.replace(cfg, **changes)


def toy_data(device: str = "cpu") -> Dataset:
    """Three classes of bright stripes in noise: learned within a few epochs, apart from some mislabelled ones."""
    g = torch.Generator().manual_seed(1)
    images = torch.randint(0, 90, (2 * N, 1, 28, 28), generator=g, dtype=torch.uint8)
    labels = torch.randint(3, (2 * N,), generator=g)
    for i, label in enumerate(labels.tolist()):
        images[i, 0, 8 * label : 8 * label + 6] += 120
    labels[::17] = (labels[::17] + 1) % 3
    split = Split(images, labels).to(device)
    return Dataset("toy", split.first(N), Split(split.images[N:], split.labels[N:]), 3)
