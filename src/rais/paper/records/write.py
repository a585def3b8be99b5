"""What a run leaves behind: a folder with a tidy CSV, written at every evaluation, and what is needed to repeat it.

    <runs>/<task>/<arm>[@<variant>]/seed<k>-<run_id>/{record.csv, meta.json[, norms.csv][, examples.npz]}

A run that is killed leaves `status: running` and at most one cut line; every other end is written down as it
happens. wandb, when asked for, mirrors the same numbers and is never the only copy.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rais.paper.settings.schema import Config, arm, run_id, slug

COMPLETE = ("done", "diverged")
AXES = ("iteration", "examples", "epoch", "epochs_equivalent", "seconds")
HISTOGRAM_BINS = 64
PACKAGES = ("rais", "torch", "torchvision", "numpy", "scipy", "hydra-core")


class Record:
    """The record of one run, opened before anything costly happens.

    Args:
        cfg: the run's configuration.
        n: training examples.
        replayed: run_id of the replayed run, in replay mode.

    Raises:
        OSError: the folder cannot be written; the message names it and the cure.
    """

    def __init__(self, cfg: Config, *, n: int, device: torch.device, replayed: str | None = None) -> None:
        self.folder = folder_of(cfg, replayed)
        self.started = datetime.now(timezone.utc)
        self.meta: dict[str, Any] = {
            "run_id": run_id(cfg, replayed),
            "task": cfg.task,
            "arm": arm(cfg),
            "variant": cfg.variant or "",
            "seed": cfg.seed,
            "status": "running",
            "message": "",
            "config": {**asdict(cfg), "replayed": replayed},
            "n": n,
            "command": shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
            **environment(device),
            "started": self.started.isoformat(timespec="seconds"),
            "finished": None,
            "duration_seconds": None,
        }
        try:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self._write_meta()
            self._append("record.csv", [(*AXES, "metric", "value")])
        except OSError as error:
            raise OSError(
                f"the record folder {self.folder} cannot be written ({error.strerror}): set `runs` to a folder that "
                "can, as in runs=elsewhere/runs"
            ) from error
        self.evaluations = 0
        self._mirror = _WandbMirror(self.meta, self.folder) if cfg.wandb is not None else None

    def write(self, axes: dict[str, float], metrics: dict[str, float]) -> None:
        """Append one evaluation: `axes` has the keys AXES, `metrics` any names. On disk when this returns."""
        position = tuple(axes[name] for name in AXES)
        self.evaluations += 1
        self._append("record.csv", [(*position, name, value) for name, value in metrics.items()])
        if self._mirror is not None:
            self._mirror.write(axes, metrics)

    def write_norms(
        self, epoch: float, examples: Iterable[int], loss_layer: Iterable[float], exact: Iterable[float]
    ) -> None:
        """Append per-example norms, loss-layer and exact, to norms.csv (diagnostic runs)."""
        rows = [(epoch, *row) for row in zip(examples, loss_layer, exact, strict=True)]
        header = [] if (self.folder / "norms.csv").exists() else [("epoch", "example", "loss_layer", "exact")]
        self._append("norms.csv", header + rows)

    def write_examples(self, arrays: dict[str, NDArray]) -> None:
        """Put `arrays` in place of the last examples.npz (traced runs): floats as float32, integers as int32, bytes
        as they are. At any time the file on disk is a whole one."""
        partial = self.folder / "examples.npz.part"
        with partial.open("wb") as file:
            np.savez_compressed(file, **{name: _compact(array) for name, array in arrays.items()})
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / "examples.npz")

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
        the SHA-256 of record.csv, so that a reader can tell a whole record from a damaged one."""
        now = datetime.now(timezone.utc)
        self.meta.update(
            status=status,
            message=message,
            finished=now.isoformat(timespec="seconds"),
            duration_seconds=round((now - self.started).total_seconds(), 1),
            evaluations=self.evaluations,
            record_sha256=hashlib.sha256((self.folder / "record.csv").read_bytes()).hexdigest(),
        )
        self._write_meta()
        if self._mirror is not None:
            self._mirror.finish(status)

    def _append(self, name: str, rows: list[tuple]) -> None:
        with (self.folder / name).open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
            file.flush()
            os.fsync(file.fileno())

    def _write_meta(self) -> None:
        partial = self.folder / "meta.json.part"
        partial.write_text(json.dumps(self.meta, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(self.folder / "meta.json")


def _compact(array: NDArray) -> NDArray:
    kinds = {"f": np.float32, "i": np.int32, "u": np.int32}
    array = np.asarray(array)
    return array if array.dtype == np.uint8 else array.astype(kinds.get(array.dtype.kind, array.dtype))


class _WandbMirror:
    """The same numbers in a wandb run, grouped by task and arm, with the three step axes as metrics.

    It adds what can be seen there alone: histograms of n p, and when the run ends its learning curves as an image
    and, where a uniform run stands beside it, the speed-up.
    """

    def __init__(self, meta: dict[str, Any], folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError("logger=wandb needs the wandb package: pip install 'rais[wandb]'") from error
        settings = meta["config"]["wandb"]
        group = f"{meta['task']}-{folder.parent.name}"
        self.wandb, self.folder, self.title = wandb, folder, group
        self.run = wandb.init(
            mode=settings["mode"],
            project=settings["project"],
            name=f"{group}-seed{meta['seed']}",
            group=group,
            job_type=meta["arm"],
            config={**meta["config"], "arm": meta["arm"], "run_id": meta["run_id"], "commit": meta["commit"]},
            dir=folder,
            reinit="finish_previous",
        )
        for axis in ("epoch", "epochs_equivalent", "seconds"):
            self.run.define_metric(axis, hidden=True)
        for axis in ("epoch", "epochs_equivalent", "seconds"):
            self.run.define_metric(f"by_{axis}/*", step_metric=axis)
        self.run.define_metric("distribution/*", step_metric="epoch")

    def write(self, axes: dict[str, float], metrics: dict[str, float]) -> None:
        on_axes = {
            f"by_{axis}/{k}": v for axis in ("epoch", "epochs_equivalent", "seconds") for k, v in metrics.items()
        }
        self.run.log({**axes, **on_axes})

    def write_distribution(self, epoch: float, relative: NDArray) -> None:
        known = np.log10(relative[relative > 0])
        histogram = self.wandb.Histogram(np_histogram=np.histogram(known, bins=HISTOGRAM_BINS))
        self.run.log({"epoch": epoch, "distribution/log10_np": histogram})

    def finish(self, status: str) -> None:
        self.run.summary["status"] = status
        if status in COMPLETE:
            try:
                self._write_outcome()
            except Exception as error:  # The run is over and recorded: an ornament must not turn it into a failure.
                warnings.warn(f"wandb shows no speed-up and no figure of this run: {error!r}", stacklevel=2)
        self.run.finish(exit_code=0 if status in COMPLETE else 1)

    def _write_outcome(self) -> None:
        # Here, since a run without wandb needs neither pandas nor matplotlib.
        from rais.paper import figures
        from rais.paper.analysis import speedup as stats
        from rais.paper.figures import fig4_curves, style
        from rais.paper.records import read as load

        records = load.load_beside_uniform(self.folder)
        speedup = stats.paired_speedup(records)
        if not np.isnan(speedup):
            self.run.summary["speedup_examples"] = speedup
        with tempfile.TemporaryDirectory() as folder:
            figure = fig4_curves.curves(style.runs_by_arm(records), self.title)
            png, _ = figures.save(figure, Path(folder) / "learning_curves")
            self.run.log({"learning_curves": self.wandb.Image(str(png))})


def folder_of(cfg: Config, replayed: str | None = None) -> Path:
    """Where the record of `cfg` stands, whether it exists or not."""
    method = slug(arm(cfg)) + (f"@{cfg.variant}" if cfg.variant else "")
    return Path(cfg.runs) / slug(cfg.task) / method / f"seed{cfg.seed}-{run_id(cfg, replayed)}"


def find_complete(cfg: Config) -> Path | None:
    """The folder of the complete record of `cfg`; None where there is none, or where the run it replays is not
    there yet."""
    try:
        replayed = find_replayed(cfg)
    except FileNotFoundError:
        return None
    folder = folder_of(cfg, replayed and read_meta(replayed)["run_id"])
    meta = folder / "meta.json"
    return folder if meta.is_file() and read_meta(folder)["status"] in COMPLETE else None


def find_replayed(cfg: Config) -> Path | None:
    """The folder of the run whose multipliers `cfg` replays; None where it replays none.

    Raises:
        FileNotFoundError: nothing, or more than one folder, matches `gain.record`, or what it matches is no
            complete run.
    """
    if cfg.gain.mode != "replay":
        return None
    pattern = Path(cfg.gain.record)
    matches = [path for path in sorted(pattern.parent.glob(pattern.name)) if (path / "meta.json").is_file()]
    if len(matches) != 1:
        found = "nothing" if not matches else f"{len(matches)} runs ({', '.join(path.name for path in matches)})"
        raise FileNotFoundError(
            f"gain.record={cfg.gain.record} matches {found}, a replay needs one run: record it first with the same "
            "task, seed and sampler=rais, or set gain.record to a run's folder"
        )
    status = read_meta(matches[0])["status"]
    if status != "done":
        raise FileNotFoundError(
            f"gain.record={matches[0]} is a run with status {status}: a replay needs one that is done"
        )
    return matches[0]


def read_multipliers(folder: Path) -> tuple[list[int], list[float]]:
    """Segment ends (iterations) and mean multipliers Δt̂/Δt between the evaluations of a recorded run.

    Raises:
        ValueError: the record has no two evaluations.
    """
    meta = read_meta(folder)
    with (folder / "record.csv").open(newline="", encoding="utf-8") as file:
        t_hat = {
            int(row["iteration"]): float(row["epochs_equivalent"]) * meta["n"] / meta["config"]["batch_size"]
            for row in csv.DictReader(file)
            if row["metric"] == "train_loss"
        }
    iterations = sorted(t_hat)
    if len(iterations) < 2:
        raise ValueError(f"{folder}/record.csv has {len(iterations)} evaluations: a replay needs at least 2")
    steps = list(pairwise(iterations))
    return [end for _, end in steps], [(t_hat[end] - t_hat[start]) / (end - start) for start, end in steps]


def read_meta(folder: Path) -> dict[str, Any]:
    """The meta.json of a run's folder; ValueError naming the file where it cannot be read."""
    try:
        return json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{folder / 'meta.json'} is no valid JSON ({error}): delete the folder and run again"
        ) from error


def environment(device: torch.device) -> dict[str, Any]:
    """Commit and dirty flag, versions and hardware: what a measured number depends on besides the settings."""
    return {**_code_version(), "versions": _versions(), "hardware": _hardware(device)}


def _code_version() -> dict[str, Any]:
    """Commit and whether tracked files differ from it; None where the code is not in a git checkout."""

    def git(*arguments: str) -> str:
        here = Path(__file__).resolve().parent
        return subprocess.run(
            ["git", "-C", here, *arguments], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", ":/src", ":/conf", ":/scripts")),
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _hardware(device: torch.device) -> dict[str, Any]:
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }
