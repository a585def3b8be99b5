"""The expanded digits: counts, balance, determinism, and no original on both sides of the split."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rais import rng
from rais.paper.data import digits as module
from rais.paper.data.digits import build


@pytest.fixture(scope="module")
def dataset():
    return build()


def test_counts_shapes_and_types(dataset):
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (20_000, 5_000, 10)
    for split in (dataset.train, dataset.test):
        assert split.images.shape[1:] == (1, 28, 28) and split.images.dtype == torch.uint8


def test_classes_are_balanced(dataset):
    for split in (dataset.train, dataset.test):
        share = split.labels.bincount(minlength=10) / len(split)
        assert share.min() > 0.09 and share.max() < 0.11


def test_first_images_are_a_fair_subset(dataset):
    share = dataset.train.first(2000).labels.bincount(minlength=10) / 2000
    assert share.min() > 0.07 and share.max() < 0.13


def test_intensity_is_plausible(dataset):
    for split in (dataset.train, dataset.test):
        mean = split.images.float().mean() / 255
        assert 0.25 < mean < 0.35
        lit = split.images.float().mean(dim=(1, 2, 3)) / 255
        assert lit.min() > 0.05, "an image was moved out of the frame"
        assert split.images.max() == 255 and split.images.min() == 0


def test_images_are_all_different(dataset):
    rows = np.concatenate([dataset.train.images.flatten(1).numpy(), dataset.test.images.flatten(1).numpy()])
    assert len({row.tobytes() for row in rows}) == 25_000


def test_two_builds_are_equal_whatever_the_global_generator_holds(dataset):
    state = torch.get_rng_state()
    with rng.seeded(99, "init"):
        again = build()
    assert torch.equal(state, torch.get_rng_state())
    for one, two in ((dataset.train, again.train), (dataset.test, again.test)):
        assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)


def test_no_original_is_in_both_splits(monkeypatch):
    given = []
    expand = module._expand

    def recording(images, labels, count, generator):
        given.append((images, labels))
        return expand(images, labels, 10, generator)

    monkeypatch.setattr(module, "_expand", recording)
    module.build()
    (train, train_labels), (test, test_labels) = given
    assert (len(train), len(test)) == (1437, 360)
    seen = [{image.numpy().tobytes() for image in images} for images in (train, test)]
    assert not seen[0] & seen[1]

    from sklearn.datasets import load_digits

    source = load_digits()
    everything = {image.tobytes() for image in (source.images / 16).astype(np.float32)}
    assert seen[0] | seen[1] == everything
    share = test_labels.bincount(minlength=10) / torch.from_numpy(np.bincount(source.target))
    assert (share - 360 / 1797).abs().max() < 0.01, "not stratified"
    assert (train_labels.bincount() + test_labels.bincount()).tolist() == np.bincount(source.target).tolist()


def test_each_original_is_copied_equally_often_and_keeps_its_label():
    levels = torch.linspace(0.2, 1, 7).view(7, 1, 1, 1).expand(7, 1, 8, 8)
    split = module._expand(levels, torch.arange(7), 100, rng.generator(0, "test"))
    assert sorted(split.labels.bincount().tolist()) == [14] * 5 + [15] * 2
    centre = split.images[:, 0, 14, 14]  # every map keeps the frame over the centre
    assert torch.equal(centre, (levels[split.labels, 0, 0, 0] * 255).round().to(torch.uint8))


def test_maps_are_inverses_of_rotation_scale_and_shear_within_their_ranges():
    maps = module._affine_maps(2000, rng.generator(0, "test")).double().numpy()
    forward = np.linalg.inv(maps[:, :, :2])
    scale = np.sqrt(np.linalg.det(forward))
    assert 0.75 <= scale.min() < 0.76 and 1.29 < scale.max() <= 1.3
    angle = np.degrees(np.arctan2(forward[:, 1, 0], forward[:, 0, 0]))  # shear keeps it
    assert 24.5 < np.abs(angle).max() <= 25.001 and abs(angle.mean()) < 1
    shift = maps[:, :, 2]
    assert 0.19 < np.abs(shift).max() <= module.SHIFT and np.abs(shift.mean(axis=0)).max() < 0.02


def test_identity_map_returns_the_image():
    images = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    same = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(3, 2, 3)
    difference = module._distort(images, same).float() - images * 255
    assert difference.abs().max() <= 0.501
