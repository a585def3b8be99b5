"""`npz`: the user's own images, from a file that `numpy.savez` wrote: `data=npz data.path=FILE.npz`.

The file holds the arrays `x_train`, `y_train`, `x_test` and `y_test`. Shapes and types are brought to those of the
other data sets by the rules below; whatever they do not cover is refused, with the cure.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rais.paper.data.arrays import Dataset, Split
from rais.paper.data.location import DataUnavailable

KEYS = ("x_train", "y_train", "x_test", "y_test")


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
    if path is None:
        raise DataUnavailable("data=npz reads the file that data.path names, and it is not set: add data.path=FILE.npz")
    file = Path(path).expanduser()
    x_train, y_train, x_test, y_test = _arrays(file)
    train, test = _split(file, "train", x_train, y_train), _split(file, "test", x_test, y_test)
    expected, found = tuple(train.images.shape[1:]), tuple(test.images.shape[1:])
    if found != expected:
        cure = "bring the images of both splits to one shape"
        raise _wrong(file, "x_test", f"(channels, size, size) = {found}", f"{expected} as in x_train", cure)
    return Dataset("npz", train, test, _classes(file, train, test))


def _arrays(file: Path) -> list[np.ndarray]:
    """Return the arrays of KEYS. Raises DataUnavailable where the file is no archive of NumPy's or lacks one."""
    cure = f"write it with numpy.savez({file.name!r}, {', '.join(f'{key}=...' for key in KEYS)})"
    try:
        with file.open("rb") as stream:
            if not zipfile.is_zipfile(stream):
                raise DataUnavailable(f"{file}: found no .npz archive, or a truncated one; {cure}")
            stream.seek(0)
            archive = np.load(stream, allow_pickle=False)
            if absent := [key for key in KEYS if key not in archive.files]:
                found = ", ".join(archive.files) or "nothing"
                raise DataUnavailable(f"{file}: found {found}, expected also {absent[0]}; {cure}")
            return [_array(file, archive, key) for key in KEYS]
    except FileNotFoundError:
        raise DataUnavailable(f"{file}: found no such file; correct data.path, or {cure}") from None
    except OSError as error:
        raise DataUnavailable(f"{file} cannot be read ({error.strerror or error}); correct data.path") from error


def _array(file: Path, archive: np.lib.npyio.NpzFile, key: str) -> np.ndarray:
    try:
        values = archive[key]
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise _wrong(file, key, f"what cannot be read ({reason})", "numbers", "write the file again") from error
    if not isinstance(values, np.ndarray):
        raise _wrong(file, key, "bytes that are no array", "numbers", "write the file with numpy.savez")
    return values


def _split(file: Path, name: str, x: np.ndarray, y: np.ndarray) -> Split:
    images, labels = _images(file, f"x_{name}", x), _labels(file, f"y_{name}", y)
    if len(images) != len(labels):
        raise _wrong(file, f"y_{name}", f"{len(labels)} labels", f"{len(images)}", f"give one per image of x_{name}")
    if len(images) == 0:
        raise _wrong(file, f"x_{name}", "no images", "at least one", "give both splits some images")
    return Split(images, labels)


def _images(file: Path, key: str, x: np.ndarray) -> Tensor:
    """Return x as uint8 (n, channels, size, size)."""
    found = f"shape {x.shape}"
    if x.ndim == 3:
        x = x[:, None]
    if x.ndim != 4:
        shapes = "(n, size, size), (n, size, size, channels) or (n, channels, size, size)"
        raise _wrong(file, key, found, shapes, "reshape it")
    _, a, b, c = x.shape
    if a == b == c:
        cure = "nothing tells its channels: for one channel give (n, size, size), else pad the images"
        raise _wrong(file, key, found, "one length that differs from the other two", cure)
    if a != b and b != c:
        raise _wrong(file, key, found, "square images", "crop, pad or resize them")
    channels_first = x if b == c else x.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(_as_uint8(file, key, channels_first)))


def _as_uint8(file: Path, key: str, x: np.ndarray) -> np.ndarray:
    if x.dtype == np.uint8:
        return x
    if not np.issubdtype(x.dtype, np.floating):
        cure = f"convert it, e.g. {key}.astype(numpy.uint8) where all values are in 0..255"
        raise _wrong(file, key, f"type {x.dtype}", "uint8, or floats in [0, 1]", cure)
    if x.size and not (0 <= x.min() and x.max() <= 1):  # false for NaN, too
        cure = "rescale it, or convert values in 0..255 to uint8"
        raise _wrong(file, key, f"floats from {x.min():g} to {x.max():g}", "floats in [0, 1]", cure)
    return np.rint(x * 255).astype(np.uint8)


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


def _classes(file: Path, train: Split, test: Split) -> int:
    """Return the largest label plus 1. Raises DataUnavailable where this is more than there are examples."""
    classes, n = 1 + max(int(train.labels.max()), int(test.labels.max())), len(train) + len(test)
    if classes > n:
        found, cure = f"label {classes - 1}, hence {classes} classes", "number the classes from 0 without gaps"
        raise _wrong(file, "y_train or y_test", found, f"at most the {n} examples", cure)
    return classes


def _wrong(file: Path, key: str, found: str, expected: str, cure: str) -> DataUnavailable:
    return DataUnavailable(f"{file}, {key}: found {found}, expected {expected}; {cure}")
