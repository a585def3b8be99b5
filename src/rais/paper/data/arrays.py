"""A data set as tensors: images and labels of the training and the test split, whole, on one device.

Training indexes them in batches, so no loader, worker or copy between devices comes between a draw and a
step. Images are stored as uint8 and become float32 in [0, 1] when a batch is taken, and that is all the
normalisation there is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Description:
    """What is known of a data set before its images are decoded: numbers of examples, and the shape of an image."""

    n_train: int
    n_test: int
    channels: int
    size: int
    classes: int


@dataclass(frozen=True, eq=False)
class Split:
    """n labelled images: `images` uint8 (n, channels, height, width) in 0..255, `labels` int64 (n,).

    Raises ValueError where a dtype or shape differs, the lengths or devices differ, or n is 0.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        _check("images", self.images, torch.uint8, "n, channels, height, width")
        _check("labels", self.labels, torch.int64, "n")
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images with {len(self.labels)} labels: give one per image")
        if len(self.images) == 0:
            raise ValueError("a split needs at least one example, got none")
        if self.images.device != self.labels.device:
            raise ValueError(f"images on {self.images.device}, labels on {self.labels.device}: use one")

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str | torch.device) -> Split:
        """Return the split on `device`."""
        return Split(self.images.to(device), self.labels.to(device))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the m examples at `index`, int64 (m,), on the split's device: images x and labels y.

        x is float32 (m, channels, height, width), the stored value / 255; y is int64 (m,). An index given
        twice is an example given twice. Raises IndexError where an index lies outside 0..n-1, negative ones
        included; on a GPU, where looking would mean waiting, the device asserts instead.
        """
        try:
            return self.images.index_select(0, index).float().div_(255), self.labels.index_select(0, index)
        except (IndexError, RuntimeError) as error:
            _explain_index(index, len(self), error)
            raise

    def first(self, n: int) -> Split:
        """Return the first n examples, as views. Raises ValueError unless 1 ≤ n ≤ the split's length."""
        if not 1 <= n <= len(self):
            raise ValueError(f"{n} examples asked of a split that holds {len(self)}: give 1 to {len(self)}")
        return Split(self.images[:n], self.labels[:n])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named classification task: `train`, `test`, and the number of `classes` (labels are 0..classes-1).

    Raises ValueError where a label lies outside that range or the images of the two splits differ in shape.
    """

    name: str
    train: Split
    test: Split
    classes: int

    def __post_init__(self) -> None:
        for split, labels in (("train", self.train.labels), ("test", self.test.labels)):
            for value in (int(labels.min()), int(labels.max())):
                if not 0 <= value < self.classes:
                    raise ValueError(
                        f"{self.name}, {split} split: label {value} lies outside 0..{self.classes - 1}; "
                        "correct the labels or the number of classes"
                    )
        train, test = tuple(self.train.images.shape[1:]), tuple(self.test.images.shape[1:])
        if train != test:
            raise ValueError(f"{self.name}: training images are {train}, test images {test}: use one shape")

    def fingerprint(self) -> str:
        """Return the SHA-256 of shapes and values of images and labels, training split first, in hexadecimal.

        It does not depend on where the data came from or on the device. It reads everything: about a second a GB.
        """
        digest = hashlib.sha256(self.name.encode())
        for split in (self.train, self.test):
            for values in (split.images, split.labels):
                digest.update(str(tuple(values.shape)).encode())
                digest.update(values.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def _check(name: str, values: Tensor, dtype: torch.dtype, axes: str) -> None:
    if values.dtype != dtype or values.ndim != len(axes.split(",")):
        raise ValueError(f"{name} must be {dtype} of shape ({axes}), got {values.dtype} of shape {tuple(values.shape)}")


def _explain_index(index: Tensor, n: int, error: Exception) -> None:
    if index.device.type == "cpu" and index.dtype in (torch.int32, torch.int64):
        outside = index[(index < 0) | (index >= n)]
        if outside.numel():
            raise IndexError(f"example index {int(outside[0])} is out of range: n = {n}") from error
