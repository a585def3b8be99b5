"""CIFAR-10 and CIFAR-100 from torchvision's folder, from Parquet files and by download.

The tests write files of the real formats with 50 and 10 images, and set the table of counts, and torchvision's
table of checksums, to match.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from parquet_files import pictures, write_images
from rais.paper import data
from rais.paper.data import DataUnavailable, cifar, load

COUNTS = {"train": 50, "test": 10}
IMAGES = {split: pictures(count, 32, seed=len(split)) for split, count in COUNTS.items()}
KINDS = {"cifar10": CIFAR10, "cifar100": CIFAR100}
NAMES = pytest.mark.parametrize("name", KINDS)


def labels(name: str, split: str) -> list[int]:
    classes = {"cifar10": 10, "cifar100": 100}[name]
    return [(7 * k + len(split)) % classes for k in range(COUNTS[split])]


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(cifar, "COUNTS", COUNTS)
    monkeypatch.setattr(cifar, "SUMS", {})
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAIS_DATA", raising=False)
    for kind in KINDS.values():
        monkeypatch.setattr(kind, "url", f"http://127.0.0.1:9/{kind.filename}")


def cure(name: str) -> str:
    return (
        rf"fetch again \(python scripts/fetch_data.py {name}\), or set RAIS_DATA .* {name}/train.parquet .*task=digits"
    )


def write_parquet(base: Path, name: str) -> Path:
    for split in COUNTS:
        column = "label" if name == "cifar10" else "fine_label"
        write_images(base / name / f"{split}.parquet", IMAGES[split], labels(name, split), label=column)
    return base / name


def write_torchvision(base: Path, name: str, monkeypatch) -> Path:
    """Write the pickles that torchvision reads, with their checksums in its tables; return their folder."""
    kind = KINDS[name]
    folder = base / kind.base_folder
    folder.mkdir(parents=True)
    key = "labels" if name == "cifar10" else "fine_labels"

    def checksum(file: str, content: dict) -> str:
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    for split, table in (("train", "train_list"), ("test", "test_list")):
        files = [file for file, _ in getattr(kind, table)]
        rows = np.array_split(IMAGES[split].transpose(0, 3, 1, 2).reshape(COUNTS[split], -1), len(files))
        cells = np.array_split(labels(name, split), len(files))
        sums = [checksum(file, {"data": x, key: y.tolist()}) for file, x, y in zip(files, rows, cells, strict=True)]
        monkeypatch.setattr(kind, table, [list(pair) for pair in zip(files, sums, strict=True)])
    file, words = kind.meta["filename"], kind.meta["key"]
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": checksum(file, {words: ["a", "b"]})})
    return folder


def assert_right(name: str, base: Path) -> None:
    dataset = load(name, path=base)
    for split in COUNTS:
        part = getattr(dataset, split)
        np.testing.assert_array_equal(part.images.permute(0, 2, 3, 1).numpy(), IMAGES[split])
        assert part.labels.tolist() == labels(name, split)
        assert part.images.dtype == torch.uint8 and part.images.is_contiguous() and part.labels.dtype == torch.int64
    assert dataset.name == name and dataset.classes == {"cifar10": 10, "cifar100": 100}[name]


def test_real_counts(monkeypatch):
    monkeypatch.undo()
    assert cifar.COUNTS == {"train": 50_000, "test": 10_000}


def test_sum_of_hashes_by_hand_and_in_any_order():
    split = data.Split(torch.from_numpy(IMAGES["test"]).permute(0, 3, 1, 2).contiguous(), torch.arange(10))
    rows = [hashlib.sha256(x.numpy().tobytes() + bytes([k])).hexdigest() for k, x in enumerate(split.images)]
    total = f"{sum(int(row, 16) for row in rows) % 2**256:064x}"
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    assert cifar.sum_of_hashes(split) == total
    assert cifar.sum_of_hashes(data.Split(split.images[order], split.labels[order])) == total
    assert cifar.sum_of_hashes(data.Split(split.images, split.labels[order])) != total


def test_parquet_with_a_flipped_bit_is_refused_whatever_its_order(tmp_path, monkeypatch):
    here = write_parquet(tmp_path, "cifar10")
    sums = {("cifar10", split): cifar.sum_of_hashes(getattr(load("cifar10", path=tmp_path), split)) for split in COUNTS}
    monkeypatch.setattr(cifar, "SUMS", sums)
    assert_right("cifar10", tmp_path)
    write_images(here / "train.parquet", IMAGES["train"][::-1], labels("cifar10", "train")[::-1])
    assert len(load("cifar10", path=tmp_path).train) == 50
    changed = IMAGES["train"].copy()
    changed[17, 3, 3, 0] ^= 1
    write_images(here / "train.parquet", changed, labels("cifar10", "train"))
    with pytest.raises(DataUnavailable, match=rf"train images and labels whose hashes .*{cure('cifar10')}"):
        load("cifar10", path=tmp_path)


@NAMES
def test_parquet(tmp_path, name):
    write_parquet(tmp_path, name)
    assert_right(name, tmp_path)
    assert data.folder(name, tmp_path) == tmp_path / name


@NAMES
def test_torchvision(tmp_path, name, monkeypatch):
    folder = write_torchvision(tmp_path, name, monkeypatch)
    assert_right(name, tmp_path)
    assert data.folder(name, tmp_path) == folder


@NAMES
def test_reading_writes_nothing(tmp_path, name, monkeypatch):
    write_parquet(tmp_path / "one", name)
    write_torchvision(tmp_path / "two", name, monkeypatch)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    load(name, path=tmp_path / "one")
    load(name, path=tmp_path / "two")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_torchvisions_folder_goes_before_parquet(tmp_path, monkeypatch):
    (write_parquet(tmp_path, "cifar10") / "train.parquet").write_bytes(b"broken")
    folder = write_torchvision(tmp_path, "cifar10", monkeypatch)
    assert_right("cifar10", tmp_path)
    shutil.rmtree(folder)
    with pytest.raises(DataUnavailable, match="train.parquet: found what cannot be read"):
        load("cifar10", path=tmp_path)


@NAMES
def test_parquet_faults_name_the_file_and_the_cure(tmp_path, name):
    folder = write_parquet(tmp_path, name)
    (folder / "test.parquet").unlink()
    with pytest.raises(DataUnavailable, match=rf"test.parquet: found no such file.*delete .*{name} and {cure(name)}"):
        load(name, path=tmp_path)
    column = "label" if name == "cifar10" else "fine_label"
    write_images(folder / "test.parquet", IMAGES["train"], labels(name, "train"), label=column)
    with pytest.raises(DataUnavailable, match=rf"test.parquet: found more than 10 images, expected 10; .*{cure(name)}"):
        load(name, path=tmp_path)
    classes = {"cifar10": 10, "cifar100": 100}[name]
    write_images(folder / "test.parquet", IMAGES["test"], [classes] * 10, label=column)
    with pytest.raises(DataUnavailable, match=f"found label {classes}, expected labels 0 to {classes - 1}"):
        load(name, path=tmp_path)


@NAMES
def test_torchvision_file_missing_or_changed(tmp_path, name, monkeypatch):
    folder = write_torchvision(tmp_path, name, monkeypatch)
    files = [file for file, _ in [*KINDS[name].train_list, *KINDS[name].test_list]] + [KINDS[name].meta["filename"]]
    for file in files:
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(whole[:-1])
        found = hashlib.md5(whole[:-1]).hexdigest()
        expected = hashlib.md5(whole).hexdigest()
        message = rf"{folder.name}/{file}: found MD5 {found}, expected MD5 {expected}; delete .* and {cure(name)}"
        with pytest.raises(DataUnavailable, match=message):
            load(name, path=tmp_path)
        (folder / file).unlink()
        with pytest.raises(
            DataUnavailable, match=rf"{folder.name}/{file}: found no such file, expected MD5 {expected}"
        ):
            load(name, path=tmp_path)
        (folder / file).write_bytes(whole)
    assert_right(name, tmp_path)


def test_torchvision_file_that_may_not_be_read(tmp_path, monkeypatch):
    write_torchvision(tmp_path, "cifar10", monkeypatch)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(CIFAR10, "_check_integrity", refuse)
    with pytest.raises(
        DataUnavailable, match=r"cifar-10-batches-py cannot be read \(Permission denied\): set RAIS_DATA"
    ):
        load("cifar10", path=tmp_path)


@NAMES
def test_nothing_there_and_no_network(tmp_path, name, capfd):
    with pytest.raises(DataUnavailable) as caught:
        load(name, path=tmp_path)
    text = str(caught.value)
    assert f"{tmp_path} holds no {KINDS[name].base_folder}" in text and "could not be downloaded" in text
    assert f"{name}/train.parquet" in text and "task=digits" in text and "\n" not in text
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@NAMES
def test_archive_fetched_by_hand_is_unpacked_and_checked(tmp_path, name, monkeypatch, capfd):
    kind, folder = KINDS[name], write_torchvision(tmp_path / "made", name, monkeypatch)
    archive = tmp_path / "data" / kind.filename
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(folder, kind.base_folder)
    with pytest.raises(DataUnavailable, match="could not be downloaded"):  # not the checksum of torchvision's table
        load(name, path=tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == [archive]
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert_right(name, tmp_path / "data")
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == sorted([kind.filename, kind.base_folder])
    assert sorted(os.listdir(tmp_path / "data" / kind.base_folder)) == sorted(os.listdir(folder))
    assert capfd.readouterr() == ("", "")
