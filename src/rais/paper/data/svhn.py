"""`svhn`: 604 388 training and 26 032 test images of house numbers, 32×32 in colour, ten classes.

The training images are the sets `train` (73 257) and then `extra` (531 131, easier ones), in the order of their
files. They are read from torchvision's .mat files or else from a public Parquet edition; .mat files that are not
there are downloaded by torchvision, which compares its checksums.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from rais.paper.data import parquet
from rais.paper.data.arrays import Dataset, Split
from rais.paper.data.location import root
from rais.paper.data.published import Published

FOLDER = "svhn"
COUNTS = {"train": 73_257, "extra": 531_131, "test": 26_032}
SPLITS = {"train": ("train", "extra"), "test": ("test",)}
FILES = {name: f"{name}_32x32.mat" for name in COUNTS}
SIZE, CLASSES = 32, 10
SOURCE = Published("svhn", "with svhn/{train,extra,test}_32x32.mat or svhn/{train,extra,test}.parquet")


def read(path: str | Path | None = None) -> Dataset:
    """Read SVHN from `folder(root(path))`, after downloading what torchvision's files lack there.

    Images uint8 (n, 3, 32, 32): 1.9 GB, and 3.6 GB while .mat files are read. Labels are the digits 0..9;
    the .mat files' label 10 is digit 0. Raises DataUnavailable where the download fails or its folder cannot be
    written, and where a file is missing, damaged or unreadable, or has another number of images or labels out of
    range.
    """
    base = root(path)
    here = folder(base)
    if not _mat_files(here) and parquet.holds(here):
        return Dataset("svhn", _from_parquet(here, "train"), _from_parquet(here, "test"), CLASSES)
    absent = [name for name, file in FILES.items() if not os.path.lexists(here / file)]
    if absent:
        _download(base, here, absent)
    return Dataset("svhn", _from_torchvision(here, "train"), _from_torchvision(here, "test"), CLASSES)


def folder(base: Path) -> Path:
    """Return where below `base` the files lie or would lie: `base`/svhn, or `base` where only that has .mat files."""
    return base if _mat_files(base) and not _mat_files(base / FOLDER) else base / FOLDER


def _mat_files(folder: Path) -> list[Path]:
    return [folder / file for file in FILES.values() if os.path.lexists(folder / file)]


def _from_parquet(here: Path, split: str) -> Split:
    counts = {name: COUNTS[name] for name in SPLITS[split]}
    return Split(*parquet.read(SOURCE, here, counts, label="label", classes=CLASSES, size=SIZE))


def _from_torchvision(here: Path, split: str) -> Split:
    """Read and join the .mat files of one split, whose checksums torchvision compares first."""
    n = sum(COUNTS[name] for name in SPLITS[split])
    images, labels, start = torch.empty(n, 3, SIZE, SIZE, dtype=torch.uint8), torch.empty(n, dtype=torch.int64), 0
    for name in SPLITS[split]:
        stored = _open(here, name)
        part = slice(start, start + COUNTS[name])
        images[part], labels[part] = torch.from_numpy(stored.data), torch.from_numpy(stored.labels)
        start += COUNTS[name]
    return Split(images, labels)


def _open(here: Path, name: str) -> Any:
    """Return torchvision's reader of one .mat file: `data` (n, 3, 32, 32) uint8 and `labels` (n,) int64, as arrays."""
    from torchvision.datasets import SVHN
    from torchvision.datasets.utils import calculate_md5

    file, expected = here / FILES[name], SVHN.split_list[name][2]
    try:
        stored = SVHN(str(here), split=name)
    except RuntimeError as error:
        found = f"MD5 {calculate_md5(file)}" if file.is_file() else "no such file"
        raise SOURCE.damaged(file, found, f"MD5 {expected}", delete=file) from error
    except OSError as error:
        raise SOURCE.unreadable(file, error) from error
    if len(stored.data) != COUNTS[name]:
        raise SOURCE.damaged(file, f"{len(stored.data)} images", f"{COUNTS[name]}", delete=file)
    return stored


def _download(base: Path, here: Path, names: list[str]) -> None:
    from torchvision.datasets import SVHN

    def fetch(staging: Path) -> None:
        for name in names:
            SVHN(str(staging / below), split=name, download=True)

    below = here.relative_to(base)
    SOURCE.download(base, [below / FILES[name] for name in names], fetch)
