"""`digits`: scikit-learn's 1 797 handwritten digits, grown to 20 000 training and 5 000 test images.

They come with scikit-learn, so this task needs no download and no folder. The 1 797 are split before anything
else, then each side is resized to 28×28 and expanded by random rotation, scale, shear and shift, the same for
every run's seed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rais import rng
from rais.paper.data.arrays import Dataset, Split

TEST_ORIGINALS = 360
TRAIN_IMAGES, TEST_IMAGES = 20_000, 5_000
SIZE = 28
LARGEST_VALUE = 16  # of a pixel in scikit-learn's array
SEED = 0  # of the data set; the runs' seeds do not enter
ROTATION = math.radians(25)  # either way
SCALE = (0.75, 1.3)
SHEAR = 0.2  # horizontal displacement per vertical distance, either way
SHIFT = 0.2  # of half the image's width, per axis, either way
CHUNK = 1_000  # images transformed at a time: bounds the memory of the sampling grid


def build() -> Dataset:
    """Build the data set: images uint8 (n, 1, 28, 28), n = 20 000 and 5 000, ten classes.

    It takes about a second, and two more the first time for importing scikit-learn.

    The plain 1 437 training images are not used as they are, since a network fits them all within ten
    epochs, the gain ratio stays near 1.1 and no way of sampling can help [measured]. After expansion most
    examples are learned early and some are not, as in larger data sets. The ranges of the maps are this
    project's [ours]. An original and its copies are all in one split; the order is random, so the first n
    images are a fair subset. Writers were not kept apart, so the test error says little about new writers.
    """
    images, labels = _originals()
    train, test = _split(labels)
    return Dataset(
        "digits",
        train=_expand(images[train], labels[train], TRAIN_IMAGES, rng.generator(SEED, "digits/train")),
        test=_expand(images[test], labels[test], TEST_IMAGES, rng.generator(SEED, "digits/test")),
        classes=10,
    )


def _originals() -> tuple[Tensor, Tensor]:
    """Return all originals as float32 (1797, 1, 8, 8) in [0, 1], and their labels, int64 (1797,)."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = torch.from_numpy(source.images).float() / LARGEST_VALUE
    return images[:, None], torch.from_numpy(source.target).long()


def _split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return sorted indices of the training and of the test originals, each class in both by its share.

    Systematic sampling: originals are shuffled, sorted by class, then taken at equal intervals.
    """
    n = len(labels)
    shuffled = torch.randperm(n, generator=rng.generator(SEED, "digits/split"))
    by_class = shuffled[labels[shuffled].argsort(stable=True)]
    is_test = torch.zeros(n, dtype=torch.bool)
    is_test[by_class[(torch.arange(TEST_ORIGINALS) * 2 + 1) * n // (2 * TEST_ORIGINALS)]] = True
    return (~is_test).nonzero().flatten(), is_test.nonzero().flatten()


def _expand(images: Tensor, labels: Tensor, count: int, generator: torch.Generator) -> Split:
    """Return `count` distorted 28×28 copies, in random order, of originals (k, 1, 8, 8) in [0, 1].

    Every original is copied equally often, give or take one.
    """
    source = torch.randperm(count, generator=generator) % len(labels)
    maps = _affine_maps(count, generator)
    large = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    chunks = zip(source.split(CHUNK), maps.split(CHUNK), strict=True)
    return Split(torch.cat([_distort(large[index], some) for index, some in chunks]), labels[source])


def _affine_maps(count: int, generator: torch.Generator) -> Tensor:
    """Return random maps from output to input coordinates, both in [-1, 1]: float32 (count, 2, 3)."""
    u = torch.rand(count, 5, generator=generator)
    angle, shear, shift = (2 * u[:, 0] - 1) * ROTATION, (2 * u[:, 1] - 1) * SHEAR, (2 * u[:, 2:4] - 1) * SHIFT
    scale = SCALE[0] + (SCALE[1] - SCALE[0]) * u[:, 4]
    cos, sin = angle.cos() / scale, angle.sin() / scale
    linear = torch.stack((cos + shear * sin, sin - shear * cos, -sin, cos), dim=1).view(count, 2, 2)
    return torch.cat((linear, shift[:, :, None]), dim=2)


def _distort(images: Tensor, maps: Tensor) -> Tensor:
    """Return images (k, 1, 28, 28) in [0, 1], moved by maps (k, 2, 3), as uint8 0..255."""
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (moved * 255).round_().clamp_(0, 255).to(torch.uint8)
