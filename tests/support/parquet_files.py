"""Small Parquet files of encoded images, in the forms in which public collections offer them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image


def pictures(n: int, size: int, seed: int) -> np.ndarray:
    """Random images, uint8 (n, size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()


def write_table(file: Path, columns: dict[str, object]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), file, row_group_size=4)
    return file


def write_images(
    file: Path, images: np.ndarray, labels: Sequence[int], *, image: str = "img", label: str = "label"
) -> Path:
    """Write images (n, size, size, 3) as Hugging Face does: a struct of the PNG and its path."""
    cells = [{"bytes": png(picture), "path": f"{k}.png"} for k, picture in enumerate(images)]
    return write_table(file, {image: cells, label: list(labels)})
