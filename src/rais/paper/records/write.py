"""The record of a run, written as it goes: a tidy CSV, on disk at every evaluation, and what is needed to repeat it.

A run that is killed leaves `status: running` and at most one cut line; every other end is written down as it
happens. A resumed run goes on from the place in its files at which its checkpoint was written. wandb, when asked for,
mirrors the same numbers and is never the only copy.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from rais.paper.records.environment import environment
from rais.paper.records.find import folder_of
from rais.paper.records.layout import (
    AXES,
    CHECKPOINT,
    COMPLETE,
    EXAMPLES,
    KEPT,
    META,
    NORM_COLUMNS,
    NORMS,
    PART,
    RECORD,
    RECORD_COLUMNS,
    RecordError,
    check_whole,
    read_meta,
    replacing,
)
from rais.paper.settings import Config, arm, run_id


class Mirror(Protocol):
    """What is shown elsewhere while the run goes on; none of it may raise."""

    def write(self, axes: dict[str, float], metrics: dict[str, float]) -> None: ...

    def write_distribution(self, epoch: float, relative: NDArray) -> None: ...

    def finish(self, status: str) -> None: ...


class Record:
    """The record of one run, opened before anything costly happens.

    Args:
        cfg: the run's configuration.
        n: training examples.
        replayed: run_id of the replayed run, in replay mode.
        fingerprint: of the data, `Dataset.fingerprint()`; a run is resumed on the same data only.
        resumed: the `state_dict` of the record to go on with; None begins a new one, in place of what an unfinished
            run without a checkpoint left.
        mirror: makes a mirror from the meta data and the folder, before anything is written; None shows nothing.

    Raises:
        OSError: the folder cannot be written; the message names it and the cure.
        RecordError: the folder holds a complete run, even a damaged one, a record that nobody can tell, or files that
            are not those `resumed` was taken beside. Nothing in it is changed.
    """

    def __init__(
        self,
        cfg: Config,
        *,
        n: int,
        device: torch.device,
        replayed: str | None = None,
        fingerprint: str | None = None,
        resumed: dict[str, Any] | None = None,
        mirror: Callable[[dict[str, Any], Path], Mirror] | None = None,
    ) -> None:
        self.folder = folder_of(cfg, replayed)
        self.began = time.monotonic()  # Unlike the time of day, it is never set back.
        self.meta: dict[str, Any] = {
            "run_id": run_id(cfg, replayed),
            "task": cfg.task,
            "arm": arm(cfg),
            "variant": cfg.label or "",
            "seed": cfg.seed,
            "status": "running",
            "message": "",
            "config": {**asdict(cfg), "replayed": replayed},
            "n": n,
            "data_fingerprint": fingerprint,
            "command": shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
            **environment(device),
            "started": _now(),
            "finished": None,
            "duration_seconds": None,
            "resumed": [],
        }
        self.evaluations = 0
        self.earlier = 0.0  # seconds that the run took before it was resumed
        if resumed is None:
            self._refuse_to_replace()
        else:
            self._check(resumed)
        self._mirror = None if mirror is None else mirror(self.meta, self.folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if resumed is None:
                self._begin()
            else:
                self._go_on(resumed)
        except OSError as error:
            raise OSError(
                f"the record folder {self.folder} cannot be written ({error.strerror}): set `runs` to a folder that "
                "can, as in runs=elsewhere/runs"
            ) from error

    def write(self, axes: dict[str, float], metrics: dict[str, float]) -> None:
        """Append one evaluation: `axes` has the keys AXES, `metrics` any names. On disk when this returns."""
        position = tuple(axes[name] for name in AXES)
        self.evaluations += 1
        self._append(RECORD, [(*position, name, value) for name, value in metrics.items()])
        if self._mirror is not None:
            self._mirror.write(axes, metrics)

    def write_norms(
        self, epoch: float, examples: Iterable[int], loss_layer: Iterable[float], exact: Iterable[float]
    ) -> None:
        """Append per-example norms, loss-layer and exact, to norms.csv (diagnostic runs)."""
        rows = [(epoch, *row) for row in zip(examples, loss_layer, exact, strict=True)]
        self._append(NORMS, rows if (self.folder / NORMS).exists() else [NORM_COLUMNS, *rows])

    def write_examples(self, arrays: dict[str, NDArray]) -> None:
        """Put `arrays` in place of the last examples.npz (traced runs): floats as float32, integers as int32, bytes
        as they are. At any time the file on disk is a whole one."""
        with replacing(self.folder / EXAMPLES) as file:
            np.savez_compressed(file, **{name: _compact(array) for name, array in arrays.items()})

    @property
    def shows_distributions(self) -> bool:
        """Whether `write_distribution` leads anywhere, so that nothing is computed for it in vain."""
        return self._mirror is not None

    def write_distribution(self, epoch: float, relative: NDArray) -> None:
        """Show a histogram of log₁₀(n p) in the mirror; no local record holds it.

        Args:
            relative: n p_i of the training examples, shape (n,); examples with p_i = 0 are left out.
        """
        if self._mirror is not None:
            self._mirror.write_distribution(epoch, relative)

    def finish(self, status: str, message: str = "") -> None:
        """Write down how the run ended: done, diverged, interrupted or failed; with it the number of evaluations and
        the SHA-256 of record.csv, so that a reader can tell a whole record from a damaged one. A complete run needs
        no checkpoint any more."""
        self.meta.update(
            status=status,
            message=message,
            finished=_now(),
            duration_seconds=round(self._duration(), 1),
            evaluations=self.evaluations,
            record_sha256=hashlib.sha256((self.folder / RECORD).read_bytes()).hexdigest(),
        )
        self._write_meta()
        if status in COMPLETE:
            (self.folder / CHECKPOINT).unlink(missing_ok=True)
        if self._mirror is not None:
            self._mirror.finish(status)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs to go on with this record: the place in each file, with the SHA-256 up to there."""
        found = {name: (self.folder / name).read_bytes() for name in (RECORD, NORMS) if (self.folder / name).exists()}
        return {
            "data_fingerprint": self.meta["data_fingerprint"],
            "started": self.meta["started"],
            "resumed": self.meta["resumed"],
            "seconds": self._duration(),
            "evaluations": self.evaluations,
            "files": {name: [len(text), hashlib.sha256(text).hexdigest()] for name, text in found.items()},
        }

    def resume_at(self, iteration: int) -> None:
        """Write down that the run goes on from a checkpoint of that iteration."""
        self.meta["resumed"] = [*self.meta["resumed"], iteration]
        self._write_meta()

    def _refuse_to_replace(self) -> None:
        record = self.folder / RECORD
        try:
            meta = read_meta(self.folder)
        except RecordError:
            if record.is_file() and record.read_bytes().count(b"\n") > 1:
                raise
            return
        if meta["status"] in COMPLETE:
            check_whole(self.folder, meta)
            raise RecordError(f"{self.folder} holds a run that is {meta['status']}: delete the folder to run it again")

    def _check(self, state: dict[str, Any]) -> None:
        if state["data_fingerprint"] != self.meta["data_fingerprint"]:
            path = self.folder / CHECKPOINT
            raise RecordError(f"{path} was written with other data than there are now: delete it to start the run anew")
        for name, (length, checksum) in state["files"].items():
            path = self.folder / name
            content = path.read_bytes() if path.is_file() else b""
            if hashlib.sha256(content[:length]).hexdigest() != checksum:
                raise RecordError(
                    f"{path} is not the file that {CHECKPOINT} was written beside: delete {self.folder} to start anew"
                )

    def _begin(self) -> None:
        for name in KEPT:
            (self.folder / name).unlink(missing_ok=True)
            (self.folder / f"{name}{PART}").unlink(missing_ok=True)
        self._write_meta()
        self._append(RECORD, [RECORD_COLUMNS])

    def _go_on(self, state: dict[str, Any]) -> None:
        """Cut off what was written after the checkpoint: it is written again."""
        for name in (RECORD, NORMS):
            if name in state["files"]:
                os.truncate(self.folder / name, state["files"][name][0])
            else:
                (self.folder / name).unlink(missing_ok=True)
        try:
            told = read_meta(self.folder).get("resumed")
        except RecordError:  # A power cut may have taken it; the checkpoint knows what is needed.
            told = None
        self.meta.update(started=state["started"], resumed=state["resumed"] if told is None else told)
        self.earlier, self.evaluations = state["seconds"], state["evaluations"]

    def _duration(self) -> float:
        return self.earlier + time.monotonic() - self.began

    def _append(self, name: str, rows: Iterable[tuple]) -> None:
        with (self.folder / name).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
            file.flush()
            os.fsync(file.fileno())

    def _write_meta(self) -> None:
        with replacing(self.folder / META) as file:
            file.write((json.dumps(self.meta, indent=2, ensure_ascii=False) + "\n").encode())


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _compact(array: NDArray) -> NDArray:
    kinds = {"f": np.float32, "i": np.int32, "u": np.int32}
    array = np.asarray(array)
    return array if array.dtype == np.uint8 else array.astype(kinds.get(array.dtype.kind, array.dtype))
