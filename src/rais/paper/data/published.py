"""Published data sets: how their files are downloaded, and what is said about a file that is not right.

torchvision knows the addresses and the checksums and does the downloading, quietly, into a temporary folder from
which complete files are moved into place. An interrupted or broken download therefore leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from http.client import HTTPException
from io import StringIO
from pathlib import Path

from torch import Tensor

from rais.paper.data.location import DataUnavailable, cure

TIMEOUT = 10  # seconds without an answer before a mirror is given up


@dataclass(frozen=True)
class Published:
    """The data set `name`, looked for in a folder `layout`, e.g. "with MNIST/raw/train-images-idx3-ubyte"."""

    name: str
    layout: str

    def unreadable(self, file: Path, error: OSError) -> DataUnavailable:
        """Return the error for a file that is there and that the system does not let us read."""
        return DataUnavailable(f"{file} cannot be read ({error.strerror or error}): {cure(self.layout)}")

    def damaged(self, file: Path, found: str, expected: str, delete: Path) -> DataUnavailable:
        """Return the error for a file with other contents than expected: fetching again needs `delete` deleted."""
        return DataUnavailable(
            f"{file}: found {found}, expected {expected}; delete {delete} and fetch again "
            f"(python scripts/fetch_data.py {self.name}), or {cure(self.layout)}"
        )

    def check_labels(self, file: Path, labels: Tensor, classes: int, delete: Path) -> None:
        """Raise DataUnavailable, naming the file, unless all labels are in 0..classes-1."""
        for value in (int(labels.min()), int(labels.max())) if len(labels) else ():
            if not 0 <= value < classes:
                raise self.damaged(file, f"label {value}", f"labels 0 to {classes - 1}", delete)

    def download(
        self, base: Path, files: Sequence[Path], fetch: Callable[[Path], object], reuse: Sequence[Path] = ()
    ) -> None:
        """Let `fetch` fill a temporary folder in `base`, then move `files` into place; all paths are relative to it.

        Archives in `reuse` that lie in `base` are put before `fetch`, which takes those whose checksum is right.
        Raises DataUnavailable where the download fails or `base` cannot be written.
        """
        try:
            base.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{self.name}-", dir=base) as staging, _quiet_and_impatient():
                for archive in reuse:
                    if (base / archive).is_file():
                        (staging / archive).parent.mkdir(parents=True, exist_ok=True)
                        shutil.copy(base / archive, staging / archive)
                fetch(Path(staging))
                for file in files:
                    (base / file).parent.mkdir(parents=True, exist_ok=True)
                    os.replace(staging / file, base / file)
        except (OSError, RuntimeError, HTTPException) as error:
            reason = " ".join(str(error).split())
            raise DataUnavailable(
                f"{base} holds no {files[0]}, and {self.name} could not be downloaded into it ({reason}): "
                f"{cure(self.layout)}"
            ) from error


@contextmanager
def _quiet_and_impatient() -> Iterator[None]:
    """Drop what torchvision prints, and let no connection of its downloads wait longer than TIMEOUT."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        socket.setdefaulttimeout(before)
