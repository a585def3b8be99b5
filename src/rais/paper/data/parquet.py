"""Image classification data sets in Parquet files, as public collections offer them: one row an image.

A split is `train.parquet`, or shards named `train-00000-of-00002.parquet` and so on. The image column holds
encoded images (PNG), as bytes or as a struct with a field `bytes`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rais.paper.data.location import DataUnavailable
from rais.paper.data.published import Published

IMAGE_COLUMNS = ("img", "image")
ROWS = 1_000  # decoded at a time: bounds the memory of the encoded images


def holds(folder: Path) -> bool:
    """Return whether any Parquet file lies in `folder`."""
    return any(folder.glob("*.parquet"))


def read(
    source: Published, folder: Path, counts: Mapping[str, int], *, label: str, classes: int, size: int
) -> tuple[Tensor, Tensor]:
    """Read splits, one after the other, into one pair of images (n, 3, size, size) uint8 and labels (n,) int64.

    `counts` holds the number of images of each split, n is their sum; `label` is the column of the labels. Raises
    DataUnavailable where a file is missing, truncated or unreadable, a column is missing or of another type, an
    image cannot be decoded or has another size or mode, a split has another number of images, or a label lies
    outside 0..classes-1. Decoding takes about 0.12 ms of a core per image [measured].
    """
    n = sum(counts.values())
    images, labels = np.empty((n, 3, size, size), np.uint8), np.empty(n, np.int64)
    start = 0
    for split, count in counts.items():
        part = slice(start, start + count)
        _fill(source, _files(source, folder, split), images[part], labels[part], label=label, classes=classes)
        start += count
    return torch.from_numpy(images), torch.from_numpy(labels)


def _fill(
    source: Published, files: list[Path], images: np.ndarray, labels: np.ndarray, *, label: str, classes: int
) -> None:
    """Write the rows of `files` into `images` (count, 3, size, size) and `labels` (count,), in place."""
    count, size, filled = len(images), images.shape[-1], 0
    for file in files:
        for encoded, their_labels in _batches(source, file, label):
            end = filled + len(encoded)
            if end > count:
                raise source.damaged(file, f"more than {count} images", f"{count}", delete=file.parent)
            for row, content in enumerate(encoded, start=filled):
                images[row] = _decode(source, file, row, content, size)
            source.check_labels(file, torch.from_numpy(their_labels), classes, delete=file.parent)
            labels[filled:end] = their_labels
            filled = end
    if filled != count:
        raise source.damaged(files[-1], f"{filled} images up to its end", f"{count}", delete=files[-1].parent)


def _files(source: Published, folder: Path, split: str) -> list[Path]:
    """Return the file of `split`, or its shards in their order. Raises DataUnavailable where one is missing."""
    whole = folder / f"{split}.parquet"
    matches = [re.fullmatch(rf"{split}-(\d+)-of-(\d+)\.parquet", file.name) for file in folder.glob("*.parquet")]
    shards = {int(match[1]): folder / match[0] for match in matches if match}
    if whole.exists():
        return [whole]
    if not shards:
        raise source.damaged(whole, "no such file", f"the images of the {split} split", delete=folder)
    total = max(max(int(match[2]) for match in matches if match), *(k + 1 for k in shards))
    if absent := [k for k in range(total) if k not in shards]:
        file = folder / f"{split}-{absent[0]:05d}-of-{total:05d}.parquet"
        raise source.damaged(file, "no such file", f"{total} shards of the {split} split", delete=folder)
    return [shards[k] for k in range(total)]


def _batches(source: Published, file: Path, label: str) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """Yield encoded images and int64 labels of `file`, at most ROWS at a time."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataUnavailable(f"{file}: reading Parquet needs pyarrow: pip install pyarrow") from error
    try:
        with pyarrow.parquet.ParquetFile(file) as opened:
            image = _check_columns(source, file, opened.schema_arrow, label)
            for batch in opened.iter_batches(ROWS, columns=[image, label]):
                for name in (image, label):
                    if batch.column(name).null_count:
                        raise source.damaged(file, f"empty cells in column {name}", "none", delete=file.parent)
                column = batch.column(image)
                encoded = column.field("bytes") if pyarrow.types.is_struct(column.type) else column
                yield encoded.to_pylist(), batch.column(label).to_numpy().astype(np.int64)
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise source.damaged(file, f"what cannot be read ({reason})", "a Parquet file", delete=file.parent) from error


def _check_columns(source: Published, file: Path, schema: Any, label: str) -> str:
    """Return the name of the image column. Raises DataUnavailable unless image and label have their types."""
    from pyarrow import types

    def is_binary(kind: Any) -> bool:
        return types.is_binary(kind) or types.is_large_binary(kind)

    def is_image(kind: Any) -> bool:
        return is_binary(kind) or (types.is_struct(kind) and any(f.name == "bytes" and is_binary(f.type) for f in kind))

    found = "columns " + ", ".join(f"{field.name} ({field.type})" for field in schema)
    if twice := [name for name in (*IMAGE_COLUMNS, label) if schema.names.count(name) > 1]:
        raise source.damaged(file, f"{found}", f"one column {twice[0]}", delete=file.parent)
    image = next((name for name in IMAGE_COLUMNS if name in schema.names and is_image(schema.field(name).type)), None)
    if image is None:
        expected = f"encoded images in {' or '.join(IMAGE_COLUMNS)}"
        raise source.damaged(file, found, expected, delete=file.parent)
    if label not in schema.names or not types.is_integer(schema.field(label).type):
        raise source.damaged(file, found, f"integers in {label}", delete=file.parent)
    return image


def _decode(source: Published, file: Path, row: int, content: bytes | None, size: int) -> np.ndarray:
    """Return an encoded RGB image as uint8 (3, size, size)."""
    from PIL import Image

    where = f"as image {row}"
    try:
        with Image.open(io.BytesIO(content or b""), formats=["PNG"]) as opened:
            found = f"{opened.width}x{opened.height} pixels of mode {opened.mode}"
            if (opened.width, opened.height, opened.mode) != (size, size, "RGB"):
                raise source.damaged(file, f"{found} {where}", f"{size}x{size} of mode RGB", delete=file.parent)
            return np.asarray(opened).transpose(2, 0, 1)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise source.damaged(file, f"what cannot be decoded ({reason}) {where}", "a PNG", delete=file.parent) from error
