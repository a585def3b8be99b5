"""The layout of a run's folder: the names of its files, their columns, and whether what it holds is whole.

    <root>/<task>/<arm>[@<variant>]/seed<k>-<run_id>/{meta.json, record.csv[, norms.csv][, examples.npz]}

While a run is in progress, `checkpoint.pt` and `run.lock` lie beside these files. Everything that writes, reads or
looks for records takes the names from here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

META, RECORD, NORMS, EXAMPLES = "meta.json", "record.csv", "norms.csv", "examples.npz"
CHECKPOINT, LOCK = "checkpoint.pt", "run.lock"
PART = ".part"  # of a file that is being written, to take the place of the one without it
KEPT = (RECORD, META, NORMS, EXAMPLES)  # the files of a finished run

COMPLETE = ("done", "diverged")
STATUSES = ("running", "done", "diverged", "interrupted", "failed")
AXES = ("iteration", "examples", "epoch", "epochs_equivalent", "seconds")
RECORD_COLUMNS = (*AXES, "metric", "value")
NORM_COLUMNS = ("epoch", "example", "loss_layer", "exact")
EXAMPLE_ARRAYS = ("drawn", "labels", "epoch", "norms", "index", "images")

ARMS = (
    "uniform",
    "oracle",
    "smoothed_0",
    "smoothed_0.001",
    "smoothed_0.01",
    "smoothed_0.1",
    "smoothed_0.3",
    "rais",
    "rais_spaced",
    "rais_multiplier_off",
    "rais_multiplier_root",
    "uniform_rais_multiplier",
    "uniform_with_replacement",
)

META_TYPES = {
    **{name: str for name in ("task", "arm", "run_id", "status", "message", "command")},
    **{name: int for name in ("seed", "n")},
    **{name: dict for name in ("config", "hardware")},
}


class RecordError(ValueError):
    """A record that cannot be read or told from another one; the text names the folder and the cure."""


def arm_folder(arm: str, variant: str) -> str:
    """Name of the folder that holds the runs of `arm`, or of its `variant` where that is not empty."""
    return f"{arm}@{variant}" if variant else arm


def run_folders(root: Path) -> list[Path]:
    """The folders three levels below `root`, sorted: one a run."""
    return sorted(path for path in root.glob("*/*/*") if path.is_dir())


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which then takes the place of `path`: at any time, power cuts included, a whole one is there."""
    partial = path.with_name(f"{path.name}{PART}")
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_meta(folder: Path) -> dict[str, Any]:
    """The meta.json of a run's folder.

    Raises:
        RecordError: it is missing, cannot be read, or is not that of a run.
    """
    path = folder / META
    if not path.is_file():
        raise RecordError(f"{folder} has no {META}, so it is no run: delete the folder, or move it out of the records")
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read ({error}): delete the folder and run it again") from error
    if not isinstance(meta, dict):
        raise RecordError(f"{path} holds no settings of a run: delete the folder and run it again")
    for name, kind in META_TYPES.items():
        if type(meta.get(name)) is not kind:
            raise RecordError(f"{path} has no {name!r} of type {kind.__name__}: delete the folder and run it again")
    if meta["status"] not in STATUSES:
        raise RecordError(f"{path} has status {meta['status']!r}, none of {', '.join(STATUSES)}: delete the folder")
    return meta


def check_whole(folder: Path, meta: dict[str, Any]) -> None:
    """Hold a complete run's record.csv against the number of evaluations and the checksum in its meta.json.

    Raises:
        RecordError: record.csv is missing, or is not the one that was finished.
    """
    path = folder / RECORD
    cure = f"delete the folder and run again: {meta['command']}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read ({error}) although the run is {meta['status']}: {cure}") from error
    if (checksum := meta.get("record_sha256")) is None:
        return _check_without_checksum(path, content, meta, cure)
    if hashlib.sha256(content).hexdigest() != checksum:
        raise RecordError(f"{path} is not the record that was finished, its checksum differs: {cure}")
    iterations = {line.split(b",", 1)[0] for line in content.splitlines()[1:]}
    if len(iterations) != meta.get("evaluations"):
        found = f"{len(iterations)} evaluations, {META} says {meta.get('evaluations')}"
        raise RecordError(f"{path} has {found}: {cure}")


def _check_without_checksum(path: Path, content: bytes, meta: dict[str, Any], cure: str) -> None:
    """For records from before the checksum: the last line is whole and, of a run that is done, at the end of its
    budget."""
    lines = content.split(b"\n")
    if lines[-1]:
        raise RecordError(f"{path} cannot be read (the last line is cut off although the run is complete): {cure}")
    if meta["status"] != "done" or "twice" in meta["message"]:
        return
    try:
        end, budget = float(lines[-2].split(b",")[3]), float(meta["config"]["epochs"])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise RecordError(f"{path} cannot be read ({error}): {cure}") from error
    if end < budget:
        raise RecordError(f"{path} ends at {end:g} of {budget:g} epochs although the run is done: {cure}")
