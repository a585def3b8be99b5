"""Run commands side by side, each with one thread on a core of its own, or on a GPU and a share of the cores.

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
    """A command, the file for what it prints, the minutes it should take (None where nobody measured them), and the
    job it has to wait for."""

    name: str
    command: tuple[str, ...]
    log: Path
    minutes: float | None
    after: str | None = None


@dataclass(frozen=True)
class Slot:
    """A place for one job at a time: its cores, and its GPU as CUDA_VISIBLE_DEVICES names it (None: as it is set)."""

    cores: frozenset[int]
    gpu: str | None = None


@dataclass(frozen=True)
class _Active:
    job: Job
    process: subprocess.Popen[bytes]
    slot: Slot
    started: float

    def minutes(self) -> float:
        return (time.monotonic() - self.started) / 60


def cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def core_slots(count: int) -> list[Slot]:
    """`count` slots of one core each."""
    return [Slot(frozenset({core})) for core in cores()[:count]]


def gpu_slots(gpus: Sequence[str], each: int) -> list[Slot]:
    """`each` slots to a GPU, with an even share of the cores; the first slots are on different GPUs."""
    count, own = len(gpus) * each, cores()
    return [Slot(frozenset(own[k::count] or own), gpus[k % len(gpus)]) for k in range(count)]


def expected_minutes(minutes: Sequence[float | None], workers: int) -> float | None:
    """Minutes until jobs of these `minutes` are through, `workers` at a time: an even share of the sum, or the
    longest one. None where one of them is None."""
    known = [each for each in minutes if each is not None]
    return None if len(known) < len(minutes) else max(sum(known) / workers, max(known, default=0.0))


def run_all(jobs: Sequence[Job], slots: Sequence[Slot], outcome: Callable[[Job], str | None]) -> dict[str, str | None]:
    """Run `jobs`, no two in one of the `slots` at a time; return what came of each, by name.

    `outcome` is asked when a job has ended, and returns a word for what came of it, or None where it failed.
    A job fails without being started where the one that it waits for failed; one whose `after` is not among
    `jobs` waits for nothing. On KeyboardInterrupt every command is sent SIGINT and waited for, then the
    interrupt goes on to the caller.
    """
    waiting, active, free = list(jobs), [], list(slots)
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
                free.append(ended.slot)
                outcomes[ended.job.name] = word = outcome(ended.job)
                if ended.job.minutes is not None:
                    expected, taken = expected + ended.job.minutes, taken + ended.minutes()
                left = expected_minutes([job.minutes for job in [*waiting, *(a.job for a in active)]], len(slots))
                print(
                    f"[{len(outcomes)}/{len(jobs)}] {ended.job.name} {word or f'FAILED, see {ended.job.log}'}"
                    f" in {ended.minutes():.1f} min{_left(left, taken, expected)}",
                    flush=True,
                )
    finally:
        _interrupt([a.process for a in active])
    return outcomes


def _ready(waiting: Sequence[Job], active: Sequence[_Active], free: int) -> list[Job]:
    pending = {job.name for job in waiting} | {a.job.name for a in active}
    return [job for job in waiting if job.after not in pending][:free]


def _left(left: float | None, taken: float, expected: float) -> str:
    """The minutes left at the pace so far; nothing where they or the pace are not known."""
    return "" if left is None or not expected else f", about {left * taken / expected:.0f} min left"


def _start(job: Job, slot: Slot) -> _Active:
    """Start a command in a session of its own: the terminal's Ctrl-C reaches it through `_interrupt` only."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if slot.gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = slot.gpu
    with job.log.open("wb") as log:
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    if hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(process.pid, slot.cores)
    return _Active(job, process, slot, time.monotonic())


def _interrupt(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.send_signal(signal.SIGINT)
    for process in processes:
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
