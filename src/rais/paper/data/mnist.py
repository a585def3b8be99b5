"""`mnist`: 60 000 training and 10 000 test images of handwritten digits, in the order of the files.

Files that are there are read and never written; otherwise torchvision downloads them and compares its
checksums. Every file's size and checksum is compared before it is read, so that no flipped bit goes unseen.
"""

from __future__ import annotations

import hashlib
import math
import os
import struct
from pathlib import Path

from rais.paper.data.arrays import Dataset, Split
from rais.paper.data.location import root
from rais.paper.data.published import Published

FOLDER = Path("MNIST", "raw")
SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
SHA256 = {  # of the published files: their MD5s are the ones that are widely quoted
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
CLASSES = 10
SOURCE = Published("mnist", "in torchvision's layout, with MNIST/raw/train-images-idx3-ubyte and so on")


def read(path: str | Path | None = None) -> Dataset:
    """Read MNIST from `root(path)`/MNIST/raw, after downloading it there where none of its files is present.

    Images uint8 (n, 1, 28, 28), labels 0..9. Raises DataUnavailable where the download fails or its folder
    cannot be written, and where a file is missing, unreadable, or not the published one to the last bit.
    """
    base = root(path)
    folder = base / FOLDER
    if not any(os.path.lexists(folder / name) for name in SHAPES):
        _download(base)
    for name in SHAPES:
        _check_file(folder / name)
    return Dataset("mnist", _read_split(folder, "train"), _read_split(folder, "t10k"), CLASSES)


def _check_file(file: Path) -> None:
    """Raise DataUnavailable unless the idx file has the header, size and checksum that its name promises."""
    shape = SHAPES[file.name]
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)  # zeros, 8 = uint8, axes, lengths
    size = len(header) + math.prod(shape)
    try:
        found = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(len(header))
            checksum = hashlib.sha256(start + stream.read(size)).hexdigest()
    except FileNotFoundError:
        raise SOURCE.damaged(file, "no such file", f"{size} bytes", delete=file.parent) from None
    except OSError as error:
        raise SOURCE.unreadable(file, error) from error
    if found != size:
        raise SOURCE.damaged(file, f"{found} bytes", f"{size} bytes", delete=file.parent)
    if start != header:
        expected = f"{header.hex()} (an idx file of shape {shape})"
        raise SOURCE.damaged(file, f"a header of {start.hex()}", expected, delete=file.parent)
    if checksum != SHA256[file.name]:
        raise SOURCE.damaged(file, f"SHA-256 {checksum}", f"{SHA256[file.name]}", delete=file.parent)


def _read_split(folder: Path, prefix: str) -> Split:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    labels = read_label_file(str(folder / f"{prefix}-labels-idx1-ubyte"))
    return Split(read_image_file(str(folder / f"{prefix}-images-idx3-ubyte"))[:, None], labels)


def _download(base: Path) -> None:
    from torchvision.datasets import MNIST

    archives = [file.relative_to(base) for file in (base / FOLDER).glob("*.gz")]
    SOURCE.download(base, [FOLDER / name for name in SHAPES], lambda to: MNIST(to, download=True), reuse=archives)
