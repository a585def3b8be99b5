"""Users' own arrays: every documented form is read alike, everything else is refused with a cure."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from rais.paper import data, models
from rais.paper.data import DataUnavailable, load, npz

RANDOM = np.random.default_rng(0)
GREY = {"x_train": RANDOM.integers(0, 256, (6, 5, 5), dtype=np.uint8), "y_train": np.array([0, 2, 1, 2, 0, 1])}
GREY |= {"x_test": RANDOM.integers(0, 256, (3, 5, 5), dtype=np.uint8), "y_test": np.array([1, 3, 0])}
COLOUR = {key: RANDOM.integers(0, 256, (len(x), 5, 5, 3), dtype=np.uint8) for key, x in GREY.items() if key[0] == "x"}
COLOUR = {**GREY, **COLOUR}


@pytest.fixture
def saved(tmp_path):
    def save(arrays=GREY, **changes) -> Path:
        np.savez(tmp_path / "own.npz", **{**arrays, **changes})
        return tmp_path / "own.npz"

    return save


def assert_images(split, expected) -> None:
    assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
    np.testing.assert_array_equal(split.images.numpy(), expected)


def test_grey_images(saved):
    dataset = load("npz", path=str(saved()))
    assert_images(dataset.train, GREY["x_train"][:, None])
    assert_images(dataset.test, GREY["x_test"][:, None])
    assert dataset.train.labels.tolist() == GREY["y_train"].tolist()
    assert dataset.test.labels.tolist() == GREY["y_test"].tolist()
    assert dataset.name == "npz" and dataset.classes == 4, "classes are counted over both splits"
    assert len(load("npz", path=saved(), n_train=2).train) == 2


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_channels_are_the_odd_one_out(saved, channels):
    arrays = {
        f"x_{split}": RANDOM.integers(0, 256, (n, 5, 5, channels), dtype=np.uint8)
        for split, n in (("train", 6), ("test", 3))
    }
    last = load("npz", path=saved(**arrays))
    assert_images(last.train, arrays["x_train"].transpose(0, 3, 1, 2))
    first = load("npz", path=saved(**{key: x.transpose(0, 3, 1, 2) for key, x in arrays.items()}))
    assert_images(first.train, arrays["x_train"].transpose(0, 3, 1, 2))
    assert_images(first.test, arrays["x_test"].transpose(0, 3, 1, 2))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
def test_floats_in_the_unit_interval_return_to_their_integers(saved, dtype):
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    scaled = (levels / 255).astype(dtype)
    dataset = load("npz", path=saved(x_train=scaled, y_train=[0], x_test=levels, y_test=[1]))
    assert_images(dataset.train, levels[:, None])
    assert_images(dataset.test, levels[:, None])


def test_floats_go_to_the_nearest_integer(saved):
    x = np.array([0.4, 0.6, 100.49, 254.51]).reshape(1, 2, 2) / 255
    dataset = load("npz", path=saved(x_train=x, y_train=[0], x_test=x, y_test=[1]))
    assert dataset.train.images.flatten().tolist() == [0, 1, 100, 255]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64, ">i4"])
@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_labels_of_any_integer_type(saved, dtype, shape):
    y = {key: GREY[key].astype(dtype).reshape(shape) for key in ("y_train", "y_test")}
    assert load("npz", path=saved(**y)).train.labels.tolist() == GREY["y_train"].tolist()


def test_compressed_file_with_more_arrays(tmp_path):
    np.savez_compressed(tmp_path / "own.npz", **COLOUR, note=np.array("mine"))
    assert load("npz", path=tmp_path / "own.npz").train.images.shape == (6, 3, 5, 5)


def test_home_folder_is_expanded(saved, monkeypatch):
    monkeypatch.setenv("HOME", str(saved().parent))
    assert len(load("npz", path="~/own.npz").train) == 6


def fails(path, message) -> None:
    with pytest.raises(DataUnavailable, match=message) as caught:
        load("npz", path=path)
    assert "\n" not in str(caught.value)


def test_no_path():
    fails(None, "data.path names, and it is not set: add data.path=FILE.npz")
    assert data.folder("npz") is None


CURE = r"write it with numpy.savez\('own.npz', x_train=..., y_train=..., x_test=..., y_test=...\)"


def test_no_such_file(tmp_path):
    fails(tmp_path / "own.npz", f"own.npz: found no such file; correct data.path, or {CURE}")


def test_folder(tmp_path):
    fails(tmp_path, r"cannot be read \(Is a directory\); correct data.path")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 no archive either"])
def test_other_file(tmp_path, content):
    (tmp_path / "own.npz").write_bytes(content)
    fails(tmp_path / "own.npz", f"own.npz: found no .npz archive, or a truncated one; {CURE}")


def test_single_array(tmp_path):
    with (tmp_path / "own.npz").open("wb") as stream:
        np.save(stream, GREY["x_train"])
    fails(tmp_path / "own.npz", f"found no .npz archive, or a truncated one; {CURE}")


def test_truncated_archive(saved):
    file = saved()
    file.write_bytes(file.read_bytes()[:-30])
    fails(file, f"found no .npz archive, or a truncated one; {CURE}")


def test_changed_archive(saved):
    file = saved()
    content = bytearray(file.read_bytes())
    start = content.index(GREY["x_train"].tobytes()[:20])
    content[start] ^= 1
    file.write_bytes(content)
    fails(
        file, r"own.npz, x_train: found what cannot be read \(Bad CRC-32 .*\), expected numbers; write the file again"
    )


@pytest.mark.parametrize("key", GREY)
def test_missing_array(tmp_path, key):
    np.savez(tmp_path / "own.npz", **{name: value for name, value in GREY.items() if name != key})
    others = ", ".join(name for name in GREY if name != key)
    fails(tmp_path / "own.npz", f"own.npz: found {others}, expected also {key}; {CURE}")


def test_archive_without_arrays(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.npz", "w"):
        pass
    fails(tmp_path / "own.npz", "found nothing, expected also x_train")


def test_member_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        for key in GREY:
            archive.writestr(key, b"text")
    fails(tmp_path / "own.npz", r"x_train: found what cannot be read \(.*magic string.*\), expected numbers")


def test_object_array_is_not_unpickled(saved):
    file = saved(y_train=np.array([0, 1, "two", 0, 1, 2], dtype=object))
    fails(file, "y_train: found Python objects, expected numbers; convert them")


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, bool, np.complex64, "U1"])
def test_images_of_another_type(saved, dtype):
    file = saved(x_test=np.ones((3, 5, 5)).astype(dtype))
    fails(
        file,
        rf"x_test: found type {np.dtype(dtype)}, expected uint8, or floats in \[0, 1\]; convert it, e.g. x_test.ast",
    )


def packed(file: Path, key: str, content: bytes) -> Path:
    """A sound archive, but for the member `key`, which holds `content`."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in GREY.items():
            buffer = io.BytesIO()
            np.save(buffer, values)
            archive.writestr(f"{name}.npy", content if name == key else buffer.getvalue())
    return file


def header(text: str, body: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    line = text.encode() + b"\n"
    return b"\x93NUMPY" + version + len(line).to_bytes(2 if version[0] == 1 else 4, "little") + line + body


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,)}",
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**70},)}}",
        f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**40}, {2**40})}}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-6, -5, 5)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 5, 6)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': 'none'}",
        "{'descr': '<f9', 'fortran_order': False, 'shape': (6, 5, 5)}",
        "__import__('os').mkdir('broken_in')",
        "{'descr': '|u1', 'shape': __import__('os').mkdir('broken_in')}",
        "(" * 5_000,
        "",
    ],
)
@pytest.mark.parametrize("version", [b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"])
@pytest.mark.parametrize("key", ["x_train", "y_test"])
def test_hostile_header(tmp_path, monkeypatch, text, version, key):
    monkeypatch.chdir(tmp_path)
    file = packed(tmp_path / "own.npz", key, header(text, bytes(150), version))
    for read in (lambda path, message: fails(path, message), lambda path, message: fails_to_describe(path, message)):
        read(file, rf"own.npz, {key}: found (what cannot be read \(.+\)|a header of shape .+ bytes), expected .*")
    assert not (tmp_path / "broken_in").exists()


def fails_to_describe(path, message) -> None:
    with pytest.raises(DataUnavailable, match=message) as caught:
        data.describe("npz", path=path)
    assert "\n" not in str(caught.value)


def test_zip_bomb_is_not_unpacked(tmp_path):
    n = 2**28
    bomb = header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({n}, 1, 1)}}") + bytes(n)
    file = packed(tmp_path / "own.npz", "x_train", bomb)
    assert file.stat().st_size < n / 500
    fails(file, r"own.npz, x_train: found 0.268 GB packed into 0.26\d MB, expected at most 100 times as much")


def test_uint8_images_of_zeros_and_ones(saved):
    message = r"x_train: found uint8 of no other values than 0 and 1, expected values in 0..255; multiply them by 255"
    fails(saved(x_train=GREY["x_train"] // 128), message)
    fails(saved(x_train=GREY["x_train"] / 255**2), r"x_train: found floats up to 0.003\d+, expected floats that fill")


def test_floats_that_rounding_put_outside_of_the_interval(saved):
    x = GREY["x_train"] / 255
    x[0, 0, 0], x[1, 0, 0] = 1.0000001, -1e-7
    images = load("npz", path=saved(x_train=x)).train.images
    assert (images[0, 0, 0, 0], images[1, 0, 0, 0]) == (255, 0)
    x[0, 0, 0] = 1.001
    fails(saved(x_train=x), r"x_train: found floats from -1e-07 to 1.001, expected floats in \[0, 1\]; rescale it")


def test_description_is_that_of_the_data(saved, monkeypatch):
    for arrays in (GREY, COLOUR):
        dataset, known = load("npz", path=saved(arrays)), data.describe("npz", path=saved(arrays))
        assert (known.n_train, known.n_test, known.classes) == (6, 3, dataset.classes)
        assert (known.channels, known.size, known.size) == tuple(dataset.train.images.shape[1:])
    assert data.describe("npz", path=saved(), n_train=2).n_train == 2


def test_fingerprint_is_that_of_the_content_not_of_the_file(saved, tmp_path):
    one = npz.fingerprint(saved())
    assert one == load("npz", path=saved()).fingerprint()
    np.savez_compressed(tmp_path / "other.npz", **{**GREY, "x_train": GREY["x_train"][:, None]})
    assert npz.fingerprint(tmp_path / "other.npz") == one
    assert npz.fingerprint(saved(y_test=np.array([1, 3, 1]))) != one
    with pytest.raises(DataUnavailable, match="absent.npz cannot be read"):
        npz.fingerprint(tmp_path / "absent.npz")


@pytest.mark.parametrize("bad", [-0.01, 1.01, 255, np.inf, np.nan])
def test_floats_out_of_range(saved, bad):
    x = np.full((6, 5, 5), 0.5)
    x[3, 2, 2] = bad
    fails(
        saved(x_train=x), r"x_train: found floats from \S+ to \S+, expected floats in \[0, 1\]; rescale it, or convert"
    )


def test_shapes_that_are_no_square_images(saved):
    fails(saved(x_train=np.zeros((6, 25), np.uint8)), r"x_train: found shape \(6, 25\), expected \(n, size, size\), .*")
    fails(saved(x_train=np.zeros((6, 5, 4), np.uint8)), r"found shape \(6, 5, 4\), expected square images; crop, pad")
    fails(saved(x_train=np.zeros((6, 5, 4, 3), np.uint8)), r"found shape \(6, 5, 4, 3\), expected square images")
    fails(saved(x_train=np.zeros((6, 3, 5, 3), np.uint8)), r"found shape \(6, 3, 5, 3\), expected square images")
    for shape in ((6, 3, 3, 3), (6, 1, 1)):
        fails(
            saved(x_train=np.zeros(shape, np.uint8)), "expected one length that differs .* nothing tells its channels"
        )


def test_splits_with_different_images(saved):
    file = saved(x_test=COLOUR["x_test"])
    fails(file, r"x_test: found \(channels, size, size\) = \(3, 5, 5\), expected \(1, 5, 5\) as in x_train; bring")


def test_labels_of_another_type_or_shape(saved):
    fails(saved(y_test=np.array([0.0, 1.0, 2.0])), "y_test: found type float64, expected integers; number the classes")
    fails(saved(y_test=np.array(["a", "b", "c"])), "y_test: found type <U1, expected integers")
    for shape in ((3, 2), (1, 3), (), (3, 1, 1)):
        message = r"y_test: found shape \(.*\), expected \(n,\) or \(n, 1\); give one label per image"
        fails(saved(y_test=np.zeros(shape, int)), message)


def test_labels_out_of_range(saved):
    fails(saved(y_test=np.array([0, -1, 2])), "y_test: found label -1, expected labels of 0 and more")
    fails(
        saved(y_test=np.array([0, 9, 2])),
        "y_train or y_test: found label 9, hence 10 classes, expected at most the 9 ex",
    )
    huge = np.array([0, 2**64 - 1, 2], dtype=np.uint64)
    fails(saved(y_test=huge), f"y_test: found label {2**64 - 1}, expected labels below the number of classes")


def test_lengths(saved):
    fails(saved(y_train=np.zeros(5, int)), "y_train: found 5 labels, expected 6; give one per image of x_train")
    empty = {"x_test": np.zeros((0, 5, 5), np.uint8), "y_test": np.zeros(0, int)}
    fails(saved(**empty), "x_test: found no images, expected at least one")


def test_lenet5_takes_them_or_says_which_size_it_takes(saved):
    x = {"x_train": np.full((6, 32, 32, 3), 9, np.uint8), "x_test": np.full((3, 32, 32, 3), 9, np.uint8)}
    dataset = load("npz", path=saved(**x))
    channels, size, _ = dataset.train.images.shape[1:]
    model = models.build("lenet5", channels=channels, classes=dataset.classes, size=size, seed=0)
    assert model(dataset.train.batch(torch.arange(6))[0]).shape == (6, 4)
    with pytest.raises(ValueError, match="lenet5 takes 28x28 or 32x32 pixels, not 5x5: resize the images"):
        models.build("lenet5", channels=3, classes=4, size=load("npz", path=saved()).train.images.shape[-1], seed=0)
