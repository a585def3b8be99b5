"""Data sets by name, as tensors on a device.

`load` is the way in; a new data set is a function that returns a Dataset, in a file of its own, and one
line in DATA_SETS. Those that lie on disk are looked for in `root()`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from rais.paper.data import cifar, digits, mnist, npz, rot_mnist, svhn
from rais.paper.data.arrays import Dataset, Description, Split
from rais.paper.data.location import DataUnavailable, root

__all__ = [
    "DATA_SETS",
    "DataUnavailable",
    "Dataset",
    "Description",
    "Split",
    "describe",
    "folder",
    "load",
    "npz",
    "root",
]

DATA_SETS: dict[str, Callable[[str | Path | None], Dataset]] = {
    "cifar10": partial(cifar.read, "cifar10"),
    "cifar100": partial(cifar.read, "cifar100"),
    "digits": lambda path: digits.build(),
    "mnist": mnist.read,
    "npz": npz.read,
    "rot_mnist": rot_mnist.read,
    "svhn": svhn.read,
}
_DESCRIPTIONS: dict[str, Description] = {
    "cifar10": Description(50_000, 10_000, channels=3, size=32, classes=10),
    "cifar100": Description(50_000, 10_000, channels=3, size=32, classes=100),
    "digits": Description(digits.TRAIN_IMAGES, digits.TEST_IMAGES, channels=1, size=digits.SIZE, classes=10),
    "mnist": Description(60_000, 10_000, channels=1, size=28, classes=10),
    "rot_mnist": Description(rot_mnist.TRAIN_IMAGES, rot_mnist.TEST_IMAGES, channels=1, size=28, classes=10),
    "svhn": Description(604_388, 26_032, channels=3, size=32, classes=10),
}
_FOLDERS: dict[str, Callable[[Path], Path]] = {
    "cifar10": partial(cifar.folder, "cifar10"),
    "cifar100": partial(cifar.folder, "cifar100"),
    "mnist": lambda base: base / mnist.FOLDER,
    "rot_mnist": lambda base: base / mnist.FOLDER,
    "svhn": svhn.folder,
}


def load(
    name: str,
    *,
    path: str | Path | None = None,
    n_train: int | None = None,
    device: str | torch.device = "cpu",
) -> Dataset:
    """Return the data set `name` on `device`, its training split cut to the first `n_train` examples.

    No `n_train` means all. `path` takes the place of RAIS_DATA; for npz it is the file itself, and digits, which has
    no files, ignores it. Raises ValueError where the name is unknown or `n_train` is below 1 or above what there is,
    DataUnavailable where the data cannot be had.
    """
    _check_name(name)
    if n_train is not None and n_train < 1:
        raise ValueError(f"n_train={n_train}: give at least 1, or none for all")
    dataset = DATA_SETS[name](path)
    _check_count(name, n_train, len(dataset.train))
    train = dataset.train if n_train is None else dataset.train.first(n_train)
    return Dataset(name, train.to(device), dataset.test.to(device), dataset.classes)


def describe(name: str, *, path: str | Path | None = None, n_train: int | None = None) -> Description:
    """Return what is known of the data set without decoding an image; for npz this reads the file's headers and labels.

    Raises ValueError where the name is unknown or there are fewer than `n_train` examples, DataUnavailable where an npz
    file cannot be had.
    """
    _check_name(name)
    known = npz.describe(path) if name == "npz" else _DESCRIPTIONS[name]
    _check_count(name, n_train, known.n_train)
    return known if n_train is None else replace(known, n_train=n_train)


def folder(name: str, path: str | Path | None = None) -> Path | None:
    """Return the folder where the files of data set `name` lie or would lie; None where it has no files."""
    _check_name(name)
    return _FOLDERS[name](root(path)) if name in _FOLDERS else None


def _check_count(name: str, n_train: int | None, n: int) -> None:
    if n_train is not None and n_train > n:
        raise ValueError(f"n_train={n_train}: {name} has {n} training examples; give 1 to {n}, or none")


def _check_name(name: str) -> None:
    if name not in DATA_SETS:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(sorted(DATA_SETS))}")
