"""Data sets by name, the folder they lie in, and what is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from rais.paper import data
from rais.paper.data import Dataset, DataUnavailable, Split, load, location, root


@pytest.fixture
def toy(monkeypatch):
    split = Split(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.tensor([0, 1, 0, 1, 1]))
    monkeypatch.setitem(data.DATA_SETS, "toy", lambda path: Dataset("toy", split, split.first(2), 2))


def test_load_takes_the_first_training_examples_and_all_test_examples(toy):
    dataset = load("toy", n_train=3)
    assert dataset.train.images.flatten().tolist() == [0, 1, 2]
    assert len(dataset.test) == 2 and dataset.name == "toy" and dataset.classes == 2
    assert len(load("toy").train) == 5


def test_load_puts_both_splits_on_the_device(toy, monkeypatch):
    moved = []
    to = Split.to
    monkeypatch.setattr(Split, "to", lambda self, device: moved.append((len(self), device)) or to(self, "cpu"))
    load("toy", n_train=3, device="cuda:1")
    assert moved == [(3, "cuda:1"), (2, "cuda:1")]


@pytest.mark.parametrize("n_train", [6, 10**6])
def test_more_training_examples_than_there_are(toy, n_train):
    with pytest.raises(ValueError, match=rf"n_train={n_train}: toy has 5 training examples; give 1 to 5"):
        load("toy", n_train=n_train)


@pytest.mark.parametrize("n_train", [0, -3])
def test_no_training_examples(toy, n_train):
    with pytest.raises(ValueError, match=f"n_train={n_train}: give at least 1"):
        load("toy", n_train=n_train)


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown data set 'minst': choose one of cifar10, cifar100, digits, mnist"):
        load("minst")
    with pytest.raises(ValueError, match="choose one of cifar10, cifar100, digits, mnist"):
        data.folder("minst")


def test_root_is_the_variable_else_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAIS_DATA", str(tmp_path / "x"))
    (tmp_path / "x").mkdir()
    assert root() == tmp_path / "x"
    assert data.folder("mnist") == tmp_path / "x" / "MNIST" / "raw"
    for unset in ("", None):
        monkeypatch.setenv("RAIS_DATA", "") if unset == "" else monkeypatch.delenv("RAIS_DATA")
        assert root() == tmp_path / ".cache" / "rais"
    assert not (tmp_path / ".cache").exists()


def test_root_that_is_no_folder(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    for wrong in (file, tmp_path / "absent"):
        monkeypatch.setenv("RAIS_DATA", str(wrong))
        with pytest.raises(DataUnavailable, match=rf"RAIS_DATA={wrong} is not a folder.*task=digits"):
            load("mnist")
    with pytest.raises(DataUnavailable, match="path=.*is not a folder"):
        load("mnist", path=file)


def test_root_that_may_not_be_read(tmp_path, monkeypatch):
    monkeypatch.setenv("RAIS_DATA", str(tmp_path))
    monkeypatch.setattr(location.os, "access", lambda path, mode: Path(path) != tmp_path or not mode & os.R_OK)
    with pytest.raises(DataUnavailable, match="RAIS_DATA=.*without permission to read"):
        load("mnist")


def test_digits_need_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("RAIS_DATA", str(tmp_path / "absent"))
    assert len(load("digits", n_train=100).train) == 100
    assert data.folder("digits") is None


@pytest.mark.parametrize("name", ["digits", pytest.param("mnist", marks=pytest.mark.mnist)])
def test_description_is_that_of_the_loaded_data(name):
    dataset, known = data.load(name), data.describe(name)
    assert (known.n_train, known.n_test, known.classes) == (len(dataset.train), len(dataset.test), dataset.classes)
    assert (known.channels, known.size, known.size) == tuple(dataset.train.images.shape[1:])


def test_every_data_set_can_be_described_but_a_file_that_is_not_there():
    for name in data.DATA_SETS:
        if name != "npz":
            assert data.describe(name, n_train=7).n_train == 7
    with pytest.raises(ValueError, match="n_train=60001: mnist has 60000 training examples"):
        data.describe("mnist", n_train=60_001)
