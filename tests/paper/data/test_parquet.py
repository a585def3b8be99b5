"""Parquet files of encoded images: every published form is read alike, every fault is named."""

from __future__ import annotations

import io
import sys

import numpy as np
import pyarrow
import pytest
from PIL import Image

import parquet_files
from parquet_files import pictures, png, write_images, write_table
from rais.paper.data import DataUnavailable, parquet
from rais.paper.data.published import Published

SOURCE = Published("toy", "with toy/train.parquet")
CURE = r"delete .* and fetch again \(python scripts/fetch_data.py toy\), or set RAIS_DATA .* with toy/train.parquet"
IMAGES, LABELS = pictures(10, 5, seed=0), [3, 1, 4, 1, 0, 2, 2, 4, 3, 0]
MORE, MORE_LABELS = pictures(6, 5, seed=1), [0, 1, 2, 3, 4, 0]


@pytest.fixture(autouse=True)
def few_rows(monkeypatch):
    monkeypatch.setattr(parquet, "ROWS", 3)


def read(folder, counts=None, label="label"):
    images, labels = parquet.read(SOURCE, folder, counts or {"train": 10}, label=label, classes=5, size=5)
    return images.permute(0, 2, 3, 1).numpy(), labels.tolist()


def assert_right(folder, **options):
    images, labels = read(folder, **options)
    np.testing.assert_array_equal(images, IMAGES)
    assert labels == LABELS


@pytest.mark.parametrize("image", ["img", "image"])
def test_struct_of_bytes_and_path(tmp_path, image):
    write_images(tmp_path / "train.parquet", IMAGES, LABELS, image=image, label="fine_label")
    assert_right(tmp_path, label="fine_label")


@pytest.mark.parametrize("kind", [pyarrow.binary(), pyarrow.large_binary()])
@pytest.mark.parametrize("number", [pyarrow.uint8(), pyarrow.int32()])
def test_plain_bytes_and_small_integers(tmp_path, kind, number):
    cells = pyarrow.array([png(picture) for picture in IMAGES], kind)
    write_table(tmp_path / "train.parquet", {"label": pyarrow.array(LABELS, number), "image": cells, "more": LABELS})
    assert_right(tmp_path)


def test_result_has_the_types_of_a_split(tmp_path):
    write_images(tmp_path / "train.parquet", IMAGES, LABELS)
    images, labels = parquet.read(SOURCE, tmp_path, {"train": 10}, label="label", classes=5, size=5)
    assert (images.shape, images.dtype, labels.dtype) == ((10, 3, 5, 5), parquet.torch.uint8, parquet.torch.int64)


def test_shards_are_joined_in_the_order_of_their_numbers(tmp_path):
    for k in range(10):  # by name, the padded odd ones would come before the even ones
        name = f"train-{k:05d}-of-00010.parquet" if k % 2 else f"train-{k}-of-10.parquet"
        write_images(tmp_path / name, IMAGES[k : k + 1], LABELS[k : k + 1])
    write_images(tmp_path / "test-00000-of-00001.parquet", MORE, MORE_LABELS)
    assert_right(tmp_path)


def test_splits_are_joined_in_the_order_of_the_counts(tmp_path):
    write_images(tmp_path / "train.parquet", IMAGES, LABELS)
    write_images(tmp_path / "extra.parquet", MORE, MORE_LABELS)
    for counts in ({"train": 10, "extra": 6}, {"extra": 6, "train": 10}):
        images, labels = read(tmp_path, counts)
        parts = {"train": (IMAGES, LABELS), "extra": (MORE, MORE_LABELS)}
        np.testing.assert_array_equal(images, np.concatenate([parts[name][0] for name in counts]))
        assert labels == [label for name in counts for label in parts[name][1]]


def fails(folder, message, **options):
    with pytest.raises(DataUnavailable, match=message) as caught:
        read(folder, **options)
    assert "\n" not in str(caught.value)


def test_missing_file_and_missing_shard(tmp_path):
    fails(tmp_path, rf"train.parquet: found no such file, expected the images of the train split; {CURE}")
    write_images(tmp_path / "train-00000-of-00003.parquet", IMAGES, LABELS)
    write_images(tmp_path / "train-00002-of-00003.parquet", IMAGES, LABELS)
    fails(tmp_path, rf"train-00001-of-00003.parquet: found no such file, expected 3 shards.*{CURE}")


@pytest.mark.parametrize("count", [9, 11])
def test_another_number_of_images(tmp_path, count):
    write_images(tmp_path / "train.parquet", IMAGES, LABELS)
    found = "more than 9 images" if count == 9 else "10 images up to its end"
    fails(tmp_path, rf"train.parquet: found {found}, expected {count}; {CURE}", counts={"train": count})


@pytest.mark.parametrize("bad", [-1, 5])
def test_label_out_of_range(tmp_path, bad):
    write_images(tmp_path / "train.parquet", IMAGES, [*LABELS[:9], bad])
    fails(tmp_path, rf"train.parquet: found label {bad}, expected labels 0 to 4; {CURE}")


@pytest.mark.parametrize("keep", [0, 3, 200, -5])
def test_truncated_file(tmp_path, keep):
    file = write_images(tmp_path / "train.parquet", IMAGES, LABELS)
    file.write_bytes(file.read_bytes()[:keep])
    fails(tmp_path, rf"train.parquet: found what cannot be read \(.+\), expected a Parquet file; {CURE}")


def test_overwritten_pages(tmp_path):
    file = write_images(tmp_path / "train.parquet", IMAGES, LABELS)
    content = bytearray(file.read_bytes())
    content[4:60] = bytes(56)
    file.write_bytes(content)
    fails(tmp_path, rf"train.parquet: found what cannot be read \(.+\), expected a Parquet file; {CURE}")


def test_folder_in_the_place_of_a_file(tmp_path):
    (tmp_path / "train.parquet").mkdir()
    fails(tmp_path, rf"train.parquet: found what cannot be read \(.+\), expected a Parquet file; {CURE}")


def test_wrong_columns(tmp_path):
    file, cells = tmp_path / "train.parquet", [png(picture) for picture in IMAGES]
    write_table(file, {"picture": cells, "label": LABELS})
    fails(
        tmp_path, rf"found columns picture \(binary\), label \(int64\), expected encoded images in img or image; {CURE}"
    )
    write_table(file, {"img": [str(k) for k in LABELS], "label": LABELS})
    fails(tmp_path, r"found columns img \(string\), label \(int64\), expected encoded images in img or image")
    write_table(file, {"img": [{"path": "x"}] * 10, "label": LABELS})
    fails(tmp_path, r"found columns img \(struct<path: string>\).* expected encoded images")
    write_table(file, {"img": cells, "coarse_label": LABELS})
    fails(tmp_path, rf"found columns img \(binary\), coarse_label \(int64\), expected integers in label; {CURE}")
    write_table(file, {"img": cells, "label": [float(k) for k in LABELS]})
    fails(tmp_path, r"label \(double\), expected integers in label")


def test_columns_of_one_name(tmp_path):
    cells, numbers = pyarrow.array([png(picture) for picture in IMAGES]), pyarrow.array(LABELS)
    for names in (["img", "img", "label"], ["img", "label", "label"]):
        columns = [cells if name == "img" else numbers for name in names]
        pyarrow.parquet.write_table(pyarrow.table(columns, names=names), tmp_path / "train.parquet")
        twice = "img" if names.count("img") == 2 else "label"
        fails(tmp_path, rf"train.parquet: found columns .*, expected one column {twice}; {CURE}")


def test_numbers_of_shards_that_do_not_fit(tmp_path):
    write_images(tmp_path / "train-00000-of-00000.parquet", IMAGES, LABELS)
    assert_right(tmp_path)
    write_images(tmp_path / "train-00002-of-00001.parquet", IMAGES, LABELS)
    fails(tmp_path, r"train-00001-of-00003.parquet: found no such file, expected 3 shards of the train split")


def test_nothing_but_png_is_decoded(tmp_path):
    """PIL would hand an EPS to Ghostscript, a program that runs what is in the file."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 5\n%%EndComments\nshowpage\n%%EOF\n"
    jpeg = io.BytesIO()
    Image.fromarray(IMAGES[0]).save(jpeg, format="JPEG")
    for content in (eps, jpeg.getvalue()):
        cells = [content, *(png(picture) for picture in IMAGES[1:])]
        write_table(tmp_path / "train.parquet", {"img": cells, "label": LABELS})
        fails(tmp_path, rf"found what cannot be decoded \(.+\) as image 0, expected a PNG; {CURE}")


def test_empty_cells(tmp_path):
    cells = [png(picture) for picture in IMAGES]
    write_table(tmp_path / "train.parquet", {"img": cells, "label": [*LABELS[:9], None]})
    fails(tmp_path, rf"found empty cells in column label, expected none; {CURE}")
    write_table(tmp_path / "train.parquet", {"img": [*cells[:9], None], "label": LABELS})
    fails(tmp_path, rf"found empty cells in column img, expected none; {CURE}")
    structs = [{"bytes": cell if k else None, "path": "x"} for k, cell in enumerate(cells)]
    write_table(tmp_path / "train.parquet", {"img": structs, "label": LABELS})
    fails(tmp_path, rf"found what cannot be decoded \(.+\) as image 0, expected a PNG; {CURE}")


def test_image_that_cannot_be_decoded(tmp_path):
    whole = [png(picture) for picture in IMAGES]
    changed = bytearray(whole[7])
    changed[45:60] = bytes(15)  # inside the compressed pixels
    for bad in (b"", b"no image", whole[7][:60], whole[7][:20], bytes(changed)):
        write_table(tmp_path / "train.parquet", {"img": [*whole[:7], bad, *whole[8:]], "label": LABELS})
        fails(tmp_path, rf"train.parquet: found what cannot be decoded \(.+\) as image 7, expected a PNG; {CURE}")


def test_image_of_another_size_or_mode(tmp_path):
    whole = [png(picture) for picture in IMAGES]
    write_table(tmp_path / "train.parquet", {"img": [png(IMAGES[0][:4]), *whole[1:]], "label": LABELS})
    fails(tmp_path, rf"found 5x4 pixels of mode RGB as image 0, expected 5x5 of mode RGB; {CURE}")
    buffer = io.BytesIO()
    Image.fromarray(IMAGES[9][:, :, 0]).save(buffer, format="PNG")
    write_table(tmp_path / "train.parquet", {"img": [*whole[:9], buffer.getvalue()], "label": LABELS})
    fails(tmp_path, r"found 5x5 pixels of mode L as image 9, expected 5x5 of mode RGB")


def test_without_pyarrow(tmp_path, monkeypatch):
    write_images(tmp_path / "train.parquet", IMAGES, LABELS)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    fails(tmp_path, "train.parquet: reading Parquet needs pyarrow: pip install pyarrow")


def test_holds_sees_parquet_files_only(tmp_path):
    assert not parquet.holds(tmp_path / "absent")
    (tmp_path / "train.csv").write_text("")
    assert not parquet.holds(tmp_path)
    parquet_files.write_images(tmp_path / "test-00000-of-00001.parquet", MORE, MORE_LABELS)
    assert parquet.holds(tmp_path)
