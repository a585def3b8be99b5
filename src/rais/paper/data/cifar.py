"""`cifar10` and `cifar100`: 50 000 training and 10 000 test images, 32×32 in colour, of 10 or 100 classes.

Read from torchvision's folder or else from a public Parquet edition; where neither is there, torchvision downloads
them and compares its checksums. Images keep the order of the files; cifar100's labels are the 100 fine classes.

Editions in Parquet differ in order and compression. Those of CIFAR-10 are compared by what does not depend on either:
the sum of the SHA-256s of all pairs of an image and its label.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from rais.paper.data import parquet
from rais.paper.data.arrays import Dataset, Split
from rais.paper.data.location import DataUnavailable, root
from rais.paper.data.published import Published

COUNTS = {"train": 50_000, "test": 10_000}
SIZE = 32
CLASSES = {"cifar10": 10, "cifar100": 100}
FOLDERS = {"cifar10": Path("cifar-10-batches-py"), "cifar100": Path("cifar-100-python")}
# Σ SHA-256(image ‖ label) mod 2²⁵⁶ over a split: an image as 3×32×32 bytes, a label as one [measured on a good copy]
SUMS = {
    ("cifar10", "train"): "85873b872f38cafb7c6f99d016364dd8b372513d1215f9193d0b9b89a0375650",
    ("cifar10", "test"): "6470cca17226483ffed24316d69a85df9d1fa3b1b854800df40814bd424738a0",
}
LABEL_COLUMNS = {"cifar10": "label", "cifar100": "fine_label"}


def read(name: str, path: str | Path | None = None) -> Dataset:
    """Read `cifar10` or `cifar100` from `folder(name, root(path))`, after downloading it where it is in none.

    Images uint8 (n, 3, 32, 32), labels int64 (n,). Raises DataUnavailable where the download fails or its folder
    cannot be written, and where a file is missing, damaged or unreadable, or has another number of images or
    labels out of range.
    """
    base = root(path)
    here = folder(name, base)
    if here == base / name:
        return Dataset(name, _from_parquet(name, here, "train"), _from_parquet(name, here, "test"), CLASSES[name])
    if not os.path.lexists(here):
        _download(name, base)
    return Dataset(name, _from_torchvision(name, base, "train"), _from_torchvision(name, base, "test"), CLASSES[name])


def folder(name: str, base: Path) -> Path:
    """Return where below `base` the files lie or would lie: torchvision's folder, else one of Parquet files."""
    if not os.path.lexists(base / FOLDERS[name]) and parquet.holds(base / name):
        return base / name
    return base / FOLDERS[name]


def _source(name: str) -> Published:
    return Published(name, f"with {FOLDERS[name]} (torchvision's layout) or {name}/train.parquet and test.parquet")


def _from_parquet(name: str, here: Path, split: str) -> Split:
    counts, label, classes = {split: COUNTS[split]}, LABEL_COLUMNS[name], CLASSES[name]
    found = Split(*parquet.read(_source(name), here, counts, label=label, classes=classes, size=SIZE))
    expected = SUMS.get((name, split))
    if expected is not None and (total := sum_of_hashes(found)) != expected:
        raise _source(name).damaged(
            here, f"{split} images and labels whose hashes add up to {total}", f"{expected}, whatever their order", here
        )
    return found


def sum_of_hashes(split: Split) -> str:
    """Return Σ SHA-256(image ‖ label) mod 2²⁵⁶ in hexadecimal: the same for every order of the examples.

    Labels are below 256. It takes about a second for 60 000 images [measured].
    """
    pairs = zip(split.images.numpy(), split.labels.to(torch.uint8).numpy(), strict=True)
    total = sum(int.from_bytes(hashlib.sha256(x.tobytes() + y.tobytes()).digest(), "big") for x, y in pairs)
    return f"{total % 2**256:064x}"


def _from_torchvision(name: str, base: Path, split: str) -> Split:
    """Read one split of torchvision's files, whose checksums torchvision compares before it unpickles any."""
    here = base / FOLDERS[name]
    try:
        stored = _reader(name)(str(base), train=split == "train")
    except RuntimeError as error:
        raise _first_wrong(name, here) from error
    except OSError as error:
        raise _source(name).unreadable(here, error) from error
    return Split(torch.from_numpy(stored.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(stored.targets))


def _first_wrong(name: str, here: Path) -> DataUnavailable:
    """Return the error for torchvision's finding that a file is missing or has another checksum."""
    from torchvision.datasets.utils import calculate_md5

    for file, expected in _checksums(name).items():
        found = f"MD5 {calculate_md5(here / file)}" if (here / file).is_file() else "no such file"
        if found != f"MD5 {expected}":
            return _source(name).damaged(here / file, found, f"MD5 {expected}", delete=here)
    return _source(name).damaged(here, "what torchvision refuses", f"the files of {name}", delete=here)


def _download(name: str, base: Path) -> None:
    kind = _reader(name)
    files = [FOLDERS[name] / file for file in _checksums(name)]
    _source(name).download(base, files, lambda to: kind(str(to), download=True), reuse=[Path(kind.filename)])


def _checksums(name: str) -> dict[str, str]:
    """Return the MD5 of every file in torchvision's folder, by file name."""
    kind = _reader(name)
    return dict([*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])])


def _reader(name: str) -> Any:
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
