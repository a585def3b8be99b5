"""Run commands side by side, each with one thread on a core of its own.

A job may wait for another one, whose result it needs; one that fails is reported and does not stop the
others. Every command writes into a log file of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

POLL = 0.1
PATIENCE = 60.0


@dataclass(frozen=True)
class Job:
    """A command, the file for what it prints, the minutes it should take, and the job it has to wait for."""

    name: str
    command: tuple[str, ...]
    log: Path
    minutes: float
    after: str | None = None


@dataclass(frozen=True)
class _Active:
    job: Job
    process: subprocess.Popen[bytes]
    core: int
    started: float

    def minutes(self) -> float:
        return (time.monotonic() - self.started) / 60


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def expected_minutes(jobs: Sequence[Job], workers: int) -> float:
    """Minutes until `jobs` are through, `workers` at a time: an even share of the sum, or the longest one."""
    return max(sum(job.minutes for job in jobs) / workers, max((job.minutes for job in jobs), default=0.0))


def run_all(jobs: Sequence[Job], workers: int, outcome: Callable[[Job], str | None]) -> dict[str, str | None]:
    """Run `jobs`, at most `workers` at a time and no two on one core; return what came of each, by name.

    `outcome` is asked when a job has ended, and returns a word for what came of it, or None where it failed.
    A job fails without being started where the one that it waits for failed; one whose `after` is not among
    `jobs` waits for nothing. On KeyboardInterrupt every command is sent SIGINT and waited for, then the
    interrupt goes on to the caller.
    """
    waiting, active, free = list(jobs), [], cores()[:workers]
    outcomes: dict[str, str | None] = {}
    expected = taken = 0.0
    try:
        while waiting or active:
            for job in _ready(waiting, active, len(free)):
                waiting.remove(job)
                if job.after and outcomes.get(job.after, "done") is None:
                    outcomes[job.name] = None
                    print(f"{job.name}: not started, {job.after} failed", flush=True)
                else:
                    active.append(_start(job, free.pop(0)))
            time.sleep(POLL)
            for ended in [a for a in active if a.process.poll() is not None]:
                active.remove(ended)
                free.append(ended.core)
                outcomes[ended.job.name] = word = outcome(ended.job)
                expected, taken = expected + ended.job.minutes, taken + ended.minutes()
                left = expected_minutes([*waiting, *(a.job for a in active)], workers) * taken / expected
                print(
                    f"[{len(outcomes)}/{len(jobs)}] {ended.job.name} {word or f'FAILED, see {ended.job.log}'}"
                    f" in {ended.minutes():.1f} min, about {left:.0f} min left",
                    flush=True,
                )
    finally:
        _interrupt([a.process for a in active])
    return outcomes


def _ready(waiting: Sequence[Job], active: Sequence[_Active], free: int) -> list[Job]:
    pending = {job.name for job in waiting} | {a.job.name for a in active}
    return [job for job in waiting if job.after not in pending][:free]


def _start(job: Job, core: int) -> _Active:
    """Start a command in a session of its own: the terminal's Ctrl-C reaches it through `_interrupt` only."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("wb") as log:
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(process.pid, {core})
    return _Active(job, process, core, time.monotonic())


def _interrupt(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
