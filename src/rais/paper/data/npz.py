"""`npz`: the user's own images, from a file that `numpy.savez` wrote: `task=npz data.path=FILE.npz`.

The file holds the arrays `x_train`, `y_train`, `x_test` and `y_test`. Shapes and types are brought to those of the
other data sets by the rules below; whatever they do not cover is refused, with the cure.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rais.paper.data.arrays import Dataset, Description, Split
from rais.paper.data.location import DataUnavailable

KEYS = ("x_train", "y_train", "x_test", "y_test")
BOMB_BYTES, BOMB_RATIO = 2**28, 100  # An array that is larger, and was packed more tightly, is not unpacked [ours].
ROUNDING = 1e-4  # How far outside [0, 1] a float counts as rounded: a fortieth of one of the 256 grey levels.
# What zipfile, zlib and NumPy's reader of headers raise on damaged or hostile members.
UNREADABLE = (
    *(ValueError, EOFError, KeyError, TypeError, OverflowError, MemoryError, RecursionError, RuntimeError),
    *(SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def read(path: str | Path | None = None) -> Dataset:
    """Read the data set in the file `path`: images uint8 (n, channels, size, size), labels int64 (n,).

    - Images are uint8, or floats in [0, 1], which become the nearest of 0..255 after multiplication by 255.
    - Their shape is (n, size, size), (n, size, size, channels) or (n, channels, size, size). Images are square, so
      the one of the last three lengths that differs is that of the channels; three equal ones are refused.
    - Labels are integers ≥ 0 of shape (n,) or (n, 1). There are as many classes as the largest label plus 1.

    Raises DataUnavailable, naming the file, the array, what was found and what to do, where `path` is None or no
    file of this kind, an array is missing, of another type or shape or with values out of range, lengths differ, or
    the two splits have images of different shapes.
    """
    file = _file(path)
    x_train, y_train, x_test, y_test = _arrays(file)
    train, test = _split(file, "train", x_train, y_train), _split(file, "test", x_test, y_test)
    expected, found = tuple(train.images.shape[1:]), tuple(test.images.shape[1:])
    if found != expected:
        cure = "bring the images of both splits to one shape"
        raise _wrong(file, "x_test", f"(channels, size, size) = {found}", f"{expected} as in x_train", cure)
    return Dataset("npz", train, test, _classes(file, train.labels, test.labels))


def describe(path: str | Path | None) -> Description:
    """Return what the headers and the labels of the file `path` tell. Raises DataUnavailable as `read` does."""
    file = _file(path)
    with _opened(file) as archive:
        headers = {key: _header(file, archive, key) for key in KEYS}
        y = [_labels(file, key, _array(file, archive, key, headers[key])) for key in ("y_train", "y_test")]
    shapes = [_channels_first(file, key, headers[key].shape) for key in ("x_train", "x_test")]
    for split, images, labels in zip(("train", "test"), shapes, y, strict=True):
        _check_lengths(file, split, images[0], len(labels))
    return Description(shapes[0][0], shapes[1][0], shapes[0][1], shapes[0][2], _classes(file, *y))


def fingerprint(path: str | Path | None) -> str:
    """Return the fingerprint of what is in the file `path`, whole. A file that has not changed is read once."""
    file = _file(path)
    try:
        status = file.stat()
    except OSError as error:
        raise DataUnavailable(f"{file} cannot be read ({error.strerror or error}); correct data.path") from error
    return _fingerprint(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1)
def _fingerprint(file: Path, changed: int, size: int) -> str:
    return read(file).fingerprint()


def _file(path: str | Path | None) -> Path:
    if path is None:
        raise DataUnavailable("task=npz reads the file that data.path names, and it is not set: add data.path=FILE.npz")
    return Path(path).expanduser()


def _arrays(file: Path) -> list[np.ndarray]:
    """Return the arrays of KEYS. Raises DataUnavailable where the file is no archive of NumPy's or lacks one.

    Sizes are compared before anything is unpacked, so that a small file cannot fill the memory.
    """
    with _opened(file) as archive:
        headers = {key: _header(file, archive, key) for key in KEYS}
        return [_array(file, archive, key, headers[key]) for key in KEYS]


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    cure = f"write it with numpy.savez({file.name!r}, {', '.join(f'{key}=...' for key in KEYS)})"
    try:
        with file.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise DataUnavailable(f"{file}: found no .npz archive, or a truncated one; {cure}")
            with zipfile.ZipFile(stream) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                if absent := [key for key in KEYS if key not in names]:
                    found = ", ".join(names) or "nothing"
                    raise DataUnavailable(f"{file}: found {found}, expected also {absent[0]}; {cure}")
                yield archive
    except FileNotFoundError:
        raise DataUnavailable(f"{file}: found no such file; correct data.path, or {cure}") from None
    except OSError as error:
        raise DataUnavailable(f"{file} cannot be read ({error.strerror or error}); correct data.path") from error
    except zipfile.BadZipFile as error:
        raise DataUnavailable(f"{file}: found a damaged .npz archive ({error}); {cure}") from error


class _Header(NamedTuple):
    shape: tuple[int, ...]
    dtype: np.dtype


def _header(file: Path, archive: zipfile.ZipFile, key: str) -> _Header:
    """Return the shape and type of an array, compared with the size of its member and what that is packed into."""
    member = archive.getinfo(_member(archive, key))
    if member.file_size > BOMB_BYTES and member.file_size > BOMB_RATIO * member.compress_size:
        found = f"{member.file_size / 1e9:.3g} GB packed into {member.compress_size / 1e6:.3g} MB"
        raise _wrong(file, key, found, f"at most {BOMB_RATIO} times as much", "write the file with numpy.savez")
    try:
        with archive.open(member) as stream:
            version = np.lib.format.read_magic(stream)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, dtype = read(stream)
            start = stream.tell()
    except UNREADABLE as error:
        raise _unreadable(file, key, error) from error
    if dtype.hasobject:
        raise _wrong(file, key, "Python objects", "numbers", "convert them to an array of numbers")
    promised = start + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or promised != member.file_size:
        found = f"a header of shape {shape} and type {dtype} on {member.file_size} bytes"
        raise _wrong(file, key, found, f"{promised} bytes of numbers", "write the file again with numpy.savez")
    return _Header(shape, dtype)


def _member(archive: zipfile.ZipFile, key: str) -> str:
    return f"{key}.npy" if f"{key}.npy" in archive.namelist() else key


def _array(file: Path, archive: zipfile.ZipFile, key: str, header: _Header) -> np.ndarray:
    try:
        with archive.open(_member(archive, key)) as stream:
            values = np.lib.format.read_array(stream, allow_pickle=False)
    except UNREADABLE as error:
        raise _unreadable(file, key, error) from error
    assert values.shape == header.shape
    return values


def _unreadable(file: Path, key: str, error: Exception) -> DataUnavailable:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return _wrong(file, key, f"what cannot be read ({reason})", "numbers", "write the file again")


def _split(file: Path, name: str, x: np.ndarray, y: np.ndarray) -> Split:
    images, labels = _images(file, f"x_{name}", x), _labels(file, f"y_{name}", y)
    _check_lengths(file, name, len(images), len(labels))
    return Split(images, labels)


def _check_lengths(file: Path, name: str, images: int, labels: int) -> None:
    if images != labels:
        raise _wrong(file, f"y_{name}", f"{labels} labels", f"{images}", f"give one per image of x_{name}")
    if images == 0:
        raise _wrong(file, f"x_{name}", "no images", "at least one", "give both splits some images")


def _images(file: Path, key: str, x: np.ndarray) -> Tensor:
    """Return x as uint8 (n, channels, size, size)."""
    shape = _channels_first(file, key, x.shape)
    if x.ndim == 4 and x.shape != shape:
        x = x.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(_as_uint8(file, key, x.reshape(shape))))


def _channels_first(file: Path, key: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return (n, channels, size, size) for images of this shape."""
    found = f"shape {shape}"
    if len(shape) == 3:
        shape = (shape[0], 1, *shape[1:])
    if len(shape) != 4:
        shapes = "(n, size, size), (n, size, size, channels) or (n, channels, size, size)"
        raise _wrong(file, key, found, shapes, "reshape it")
    n, a, b, c = shape
    if a == b == c:
        cure = "nothing tells its channels: for one channel give (n, size, size), else pad the images"
        raise _wrong(file, key, found, "one length that differs from the other two", cure)
    if a != b and b != c:
        raise _wrong(file, key, found, "square images", "crop, pad or resize them")
    return (n, a, b, c) if b == c else (n, c, a, b)


def _as_uint8(file: Path, key: str, x: np.ndarray) -> np.ndarray:
    if x.dtype == np.uint8:
        if x.size and x.max() <= 1:
            cure = "multiply them by 255, or give floats in [0, 1]: as they are, every image is black"
            raise _wrong(file, key, "uint8 of no other values than 0 and 1", "values in 0..255", cure)
        return x
    if not np.issubdtype(x.dtype, np.floating):
        cure = f"convert it, e.g. {key}.astype(numpy.uint8) where all values are in 0..255"
        raise _wrong(file, key, f"type {x.dtype}", "uint8, or floats in [0, 1]", cure)
    if x.size and not (-ROUNDING <= x.min() and x.max() <= 1 + ROUNDING):  # false for NaN, too
        cure = "rescale it, or convert values in 0..255 to uint8"
        raise _wrong(file, key, f"floats from {x.min():.9g} to {x.max():.9g}", "floats in [0, 1]", cure)
    grey = np.rint(x.clip(0, 1) * 255).astype(np.uint8)
    if grey.size and grey.max() <= 1:
        cure = "rescale it so that the brightest is near 1: as it is, every image is black"
        raise _wrong(file, key, f"floats up to {x.max():.3g}", "floats that fill [0, 1]", cure)
    return grey


def _labels(file: Path, key: str, y: np.ndarray) -> Tensor:
    """Return y as int64 (n,)."""
    if not np.issubdtype(y.dtype, np.integer):
        raise _wrong(file, key, f"type {y.dtype}", "integers", "number the classes from 0")
    if y.ndim != 1 and not (y.ndim == 2 and y.shape[1] == 1):
        raise _wrong(file, key, f"shape {y.shape}", "(n,) or (n, 1)", "give one label per image")
    if y.size and y.min() < 0:
        raise _wrong(file, key, f"label {y.min()}", "labels of 0 and more", "number the classes from 0")
    if y.size and y.max() > np.iinfo(np.int32).max:
        raise _wrong(file, key, f"label {y.max()}", "labels below the number of classes", "number the classes from 0")
    return torch.from_numpy(y.reshape(-1).astype(np.int64))


def _classes(file: Path, train: Tensor, test: Tensor) -> int:
    """Return the largest label plus 1. Raises DataUnavailable where this is more than there are examples."""
    classes, n = 1 + max(int(train.max()), int(test.max())), len(train) + len(test)
    if classes > n:
        found, cure = f"label {classes - 1}, hence {classes} classes", "number the classes from 0 without gaps"
        raise _wrong(file, "y_train or y_test", found, f"at most the {n} examples", cure)
    return classes


def _wrong(file: Path, key: str, found: str, expected: str, cure: str) -> DataUnavailable:
    return DataUnavailable(f"{file}, {key}: found {found}, expected {expected}; {cure}")
