"""SVHN from torchvision's .mat files, from Parquet files and by download, `train` before `extra`.

The tests write files of the real formats with a few images, and set the table of counts, and torchvision's table
of checksums, to match.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from torchvision.datasets import SVHN

from parquet_files import pictures, write_images
from rais.paper import data
from rais.paper.data import DataUnavailable, load, svhn

COUNTS = {"train": 12, "extra": 20, "test": 11}
IMAGES = {name: pictures(count, 32, seed=count) for name, count in COUNTS.items()}
LABELS = {name: [(3 * k) % 10 for k in range(count)] for name, count in COUNTS.items()}
CURE = r"fetch again \(python scripts/fetch_data.py svhn\), or set RAIS_DATA .*with svhn/.*task=digits"


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(svhn, "COUNTS", COUNTS)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RAIS_DATA", raising=False)


def write_mat(folder: Path, monkeypatch) -> Path:
    """Write the files that torchvision reads, the digit 0 as label 10, with their checksums in its table."""
    folder.mkdir(parents=True, exist_ok=True)
    table = {}
    for name, images in IMAGES.items():
        file = folder / f"{name}_32x32.mat"
        y = np.array([[label or 10] for label in LABELS[name]], np.uint8)
        scipy.io.savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": y}, do_compression=True)
        table[name] = [f"http://127.0.0.1:9/{file.name}", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(SVHN, "split_list", table)
    return folder


def write_parquet(folder: Path) -> Path:
    for name, images in IMAGES.items():
        write_images(folder / f"{name}-00000-of-00001.parquet", images, LABELS[name], image="image")
    return folder


def assert_right(base: Path) -> None:
    dataset = load("svhn", path=base)
    images = dataset.train.images.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(images, np.concatenate([IMAGES["train"], IMAGES["extra"]]))
    assert dataset.train.labels.tolist() == LABELS["train"] + LABELS["extra"]
    np.testing.assert_array_equal(dataset.test.images.permute(0, 2, 3, 1).numpy(), IMAGES["test"])
    assert dataset.test.labels.tolist() == LABELS["test"]
    assert dataset.train.images.dtype == torch.uint8 and dataset.train.images.is_contiguous()
    assert dataset.name == "svhn" and dataset.classes == 10


def test_real_counts(monkeypatch):
    monkeypatch.undo()
    assert svhn.COUNTS == {"train": 73_257, "extra": 531_131, "test": 26_032}
    assert sum(svhn.COUNTS[name] for name in svhn.SPLITS["train"]) == 604_388


@pytest.mark.parametrize("below", ["svhn", "."])
def test_mat_files_in_the_folder_or_beside_it(tmp_path, below, monkeypatch):
    write_mat(tmp_path / below, monkeypatch)
    before = sorted(tmp_path.rglob("*"))
    assert_right(tmp_path)
    assert data.folder("svhn", tmp_path) == tmp_path / below
    assert sorted(tmp_path.rglob("*")) == before


def test_parquet(tmp_path):
    write_parquet(tmp_path / "svhn")
    assert_right(tmp_path)
    assert data.folder("svhn", tmp_path) == tmp_path / "svhn"


def test_mat_files_go_before_parquet(tmp_path, monkeypatch):
    (write_parquet(tmp_path / "svhn") / "extra-00000-of-00001.parquet").write_bytes(b"broken")
    write_mat(tmp_path / "svhn", monkeypatch)
    assert_right(tmp_path)
    for file in (tmp_path / "svhn").glob("*.mat"):
        file.unlink()
    with pytest.raises(DataUnavailable, match=f"extra-00000-of-00001.parquet: found what cannot be read.*{CURE}"):
        load("svhn", path=tmp_path)


@pytest.mark.parametrize("name", COUNTS)
def test_changed_mat_file(tmp_path, name, monkeypatch):
    file = write_mat(tmp_path / "svhn", monkeypatch) / f"{name}_32x32.mat"
    expected = hashlib.md5(file.read_bytes()).hexdigest()
    file.write_bytes(file.read_bytes()[:-1])
    found = hashlib.md5(file.read_bytes()).hexdigest()
    message = rf"{file.name}: found MD5 {found}, expected MD5 {expected}; delete {file} and {CURE}"
    with pytest.raises(DataUnavailable, match=message):
        load("svhn", path=tmp_path)


def test_mat_file_with_another_number_of_images(tmp_path, monkeypatch):
    write_mat(tmp_path / "svhn", monkeypatch)
    monkeypatch.setattr(svhn, "COUNTS", {**COUNTS, "extra": 21})
    with pytest.raises(DataUnavailable, match=f"extra_32x32.mat: found 20 images, expected 21; .*{CURE}"):
        load("svhn", path=tmp_path)


def test_mat_file_that_may_not_be_read(tmp_path, monkeypatch):
    write_mat(tmp_path / "svhn", monkeypatch)

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(SVHN, "_check_integrity", refuse)
    with pytest.raises(DataUnavailable, match=r"train_32x32.mat cannot be read \(Permission denied\): set RAIS_DATA"):
        load("svhn", path=tmp_path)


def test_parquet_without_extra(tmp_path):
    (write_parquet(tmp_path / "svhn") / "extra-00000-of-00001.parquet").unlink()
    with pytest.raises(DataUnavailable, match=f"extra.parquet: found no such file.*{CURE}"):
        load("svhn", path=tmp_path)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Let torchvision's downloads copy from this folder, in place of the network; return it and what was fetched."""
    folder, fetched = write_mat(tmp_path / "served", monkeypatch), []

    def download(url, root, filename, md5):
        fetched.append(filename)
        Path(root).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / filename, Path(root) / filename)

    monkeypatch.setattr("torchvision.datasets.svhn.download_url", download)
    return folder, fetched


def test_download_of_all_files_and_of_the_missing_one(tmp_path, served):
    _, fetched = served
    assert_right(tmp_path / "served" / "..")  # nothing there yet
    assert sorted(fetched) == sorted(svhn.FILES.values())
    assert sorted(path.name for path in (tmp_path / "svhn").iterdir()) == sorted(svhn.FILES.values())
    fetched.clear()
    (tmp_path / "svhn" / "extra_32x32.mat").unlink()
    assert_right(tmp_path)
    assert fetched == ["extra_32x32.mat"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["served", "svhn"]


def test_corrupted_download_leaves_nothing(tmp_path, served):
    folder, _ = served
    (folder / "extra_32x32.mat").write_bytes(b"half of it")
    with pytest.raises(
        DataUnavailable, match="holds no svhn/train_32x32.mat, and svhn could not be downloaded.*corrupted"
    ):
        load("svhn", path=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["served"]


def test_no_network(tmp_path, capfd):
    with pytest.MonkeyPatch.context() as patched:
        table = {name: [f"http://127.0.0.1:9/{name}", f"{name}_32x32.mat", "0" * 32] for name in COUNTS}
        patched.setattr(SVHN, "split_list", table)
        with pytest.raises(DataUnavailable, match="holds no svhn/train_32x32.mat, and svhn could not be downloaded"):
            load("svhn", path=tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
