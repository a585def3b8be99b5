"""`mnist`: 60 000 training and 10 000 test images of handwritten digits, in the order of the files.

Files that are there are read and never written; otherwise torchvision downloads them and compares its
checksums. Every file's size and header is checked before it is read, its labels after.
"""

from __future__ import annotations

import math
import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from http.client import HTTPException
from io import StringIO
from pathlib import Path

from rais.data.arrays import Dataset, Split
from rais.data.location import DataUnavailable, cure, root

FOLDER = Path("MNIST", "raw")
SHAPES = {
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}
CLASSES = 10
TIMEOUT = 10  # seconds without an answer before a mirror is given up


def read(path: str | Path | None = None) -> Dataset:
    """Read MNIST from `root(path)`/MNIST/raw, after downloading it there where none of its files is present.

    Images uint8 (n, 1, 28, 28), labels 0..9. Raises DataUnavailable where the download fails or its folder
    cannot be written, and where a file is missing, truncated, of another size or kind, unreadable, or has a
    label above 9.
    """
    base = root(path)
    folder = base / FOLDER
    if not any(os.path.lexists(folder / name) for name in SHAPES):
        _download(base)
    for name in SHAPES:
        _check_file(folder / name)
    return Dataset("mnist", _read_split(folder, "train"), _read_split(folder, "t10k"), CLASSES)


def _check_file(file: Path) -> None:
    """Raise DataUnavailable unless the idx file has the header and the size that its name promises."""
    shape = SHAPES[file.name]
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)  # zeros, 8 = uint8, axes, lengths
    size = len(header) + math.prod(shape)
    try:
        found = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(len(header))
    except FileNotFoundError:
        raise _damaged(file, "no such file", f"{size} bytes") from None
    except OSError as error:
        raise DataUnavailable(f"{file} cannot be read ({error.strerror}): {cure()}") from error
    if found != size:
        raise _damaged(file, f"{found} bytes", f"{size} bytes")
    if start != header:
        raise _damaged(file, f"a header of {start.hex()}", f"{header.hex()} (an idx file of shape {shape})")


def _read_split(folder: Path, prefix: str) -> Split:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    file = folder / f"{prefix}-labels-idx1-ubyte"
    labels = read_label_file(str(file))
    if int(labels.max()) >= CLASSES:
        raise _damaged(file, f"label {int(labels.max())}", f"labels 0 to {CLASSES - 1}")
    return Split(read_image_file(str(folder / f"{prefix}-images-idx3-ubyte"))[:, None], labels)


def _damaged(file: Path, found: str, expected: str) -> DataUnavailable:
    return DataUnavailable(
        f"{file}: found {found}, expected {expected}; delete the folder {file.parent} and fetch again "
        f"(python scripts/fetch_data.py mnist), or {cure()}"
    )


def _download(base: Path) -> None:
    """Let torchvision fetch and verify the files in a temporary folder, then move them into place."""
    from torchvision.datasets import MNIST

    folder = base / FOLDER
    try:
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mnist-", dir=base) as staging, _quiet_and_impatient():
            fetched = Path(staging) / FOLDER
            fetched.mkdir(parents=True)
            for archive in folder.glob("*.gz"):  # torchvision uses those whose checksum is right
                shutil.copy(archive, fetched)
            MNIST(staging, download=True)
            folder.mkdir(parents=True, exist_ok=True)
            for name in SHAPES:
                os.replace(fetched / name, folder / name)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise DataUnavailable(
            f"{base} holds no {FOLDER}, and mnist could not be downloaded into it ({reason}): {cure()}"
        ) from error


@contextmanager
def _quiet_and_impatient() -> Iterator[None]:
    """Drop what torchvision prints, and let no connection of its downloads wait longer than TIMEOUT."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
