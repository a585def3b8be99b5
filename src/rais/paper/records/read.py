"""Read the folders that runs leave behind.

A record root holds one folder a run, as layout.py has it; columns and units are listed in results/README.md. `load`
leaves out every folder that is no whole run, and names it, checks the others against each other and returns data
frames, so that statistics and figures never touch a file.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rais.paper.records.layout import (
    ARMS,
    AXES,
    COMPLETE,
    EXAMPLE_ARRAYS,
    EXAMPLES,
    META,
    NORM_COLUMNS,
    NORMS,
    RECORD,
    RECORD_COLUMNS,
    RecordError,
    arm_folder,
    check_whole,
    read_meta,
    run_folders,
)

X_COLUMNS = list(AXES)
RUN_KEYS = ["task", "arm", "variant", "seed", "run_id"]
RECORD_TYPES = {"iteration": "int64", "examples": "int64", "metric": str}
NORM_TYPES = {"example": "int64"}


@dataclass(frozen=True)
class Records:
    """What the runs under `root` left behind.

    runs: one row a run: task, arm, variant ("" for a headline run), seed, run_id, status, message, n (training
        examples), batch_size, epochs (budget, epochs equivalent), target_loss (nats, nan for none),
        duration_seconds, started, finished (Unix seconds, nan for a run that has not ended), cpu, threads, gpu ("" if
        none), command, commit, dirty, folder (relative to root),
        core_share (process CPU time / wall-clock of the timed region; nan where unknown), diagnostic, traced (bool:
        there is a norms.csv, an examples.npz).
    curves: tidy, one row a measured value: RUN_KEYS and the columns of record.csv.
    norms: one row a measured example: RUN_KEYS and the columns of norms.csv.
    skipped: a line for every folder that is no whole run, with the reason and the cure.
    made: tables of these very records (analysis/once.py); a part of them, as of `where`, begins without any.
    """

    root: Path
    runs: pd.DataFrame
    curves: pd.DataFrame
    norms: pd.DataFrame
    skipped: tuple[str, ...] = ()
    made: dict[tuple, pd.DataFrame] = field(default_factory=dict, repr=False, init=False)
    _wide: dict[tuple, pd.DataFrame] = field(default_factory=dict, repr=False)

    @cached_property
    def comparable(self) -> Records:
        """The complete headline runs, made to be compared: neither unfinished, diagnostic nor variants."""
        return self.where(self._is_complete & ~self.runs["diagnostic"] & (self.runs["variant"] == ""))

    @cached_property
    def variants(self) -> Records:
        """The complete runs of sweeps, whatever their variant."""
        return self.where(self._is_complete & ~self.runs["diagnostic"] & (self.runs["variant"] != ""))

    @property
    def traced(self) -> Records:
        """The runs that are done, headline or not, and left an examples.npz."""
        return self.where((self.runs["status"] == "done") & self.runs["traced"])

    @property
    def diagnostics(self) -> Records:
        """The complete diagnostic runs, which serve Figure 2 alone."""
        return self.where(self._is_complete & self.runs["diagnostic"])

    @property
    def headroom(self) -> Records:
        """The complete runs, headline or of the variant `headroom`, that recorded where the possible gain is lost."""
        with_it = set(
            map(tuple, self.curves.loc[self.curves["metric"] == "oracle_rho", RUN_KEYS].drop_duplicates().values)
        )
        asked = self.runs[RUN_KEYS].apply(tuple, axis=1).isin(with_it) & self.runs["variant"].isin(("", "headroom"))
        return self.where(self._is_complete & asked)

    @property
    def unfinished(self) -> pd.DataFrame:
        """Rows of `runs` that were interrupted or failed: listed everywhere, used nowhere."""
        return self.runs[~self._is_complete]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks with at least one run, sorted."""
        return sorted(self.runs["task"].unique())

    def arms(self, task: str) -> list[str]:
        """Arms with at least one run of `task`, in the order of ARMS, then by name."""
        return sorted(self.runs.loc[self.runs["task"] == task, "arm"].unique(), key=_arm_order)

    def where(self, keep: pd.Series) -> Records:
        """The records of those rows of `runs` for which `keep` (bool, same index) is true."""
        runs = self.runs[keep]
        keys = runs[RUN_KEYS]
        return replace(
            self,
            runs=runs,
            curves=self.curves.merge(keys, on=RUN_KEYS),
            norms=self.norms.merge(keys, on=RUN_KEYS),
        )

    def of(self, task: str, arm: str | None = None) -> Records:
        """The records of one task, or of one arm of it."""
        keep = self.runs["task"] == task
        return self.where(keep if arm is None else keep & (self.runs["arm"] == arm))

    def wide(self, run: pd.Series) -> pd.DataFrame:
        """One row of `runs`, a line an evaluation: x columns, then a column a metric (nan where absent)."""
        key = tuple(run[name] for name in RUN_KEYS)
        if key not in self._wide:  # Every table and figure asks again.
            rows = self.curves[self.curves["run_id"] == run["run_id"]]
            rows = rows[(rows[RUN_KEYS] == run[RUN_KEYS]).all(axis=1)]
            values = rows.pivot(index="iteration", columns="metric", values="value")
            self._wide[key] = rows.groupby("iteration")[X_COLUMNS[1:]].first().join(values).reset_index()
        return self._wide[key].copy()

    def examples(self, run: pd.Series) -> dict[str, np.ndarray]:
        """The arrays EXAMPLE_ARRAYS of one traced row of `runs`, as results/README.md lists them.

        Raises:
            RecordError: the file is missing, damaged or without one of them.
        """
        path = self.root / run["folder"] / EXAMPLES
        try:
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in EXAMPLE_ARRAYS}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            cure = f"delete the folder and run again: {run['command']}"
            raise RecordError(f"{path} cannot be read ({error}): {cure}") from error

    @property
    def _is_complete(self) -> pd.Series:
        return self.runs["status"].isin(COMPLETE)


def load(root: str | Path) -> Records:
    """Read every run folder under `root`.

    A run whose meta.json still says `running` was killed: its status becomes `interrupted` and a truncated
    last line is dropped. A folder that cannot be read, or whose record is not the one that was finished, is named in
    `skipped` and used nowhere. Raises RecordError, naming the folder and the cure, for: no records at all, two
    complete runs of one task, arm, variant and seed, and complete headline runs of one task with different n,
    batch_size or epochs.
    """
    root = Path(root)
    read, skipped = {}, []
    for folder in run_folders(root):
        try:
            read[folder] = read_run(folder)
        except RecordError as error:
            skipped.append(str(error))
    if not read:
        raise RecordError(
            f"no records under {root}: make some with `make reproduce`, "
            "or one with `python scripts/train.py task=digits`" + "".join(f"; skipped: {line}" for line in skipped)
        )
    records = replace(_gathered(root, read), skipped=tuple(skipped))
    _refuse_duplicates(root, records.runs)
    _refuse_mixed_settings(root, records.comparable.runs)
    return records


def load_beside_uniform(folder: Path) -> Records:
    """The run in `folder` and the uniform run it can be held against, where there is exactly one under the same root.

    That is a complete run of the same task, seed, n, batch_size and epochs: of the same variant if there is one,
    else a headline run. Raises RecordError where the run in `folder` itself cannot be read.
    """
    run, _, _ = read_run(folder)
    root = folder.parents[2]
    for variant in dict.fromkeys((run["variant"], "")):
        found = sorted(root.glob(f"{folder.parts[-3]}/{arm_folder('uniform', variant)}/seed{run['seed']}-*"))
        alike = [path for path in found if path != folder and _can_be_compared(path, run)]
        if alike:
            return read_folders(root, [folder, *alike] if len(alike) == 1 else [folder])
    return read_folders(root, [folder])


def read_folders(root: Path, folders: Sequence[Path]) -> Records:
    """The runs in `folders`, not held against each other. Raises RecordError for one that cannot be read."""
    return _gathered(root, {folder: read_run(folder) for folder in folders})


def _gathered(root: Path, read: Mapping[Path, tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]]) -> Records:
    runs = pd.DataFrame([run for run, _, _ in read.values()])
    runs["folder"] = [folder.relative_to(root).as_posix() for folder in read]
    curves = pd.concat([_labelled(run, curve) for run, curve, _ in read.values()], ignore_index=True)
    norms = pd.concat([_labelled(run, norm) for run, _, norm in read.values()], ignore_index=True)
    return Records(root, runs, curves, norms)


def read_run(folder: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """One run: its row of `runs`, its record.csv and its norms.csv (no rows if there is none).

    Raises:
        RecordError: the folder holds no run, or one that is damaged.
    """
    meta = read_meta(folder)
    run = _row(folder, meta)
    cure = f"delete the folder and run again: {run['command']}"
    if run["status"] in COMPLETE:
        check_whole(folder, meta)
    curve = _read_csv(folder / RECORD, RECORD_COLUMNS, RECORD_TYPES, run["status"], cure)
    if run["status"] in COMPLETE and "train_loss" not in set(curve["metric"]):
        raise RecordError(f"{folder / RECORD} has no train_loss although the run is {run['status']}: {cure}")
    if curve.duplicated(["iteration", "metric"]).any():
        raise RecordError(f"{folder / RECORD} has a metric twice at one iteration: {cure}")
    norms = pd.DataFrame({name: pd.Series(dtype=NORM_TYPES.get(name, "float64")) for name in NORM_COLUMNS})
    if (folder / NORMS).exists():
        norms = _read_csv(folder / NORMS, NORM_COLUMNS, NORM_TYPES, run["status"], cure)
    if (folder / EXAMPLES).exists() and not zipfile.is_zipfile(folder / EXAMPLES):
        raise RecordError(f"{folder / EXAMPLES} cannot be read (it is cut off): {cure}")
    run["core_share"] = _core_share(curve)
    run["traced"] = (folder / EXAMPLES).is_file()
    run["diagnostic"] = bool(len(norms)) or "true_phi" in set(curve["metric"])
    return run, curve, norms


def _row(folder: Path, meta: dict[str, Any]) -> dict[str, Any]:
    """The row of `runs` that meta.json gives. Raises RecordError where it lacks something or belies its folder."""
    try:
        config, hardware = meta["config"], meta["hardware"]
        run = {
            **{key: meta[key] for key in ("task", "arm", "seed", "run_id", "status", "message", "n")},
            "variant": meta.get("variant", ""),  # Records made before there were sweeps have none.
            "batch_size": int(config["batch_size"]),
            "epochs": float(config["epochs"]),
            "target_loss": float(config.get("target_loss") or "nan"),
            "duration_seconds": meta["duration_seconds"],
            "started": _unix(meta["started"]),
            "finished": _unix(meta["finished"]) if meta["finished"] else float("nan"),
            "cpu": hardware["cpu"],
            "threads": hardware["threads"],
            "gpu": hardware["gpu"] or "",
            **{key: meta[key] for key in ("command", "commit", "dirty")},
        }
    except KeyError as error:
        raise RecordError(f"{folder / META} has no {error}: delete the folder and run it again") from error
    except (TypeError, ValueError) as error:
        raise RecordError(f"{folder / META} cannot be read ({error}): delete the folder and run it again") from error
    name = (run["task"], arm_folder(run["arm"], run["variant"]), f"seed{run['seed']}-{run['run_id']}")
    if folder.parts[-3:] != name:
        raise RecordError(f"{folder} holds the run {'/'.join(name)}: give the folder that name")
    if run["status"] == "running":
        run["status"] = "interrupted"
    return run


def _unix(time: str) -> float:
    return pd.Timestamp(time).timestamp()


def _read_csv(path: Path, columns: Sequence[str], types: dict[str, Any], status: str, cure: str) -> pd.DataFrame:
    """The table; of an unfinished run only whole lines are read, a complete run must end with one."""
    try:
        text = path.read_text(encoding="utf-8")
        if status not in COMPLETE:
            text = text[: text.rfind("\n") + 1] or ",".join(columns) + "\n"
        elif not text.endswith("\n"):
            raise ValueError("the last line is cut off although the run is complete")
        table = pd.read_csv(
            io.StringIO(text),
            dtype={name: types.get(name, "float64") for name in columns},
            index_col=False,
        )
        if tuple(table.columns) != tuple(columns):
            raise ValueError(f"its header is not {','.join(columns)}")
    except (OSError, ValueError, OverflowError) as error:
        raise RecordError(f"{path} cannot be read ({error}): {cure}") from error
    return table


def _core_share(curve: pd.DataFrame) -> float:
    cpu = curve[curve["metric"] == "cpu_seconds"]
    if cpu.empty or not cpu["seconds"].iloc[-1] > 0:
        return float("nan")
    return float(cpu["value"].iloc[-1] / cpu["seconds"].iloc[-1])


def _can_be_compared(folder: Path, run: dict[str, Any]) -> bool:
    try:
        other, _, _ = read_run(folder)
    except RecordError:
        return False
    alike = all(other[key] == run[key] for key in ("n", "batch_size", "epochs"))
    return alike and other["status"] in COMPLETE and not other["diagnostic"]


def _labelled(run: dict[str, Any], table: pd.DataFrame) -> pd.DataFrame:
    table = table.copy()
    for position, key in enumerate(RUN_KEYS):
        table.insert(position, key, run[key])
    return table


def _arm_order(arm: str) -> tuple[int, str]:
    return (ARMS.index(arm) if arm in ARMS else len(ARMS), arm)


def _refuse_duplicates(root: Path, runs: pd.DataFrame) -> None:
    complete = runs[runs["status"].isin(COMPLETE)]
    for _, same in complete.groupby(["task", "arm", "variant", "seed", "diagnostic"]):
        if len(same) > 1:
            folders = " and ".join(str(root / folder) for folder in same["folder"])
            raise RecordError(
                f"two runs of one task, arm, variant and seed: {folders}; keep one and move the other out of {root}"
            )


def _refuse_mixed_settings(root: Path, headline: pd.DataFrame) -> None:
    for task, same in headline.groupby("task"):
        for setting in ("n", "batch_size", "epochs"):
            first, other = same.iloc[0], same[same[setting] != same[setting].iloc[0]]
            if len(other):
                raise RecordError(
                    f"task {task} was run with {setting} = {first[setting]} ({root / first['folder']}) and "
                    f"{other[setting].iloc[0]} ({root / other['folder'].iloc[0]}), which cannot be compared: "
                    f"keep one of the two and move the others out of {root}"
                )
