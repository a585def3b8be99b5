"""Hydra's launcher for one machine: each job of a sweep is a process that nothing but its own end can stop.

A pool of workers ends as a whole when one of them is killed, by a full memory above all. Here the other jobs go on,
and the sweep's report lists the dead one. Hydra finds the file because scripts/ is where train.py is started from.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

import sweeps
from side_by_side import Job, core_slots, cores, run_all


class SideBySide(Launcher):
    """Runs `n_jobs` jobs at a time, each pinned to a core; -1 is as many as there are cores."""

    def __init__(self, n_jobs: int = -1) -> None:
        self.n_jobs = n_jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        sources = self.config.hydra.runtime.config_sources
        elsewhere = [f"--config-dir={source.path}" for source in sources if source.provider == "command-line"]
        jobs = []
        for number, overrides in enumerate(job_overrides, start=initial_job_idx):
            sweeps.begin(folder, number, list(overrides))
            told = f"{sweeps.JOB}={folder / f'job{number}'}"
            command = ("env", told, sys.executable, str(sweeps.HERE / "train.py"), *elsewhere, *overrides)
            jobs.append(Job(f"job {number}", command, folder / f"job{number}.log", None))
        count = len(cores()) if self.n_jobs < 1 else self.n_jobs
        slots = core_slots(len(cores()))
        run_all(
            jobs,
            [slots[k % len(slots)] for k in range(min(count, len(jobs)))],
            lambda job: sweeps.read(folder / f"job{job.name.split()[1]}.json").get("status"),
        )
        return []
