"""What keeps a sweep going: each job writes down how it ended, and the end of the sweep lists those that failed.

In a sweep (`--multirun`) an exception or a refused setting ends its own job and no other. What came of job k is in
<runs>/sweeps/<time>/job<k>.json, a file a job, so that processes side by side need no lock. The file says `started`
until the job has ended: of a process that was killed it says so for ever.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

HERE = Path(__file__).resolve().parent
JOB = "RAIS_SWEEP_JOB"  # in a job's process of its own: where its file goes, without the suffix
STARTED = "started"

# conf/hydra/launcher/ has settings of its own under the names of the plugins' defaults, which Hydra warns about.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema", UserWarning)


def end_on_signals() -> None:
    """SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt; a SIGHUP that is ignored, as below nohup, stays so."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def guard(run: Callable[[DictConfig], str], composed: DictConfig) -> None:
    """Run one configuration; as a job of a sweep, write down how it ended instead of raising.

    `run` returns the status of its record. KeyboardInterrupt is raised in any case: it ends the whole sweep.
    """
    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    if told := os.environ.pop(JOB, None):
        folder, number = Path(told).parent, int(Path(told).name.removeprefix("job"))
    elif hydra.mode == RunMode.RUN:
        run(composed)
        return
    else:
        folder, number = Path(hydra.sweep.dir), hydra.job.num
        # The record names the command of this run alone; a worker's own arguments may be those of its launcher.
        sys.argv = [str(HERE / "train.py"), *overrides]
    entry = begin(folder, number, overrides)
    try:
        entry["status"] = run(composed)
    except (Exception, SystemExit) as error:
        entry.update(status="failed", reason=reason_of(error), traceback=traceback.format_exc())
        print(f"failed: {line_of(entry)}", file=sys.stderr, flush=True)
    gc.collect()  # What a failed run held, a GPU's memory above all, has to be free for the next one.
    write(folder, entry)


def begin(folder: Path, number: int, overrides: list[str]) -> dict[str, Any]:
    """Write down that job `number` has started; return its entry."""
    killed = "its process ended without a result: it was killed, or has no more memory; the same command goes on"
    entry = {"job": number, "overrides": overrides, "status": STARTED, "reason": killed, "traceback": ""}
    write(folder, entry)
    return {**entry, "reason": ""}


def read(path: Path) -> dict[str, Any]:
    """The entry of a job that has ended; nothing where it has not."""
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {} if entry["status"] in (STARTED, "failed") else entry


def reason_of(error: BaseException) -> str:
    """One line: the message of a refusal, or the class and the first line of an exception's message."""
    if isinstance(error, SystemExit):
        return str(error).removeprefix("rais: ")
    return " ".join([f"{type(error).__name__}:", *str(error).splitlines()[:1]])


def line_of(entry: dict[str, Any]) -> str:
    return f"{shlex.join(entry['overrides'])}: {entry['reason']}"


def write(folder: Path, entry: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"job{entry['job']}.json.part"
    partial.write_text(json.dumps(entry, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(partial.with_suffix(""))


class Report(Callback):
    """Hydra calls it before and after a sweep, in the process that was started by hand."""

    under_way: DictConfig | None = None

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """SystemExit, naming the cure, where the launcher is not installed."""
        launcher = config.hydra.launcher._target_.rpartition(".")[0]
        try:
            importlib.import_module(launcher)
        except ImportError as error:
            name = config.hydra.runtime.choices["hydra/launcher"]
            raise SystemExit(f"rais: hydra/launcher={name} is not installed: pip install 'rais-sgd[sweep]'") from error
        Report.under_way = config
        # Workers that a launcher starts afresh find this file by its name.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Count the jobs by status and list those that diverged or failed; SystemExit(1) where one failed.

        A job that started and left no result is one that failed: its process is dead.
        """
        folder = Path(config.hydra.sweep.dir)
        paths = sorted(folder.glob("job*.json"), key=lambda path: int(path.stem.removeprefix("job")))
        entries = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        kinds = {"done": ("done",), "diverged": ("diverged",), "failed": ("failed", STARTED)}
        ended = {name: [e for e in entries if e["status"] in statuses] for name, statuses in kinds.items()}
        counts = ", ".join(f"{len(some)} {status}" for status, some in ended.items())
        print(f"sweep of {len(entries)}: {counts}: {folder}", flush=True)
        for entry in ended["diverged"]:
            print(f"diverged: {shlex.join(entry['overrides'])}", flush=True)
        for entry in ended["failed"]:
            print(f"failed: {line_of(entry)}", file=sys.stderr, flush=True)
        if ended["failed"]:
            raise SystemExit(1)


def was_broken_by(error: Exception) -> bool:
    """Report a sweep that its launcher gave up on, as submitit does on a killed worker; False where there is none."""
    if Report.under_way is None:
        return False
    print(f"rais: the launcher ended the sweep: {reason_of(error)}", file=sys.stderr, flush=True)
    with contextlib.suppress(SystemExit):
        Report().on_multirun_end(Report.under_way)
    return True
