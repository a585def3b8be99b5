"""Where the record of a configuration lies, and the recorded run that another one replays."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

from rais.paper.records.layout import COMPLETE, META, RECORD, RecordError, arm_folder, check_whole, read_meta
from rais.paper.settings import Config, arm, run_id, slug


def folder_of(cfg: Config, replayed: str | None = None) -> Path:
    """Where the record of `cfg` lies, whether it exists or not; `replayed` is the run_id of the replayed run."""
    method = arm_folder(slug(arm(cfg)), cfg.label or "")
    return Path(cfg.runs) / slug(cfg.task) / method / f"seed{cfg.seed}-{run_id(cfg, replayed)}"


def find_complete(cfg: Config) -> Path | None:
    """The folder of the complete and whole record of `cfg`; None where there is none, or where the run it replays is
    not there yet, or is damaged."""
    try:
        replayed = find_replayed(cfg)
    except (FileNotFoundError, RecordError):
        return None
    folder = folder_of(cfg, replayed and read_meta(replayed)["run_id"])
    return folder if is_complete(folder) else None


def is_complete(folder: Path) -> bool:
    """Whether `folder` holds a run that is done or diverged, and the whole record of it."""
    try:
        meta = read_meta(folder)
        if meta["status"] not in COMPLETE:
            return False
        check_whole(folder, meta)
    except RecordError:
        return False
    return True


def find_replayed(cfg: Config) -> Path | None:
    """The folder of the run whose multipliers `cfg` replays; None where it replays none.

    Raises:
        FileNotFoundError: nothing, or more than one folder, matches `gain.record`, or what it matches is no run that
            is done.
        RecordError: the run that it matches is damaged.
    """
    if cfg.gain.mode != "replay":
        return None
    pattern = Path(cfg.gain.record)
    matches = [path for path in sorted(pattern.parent.glob(pattern.name)) if (path / META).is_file()]
    if len(matches) != 1:
        found = "nothing" if not matches else f"{len(matches)} runs ({', '.join(path.name for path in matches)})"
        raise FileNotFoundError(
            f"gain.record={cfg.gain.record} matches {found}, a replay needs one run: record it first with the same "
            "task, seed and sampler=rais, or set gain.record to a run's folder"
        )
    meta = read_meta(matches[0])
    if meta["status"] != "done":
        raise FileNotFoundError(
            f"gain.record={matches[0]} is a run with status {meta['status']}: a replay needs one that is done"
        )
    check_whole(matches[0], meta)
    return matches[0]


def read_multipliers(folder: Path) -> tuple[list[int], list[float]]:
    """Segment ends (iterations) and mean multipliers Δt̂/Δt between the evaluations of a recorded run.

    Raises:
        RecordError: the record cannot be read, or has no two evaluations.
    """
    meta = read_meta(folder)
    try:
        with (folder / RECORD).open(newline="", encoding="utf-8") as file:
            t_hat = {
                int(row["iteration"]): float(row["epochs_equivalent"]) * meta["n"] / meta["config"]["batch_size"]
                for row in csv.DictReader(file)
                if row["metric"] == "train_loss"
            }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{folder / RECORD} cannot be replayed ({error}): delete the folder and run again") from error
    iterations = sorted(t_hat)
    if len(iterations) < 2:
        raise RecordError(f"{folder / RECORD} has {len(iterations)} evaluations: a replay needs at least 2")
    steps = list(pairwise(iterations))
    return [end for _, end in steps], [(t_hat[end] - t_hat[start]) / (end - start) for start, end in steps]
