"""Splits hand out the right examples, and refuse what is no labelled set of images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rais.paper.data.arrays import Dataset, Split

IMAGES, LABELS = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)


def split(n=6, labels=None, shape=(2, 3, 4)) -> Split:
    images = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))
    return Split(images, torch.arange(n) % 3 if labels is None else torch.tensor(labels))


def test_batch_holds_the_examples_asked_for_in_their_order():
    data = split()
    x, y = data.batch(torch.tensor([4, 0, 4]))
    expected = data.images.numpy()[[4, 0, 4]].astype(np.float32) / np.float32(255)
    assert x.dtype == torch.float32 and y.dtype == torch.int64
    np.testing.assert_array_equal(x.numpy(), expected)
    assert y.tolist() == [1, 0, 1]


def test_fingerprint_tells_every_change_from_none():
    def of(n=4, **changes):
        parts = {"train": split(n), "test": split(2), "name": "toy", **changes}
        return Dataset(parts["name"], parts["train"], parts["test"], 3).fingerprint()

    flipped, relabelled = split(4), split(4, labels=[0, 1, 2, 1])
    flipped.images[3, 1, 2, 3] ^= 1
    reshaped = Split(split(4).images.reshape(4, 2, 4, 3), split(4).labels)
    others = [{"train": flipped}, {"train": relabelled}, {"n": 3}, {"name": "other"}]
    others += [{"train": reshaped, "test": Split(split(2).images.reshape(2, 2, 4, 3), split(2).labels)}]
    assert of() == of()
    assert len({of(), *(of(**other) for other in others)}) == 1 + len(others)


def test_batch_spans_zero_to_one_and_is_float32_under_any_default_dtype():
    data = Split(torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1), torch.tensor([0, 1]))
    torch.set_default_dtype(torch.float64)
    try:
        x, _ = data.batch(torch.arange(2))
    finally:
        torch.set_default_dtype(torch.float32)
    assert x.dtype == torch.float32 and x.flatten().tolist() == [0.0, 1.0]


def test_changing_a_batch_leaves_the_split_unchanged():
    data = split()
    before = data.images.clone(), data.labels.clone()
    x, y = data.batch(torch.arange(6))
    x.zero_()
    y.zero_()
    assert torch.equal(data.images, before[0]) and torch.equal(data.labels, before[1])


@pytest.mark.parametrize("bad", [-1, 6, 10**9])
def test_index_out_of_range_names_it_and_n(bad):
    with pytest.raises(IndexError, match=rf"index {bad} is out of range: n = 6"):
        split().batch(torch.tensor([0, bad]))


def test_other_bad_indices_are_errors_too():
    with pytest.raises((IndexError, RuntimeError)):
        split().batch(torch.tensor([0.0, 1.0]))
    with pytest.raises((IndexError, RuntimeError)):
        split().batch(torch.tensor([[0, 1]]))


def test_first_keeps_the_leading_examples():
    data = split()
    part = data.first(2)
    assert len(part) == 2
    assert torch.equal(part.images, data.images[:2]) and part.labels.tolist() == [0, 1]
    assert len(data.first(6)) == 6


@pytest.mark.parametrize("n", [0, -1, 7])
def test_first_refuses_what_the_split_does_not_hold(n):
    with pytest.raises(ValueError, match=rf"{n} examples.*1 to 6"):
        split().first(n)


def test_to_moves_both_tensors():
    moved = split().to("meta")
    assert moved.images.device.type == moved.labels.device.type == "meta"


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.float(), LABELS, "images must be torch.uint8.*got torch.float32"),
        (IMAGES[:, 0], LABELS, r"images must be.*\(2, 4, 4\)"),
        (IMAGES, LABELS.float(), "labels must be torch.int64.*got torch.float32"),
        (IMAGES, LABELS[:, None], "labels must be"),
        (IMAGES, LABELS[:1], "2 images with 1 labels"),
        (IMAGES[:0], LABELS[:0], "at least one example"),
        (IMAGES, LABELS.to("meta"), "images on cpu, labels on meta"),
    ],
)
def test_split_refuses(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Split(images, labels)


@pytest.mark.parametrize("value", [-1, 3])
@pytest.mark.parametrize("where", ["train", "test"])
def test_dataset_names_the_split_and_the_label_out_of_range(where, value):
    splits = {"train": split(), "test": split()}
    splits[where] = split(3, labels=[0, value, 2])
    with pytest.raises(ValueError, match=rf"toy, {where} split: label {value} lies outside 0\.\.2"):
        Dataset("toy", **splits, classes=3)


def test_dataset_refuses_splits_of_different_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3, 4\).*\(1, 3, 4\)"):
        Dataset("toy", split(), split(shape=(1, 3, 4)), classes=3)


def test_values_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        split().labels = torch.zeros(6)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Dataset("toy", split(), split(), 3).classes = 4
