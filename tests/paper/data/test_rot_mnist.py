"""Rotated MNIST: the rotation against exact fractions, the recipe on a toy MNIST, the checksum on the real one."""

from __future__ import annotations

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import torch

from rais.paper.data import Dataset, Split, load, mnist, rot_mnist
from rais.paper.data.rot_mnist import rotate


def pictures(n: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(size)
    return torch.randint(0, 256, (n, 1, size, size), dtype=torch.uint8, generator=generator)


def turned_exactly(image: np.ndarray, cos: Fraction, sin: Fraction) -> np.ndarray:
    """The image, uint8 (size, size), turned anticlockwise: one pixel after the other, in exact fractions."""
    size = len(image)
    centre = Fraction(size - 1, 2)
    result = np.zeros_like(image)
    for row in range(size):
        for column in range(size):
            right, up = column - centre, centre - row
            # A vector turned by the angle came from the one turned back by it.
            x, y = centre + cos * right + sin * up, centre - (cos * up - sin * right)
            value = Fraction(0)
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < size and 0 <= j < size:
                        value += (1 - abs(y - i)) * (1 - abs(x - j)) * int(image[i, j])
            result[row, column] = round(value)  # halves to even
    return result


def rounded(value: float, unit: int) -> Fraction:
    return Fraction(round(value * unit), unit)


@pytest.mark.parametrize("size", [6, 9])
@pytest.mark.parametrize("unit", [2**20, 2**4])  # the coarse one is seen in the pixels
def test_rotation_equals_the_one_in_exact_fractions(size, unit, monkeypatch):
    monkeypatch.setattr(rot_mnist, "UNIT", unit)
    images = pictures(12, size)
    angles = torch.linspace(0.1, 6.2, 12, dtype=torch.float64)
    turned = rotate(images, angles)
    assert turned.dtype == torch.uint8 and turned.shape == images.shape
    expected = [
        turned_exactly(image[0].numpy(), rounded(math.cos(angle), unit), rounded(math.sin(angle), unit))
        for image, angle in zip(images, angles.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(turned[:, 0].numpy(), np.stack(expected))


def test_rounding_of_sines_moves_few_values_and_none_by_more_than_one():
    images = pictures(4, 28)
    angles = torch.tensor([0.3, 1.9, 4.0, 5.5], dtype=torch.float64)
    expected = [
        turned_exactly(image[0].numpy(), Fraction(math.cos(angle)), Fraction(math.sin(angle)))
        for image, angle in zip(images, angles.tolist(), strict=True)
    ]
    difference = rotate(images, angles)[:, 0].int() - torch.from_numpy(np.stack(expected)).int()
    assert difference.abs().max() <= 1 and (difference != 0).float().mean() < 0.01


@pytest.mark.parametrize("size", [9, 28])
def test_quarter_turns_permute_the_pixels(size):
    images = pictures(8, size)
    turned = rotate(images, torch.arange(8, dtype=torch.float64) * math.pi / 2)
    for k in range(8):
        assert torch.equal(turned[k], torch.rot90(images[k], k, (1, 2)))


def test_images_of_several_chunks_are_rotated_as_by_themselves(monkeypatch):
    images, angles = pictures(7, 9), torch.linspace(0, 5, 7, dtype=torch.float64)
    whole = rotate(images, angles)
    monkeypatch.setattr(rot_mnist, "CHUNK", 3)
    assert torch.equal(rotate(images, angles), whole)


@pytest.fixture
def toy(monkeypatch):
    """MNIST with 3 000 images that carry their number, of which 2 000 and 500 are taken; return the angles used."""
    k = torch.arange(3_000)
    images = torch.zeros(3_000, 1, 28, 28, dtype=torch.uint8)
    images[:, 0, 13, 13], images[:, 0, 14, 14] = (k % 256).to(torch.uint8), (k // 256).to(torch.uint8)
    source = Dataset("mnist", Split(images[:2_500], k[:2_500] % 10), Split(images[2_500:], k[2_500:] % 10), 10)
    given = []
    monkeypatch.setattr(mnist, "read", lambda path: source)
    monkeypatch.setattr(rot_mnist, "TRAIN_IMAGES", 2_000)
    monkeypatch.setattr(rot_mnist, "TEST_IMAGES", 500)
    monkeypatch.setattr(rot_mnist, "rotate", lambda images, angles: given.append(angles) or images)
    return given


def test_examples_are_distinct_and_keep_their_labels_and_angles_are_uniform(toy):
    with pytest.warns(UserWarning, match="another data set than the recorded runs used"):
        dataset = load("rot_mnist")
    assert (len(dataset.train), len(dataset.test), dataset.classes, dataset.name) == (2_000, 500, 10, "rot_mnist")
    images = torch.cat((dataset.train.images, dataset.test.images)).long()
    k = images[:, 0, 13, 13] + 256 * images[:, 0, 14, 14]
    assert len(set(k.tolist())) == 2_500
    assert torch.equal(torch.cat((dataset.train.labels, dataset.test.labels)), k % 10)
    assert 380 < (k >= 2_500).sum() < 450, "not drawn from both files alike"  # 417 ± 8
    assert scipy.stats.kstest(toy[0].numpy(), "uniform", (0, math.tau)).pvalue > 1e-3


def test_two_loads_are_equal(toy):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        one, two = load("rot_mnist"), load("rot_mnist")
    assert torch.equal(one.train.images, two.train.images) and torch.equal(toy[0], toy[1])


def test_another_checksum_is_a_warning_that_names_both(toy, monkeypatch):
    monkeypatch.setattr(rot_mnist, "SHA256", "0" * 64)
    with pytest.warns(
        UserWarning, match=f"rot_mnist: its images and labels have SHA-256 [0-9a-f]{{64}}, expected {'0' * 64}"
    ):
        dataset = load("rot_mnist")
    images = torch.cat((dataset.train.images, dataset.test.images))
    labels = torch.cat((dataset.train.labels, dataset.test.labels))
    monkeypatch.setattr(rot_mnist, "SHA256", rot_mnist.checksum(images, labels))
    load("rot_mnist")  # a warning from rais would be an error here


def test_checksum_sees_every_image_and_label():
    images, labels = pictures(3, 4), torch.tensor([1, 2, 3])
    other = images.clone()
    other[2, 0, 3, 3] ^= 1
    sums = {rot_mnist.checksum(*pair) for pair in ((images, labels), (other, labels), (images, labels.flip(0)))}
    assert len(sums) == 3


@pytest.mark.mnist
def test_real_rotated_mnist_is_the_recorded_one():
    dataset = load("rot_mnist")
    assert dataset.train.images.shape == (12_000, 1, 28, 28) and dataset.test.images.shape == (50_000, 1, 28, 28)
    images = torch.cat((dataset.train.images, dataset.test.images))
    labels = torch.cat((dataset.train.labels, dataset.test.labels))
    assert rot_mnist.checksum(images, labels) == rot_mnist.SHA256
    assert labels.bincount().min() > 5_400 and labels.bincount().max() < 7_100
