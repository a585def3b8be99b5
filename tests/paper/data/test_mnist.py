"""MNIST from a folder and by download: what is read, and what is said about files that are not right.

The tests write idx files of 40 and 20 images of 3×3 pixels and set the table of expected shapes to match.
"""

from __future__ import annotations

import gzip
import hashlib
import http.server
import shutil
import struct
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from rais.paper.data import DataUnavailable, load, published
from rais.paper.data import mnist as module

SHAPES = {
    "train-images-idx3-ubyte": (40, 3, 3),
    "train-labels-idx1-ubyte": (40,),
    "t10k-images-idx3-ubyte": (20, 3, 3),
    "t10k-labels-idx1-ubyte": (20,),
}
MAGIC = {1: 2049, 3: 2051}
CURE = r"set RAIS_DATA .*task=digits"


def contents(name: str) -> np.ndarray:
    values = np.random.default_rng(sorted(SHAPES).index(name)).integers(0, 256, SHAPES[name], dtype=np.uint8)
    return values % 10 if "labels" in name else values


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">{1 + values.ndim}I", MAGIC[values.ndim], *values.shape) + values.tobytes()


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SHAPES", SHAPES)
    sums = {name: hashlib.sha256(idx(contents(name))).hexdigest() for name in SHAPES}
    monkeypatch.setattr(module, "SHA256", sums)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("RAIS_DATA", raising=False)
    offline(monkeypatch)


def offline(monkeypatch):
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", ["http://127.0.0.1:9/a/", "http://127.0.0.1:9/b/"])


def write(base: Path) -> Path:
    raw = base / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name in SHAPES:
        (raw / name).write_bytes(idx(contents(name)))
    return raw


def assert_right(dataset) -> None:
    for split, prefix in ((dataset.train, "train"), (dataset.test, "t10k")):
        np.testing.assert_array_equal(split.images[:, 0].numpy(), contents(f"{prefix}-images-idx3-ubyte"))
        np.testing.assert_array_equal(split.labels.numpy(), contents(f"{prefix}-labels-idx1-ubyte"))
    assert dataset.name == "mnist" and dataset.classes == 10


def test_real_sizes_are_those_of_the_published_files(monkeypatch):
    monkeypatch.undo()
    sizes = {name: 4 + 4 * len(shape) + int(np.prod(shape)) for name, shape in module.SHAPES.items()}
    assert sizes == {
        "train-images-idx3-ubyte": 47_040_016,
        "train-labels-idx1-ubyte": 60_008,
        "t10k-images-idx3-ubyte": 7_840_016,
        "t10k-labels-idx1-ubyte": 10_008,
    }


def test_reads_the_folder_of_the_environment_variable(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setenv("RAIS_DATA", str(tmp_path))
    assert_right(load("mnist"))


def test_path_goes_before_the_environment_variable(tmp_path, monkeypatch):
    write(tmp_path / "here")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("RAIS_DATA", str(tmp_path / "empty"))
    assert_right(load("mnist", path=str(tmp_path / "here")))


def test_reading_writes_nothing(tmp_path):
    write(tmp_path / "data")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    load("mnist", path=tmp_path / "data")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("change", [-5, 7])
def test_file_of_another_size(tmp_path, name, change):
    file = write(tmp_path) / name
    size = file.stat().st_size
    file.write_bytes((file.read_bytes() + b"\0" * 7)[: size + change])
    message = rf"{name}: found {size + change} bytes, expected {size} bytes.*{CURE}"
    with pytest.raises(DataUnavailable, match=message):
        load("mnist", path=tmp_path)


def test_empty_file(tmp_path):
    (write(tmp_path) / "train-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(DataUnavailable, match=r"train-labels-idx1-ubyte: found 0 bytes, expected 48 bytes"):
        load("mnist", path=tmp_path)


@pytest.mark.parametrize("name", SHAPES)
def test_missing_file_among_others(tmp_path, name):
    (write(tmp_path) / name).unlink()
    message = rf"{name}: found no such file.*delete .*raw and fetch again"
    with pytest.raises(DataUnavailable, match=message):
        load("mnist", path=tmp_path)


def test_file_of_the_right_size_and_another_kind(tmp_path):
    file = write(tmp_path) / "t10k-images-idx3-ubyte"
    file.write_bytes(b"\0" * file.stat().st_size)
    with pytest.raises(DataUnavailable, match=r"t10k-images-idx3-ubyte: found a header of 0000.*20, 3, 3"):
        load("mnist", path=tmp_path)


def test_file_that_cannot_be_read(tmp_path):
    file = write(tmp_path) / "train-images-idx3-ubyte"
    file.unlink()
    file.mkdir()
    with pytest.raises(DataUnavailable, match=rf"train-images-idx3-ubyte cannot be read.*{CURE}"):
        load("mnist", path=tmp_path)


@pytest.mark.parametrize("name", SHAPES)
def test_one_flipped_bit(tmp_path, name):
    file = write(tmp_path) / name
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    message = rf"{name}: found SHA-256 [0-9a-f]{{64}}, expected [0-9a-f]{{64}}; delete .*fetch again"
    with pytest.raises(DataUnavailable, match=message):
        load("mnist", path=tmp_path)


def test_no_network_is_one_clear_line_at_once_and_leaves_no_file(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("RAIS_DATA", str(tmp_path))
    start = time.perf_counter()
    with pytest.raises(DataUnavailable) as caught:
        load("mnist")
    assert time.perf_counter() - start < 10
    text = str(caught.value)
    assert f"{tmp_path} holds no MNIST/raw" in text and "could not be downloaded" in text and "\n" not in text
    assert f"set RAIS_DATA (now {tmp_path})" in text and "task=digits" in text
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_without_the_environment_variable_the_cache_is_tried(tmp_path):
    with pytest.raises(DataUnavailable, match=r"home/\.cache/rais holds no"):
        load("mnist")


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(published.tempfile, "TemporaryDirectory", refuse)
    with pytest.raises(DataUnavailable, match=rf"holds no MNIST/raw.*Permission denied.*{CURE}"):
        load("mnist", path=tmp_path)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Serve small archives, with their checksums in torchvision's table; return the served folder."""
    served = tmp_path / "served"
    served.mkdir()
    for name in SHAPES:
        (served / f"{name}.gz").write_bytes(gzip.compress(idx(contents(name))))
    archives = sorted(served.iterdir())
    resources = [(file.name, hashlib.md5(file.read_bytes()).hexdigest()) for file in archives]

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    yield served
    server.shutdown()
    server.server_close()


def test_download_fills_the_folder_quietly_and_is_not_repeated(tmp_path, mirror, monkeypatch, capfd):
    base = tmp_path / "data"
    base.mkdir()
    monkeypatch.setenv("RAIS_DATA", str(base))
    assert_right(load("mnist"))
    assert capfd.readouterr() == ("", "")
    assert sorted(path.name for path in (base / "MNIST" / "raw").iterdir()) == sorted(SHAPES)
    assert [path.name for path in base.iterdir()] == ["MNIST"]
    offline(monkeypatch)
    assert_right(load("mnist"))


def test_download_creates_the_cache(tmp_path, mirror):
    assert_right(load("mnist"))
    assert (tmp_path / "home/.cache/rais/MNIST/raw/t10k-labels-idx1-ubyte").is_file()


def test_broken_download_blocks_no_later_one(tmp_path, mirror):
    base = tmp_path / "data"
    base.mkdir()
    archive = mirror / "t10k-images-idx3-ubyte.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:50])
    with pytest.raises(DataUnavailable, match="could not be downloaded.*corrupted"):
        load("mnist", path=base)
    assert list(base.iterdir()) == []
    archive.write_bytes(whole)
    assert_right(load("mnist", path=base))


def test_archives_fetched_by_hand_need_no_network(tmp_path, mirror, monkeypatch):
    raw = tmp_path / "data" / "MNIST" / "raw"
    shutil.copytree(mirror, raw)
    offline(monkeypatch)
    assert_right(load("mnist", path=tmp_path / "data"))


@pytest.mark.mnist
def test_real_mnist(monkeypatch):
    monkeypatch.undo()
    data = load("mnist")
    assert data.train.images.shape == (60_000, 1, 28, 28) and data.test.images.shape == (10_000, 1, 28, 28)
    assert data.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    train, test = data.train.labels.bincount().tolist(), data.test.labels.bincount().tolist()
    assert train == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert test == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    x, _ = data.train.batch(torch.arange(60_000))
    assert abs(x.mean().item() - 0.1307) < 1e-4 and abs(x.std().item() - 0.3081) < 1e-4
