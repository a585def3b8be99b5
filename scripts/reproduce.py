"""Train what the figures need and draw them: the work behind `make reproduce`.

A profile, conf/profile/NAME.yaml, names experiments, seeds and arms. Their runs are listed with the time they
will take, those whose record is complete are left out, and the others are trained side by side, spread over the
GPUs where there are any and else over the cores. Figures and tables of these runs follow, with their speed-ups
beside the committed ones.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

import sweeps
from rais.paper import data
from rais.paper import settings as config
from rais.paper.analysis import speedup as stats
from rais.paper.records import find, layout
from side_by_side import Job, Slot, core_slots, cores, expected_minutes, gpu_slots, run_all

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
OUT = Path("results/reproduction")
SPEEDUP = Path("tables/speedup.csv")


@dataclass(frozen=True)
class Run:
    """One training run: its place among the others, its overrides, its minutes (None where they were not measured)
    and the run whose multiplier it replays. `arm` is the folder's name, with the variant where there is one."""

    task: str
    arm: str
    seed: int
    overrides: tuple[str, ...]
    minutes: float | None
    config: config.Config
    replays: str | None = None

    @property
    def name(self) -> str:
        return f"{self.task}/{self.arm}/seed{self.seed}"


@dataclass(frozen=True)
class Plan:
    """The runs of a profile, the state of each (complete, to train or skipped) by name, and why a task is skipped."""

    runs: tuple[Run, ...]
    states: dict[str, str]
    skipped: dict[str, str]

    @property
    def missing(self) -> list[Run]:
        return [run for run in self.runs if self.states[run.name] == "to train"]


def read_profile(name: str) -> dict[str, Any]:
    """The seeds and stages of conf/profile/`name`.yaml; SystemExit naming the valid ones for another."""
    path = CONF / "profile" / f"{name}.yaml"
    if not path.is_file():
        valid = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise SystemExit(f"reproduce: there is no profile {name!r}: choose one of {valid}")
    profile = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(profile, dict)
    return profile


def make_plan(profile: dict[str, Any], runs: str, measured: str = "minutes") -> Plan:
    """Compose every run of a profile's stages with the record root `runs`, and look at what is there already.

    Runs are in the order of the stages, then of the seeds; one that two experiments share is listed once.
    `measured` is the stages' key for what a run takes: minutes of a core, or gpu_minutes. Data are fetched here,
    before runs side by side could fetch them twice. SystemExit where two runs that differ have one name.
    """
    found: dict[str, Run] = {}
    for stage in profile["stages"]:
        for run in expand(stage, profile["seeds"], runs, measured):
            same = found.setdefault(run.name, run)
            if find.folder_of(same.config) != find.folder_of(run.config):
                raise SystemExit(
                    f"reproduce: {run.name} is the name of two runs that differ, `{' '.join(same.overrides)}` and "
                    f"`{' '.join(run.overrides)}`: give one of them a task or a variant of its own"
                )
    planned = tuple(name_source(run, found) for run in found.values())
    incomplete = [run for run in planned if find.find_complete(run.config) is None]
    problems = {name: data_problem(name) for name in {run.config.data.name for run in incomplete}}
    skipped = {run.task: why for run in incomplete if (why := problems[run.config.data.name])}
    states = {run.name: "complete" for run in planned}
    states |= {run.name: "skipped" if run.task in skipped else "to train" for run in incomplete}
    return Plan(planned, states, skipped)


def expand(stage: dict[str, Any], seeds: Sequence[int], runs: str, measured: str) -> list[Run]:
    """Every run in the grid of a stage's experiment, one whole seed after the other.

    The grid is the experiment's `hydra.sweeper.params`; the stage's overrides, which can be lists, go before it. The
    seeds are the stage's, or else the profile's.
    """
    given = OverridesParser.create().parse_overrides(stage.get("overrides", []))
    plain = [str(override.input_line) for override in given if not override.is_sweep_override()]
    common = [f"experiment={stage['experiment']}", *plain, f"runs={runs}"]
    grid = compose("config", common, return_hydra_config=True).hydra.sweeper.params
    free = [f"{k}={v}" for k, v in grid.items() if k not in {"seed", *(o.get_key_element() for o in given)}]
    sweeps = OverridesParser.create().parse_overrides(free)
    sweeps += [override for override in given if override.is_sweep_override()]
    choices = [
        [f"{s.get_key_element()}={value}" for value in s.sweep_string_iterator()]
        if s.is_sweep_override()
        else [str(s.input_line)]
        for s in sweeps
    ]
    found = []
    for choice in itertools.product(*choices):
        composed = compose("config", [*common, *choice])
        for seed in stage.get("seeds", seeds):
            composed.seed = seed
            cfg, overrides = config.from_hydra(composed), (*common, *choice, f"seed={seed}")
            arm = find.folder_of(cfg).parent.name
            found.append(Run(cfg.task, arm, seed, overrides, stage.get(measured), cfg))
    return sorted(found, key=lambda run: run.seed)


def name_source(run: Run, planned: dict[str, Run]) -> Run:
    """A replay with the very run of the plan as its source, whatever lies beside that; any other run as it is."""
    name = f"{run.task}/rais/seed{run.seed}"
    if run.config.gain.mode != "replay" or name not in planned:
        return run
    run.config.gain.record = str(find.folder_of(planned[name].config))
    return replace(run, overrides=(*run.overrides, f"gain.record={run.config.gain.record}"), replays=name)


def data_problem(name: str) -> str | None:
    """Why the data set `name` cannot be had, with the cure; None where it is there."""
    try:
        data.load(name)
    except data.DataUnavailable as error:
        return str(error)
    return None


def print_plan(plan: Plan, slots: Sequence[Slot]) -> None:
    """The runs by arm with their state, the expected hours of each task, and the cure for what is skipped."""
    on = "" if slots[0].gpu is None else f" on GPU {', '.join(dict.fromkeys(str(slot.gpu) for slot in slots))}"
    print(f"{len(plan.runs)} runs, {len(plan.missing)} of them to train, at most {len(slots)} side by side{on}")
    for task, arm in dict.fromkeys((run.task, run.arm) for run in plan.runs):
        group = [run for run in plan.runs if (run.task, run.arm) == (task, arm)]
        for state in dict.fromkeys(plan.states[run.name] for run in group):
            runs = [run for run in group if plan.states[run.name] == state]
            seeds = ",".join(str(run.seed) for run in runs)
            each = "not measured" if runs[0].minutes is None else f"{runs[0].minutes:g} min"
            minutes = f"{len(runs)} x {each}" if state == "to train" else ""
            print(f"  {task:<13} {arm:<24} seed {seeds:<10} {state:<9} {minutes}".rstrip())
    for task in dict.fromkeys(run.task for run in plan.missing):
        minutes = [run.minutes for run in plan.missing if run.task == task]
        print(f"expected: {task}: {duration(minutes, len(slots))}")
    print(f"expected: all: {duration([run.minutes for run in plan.missing], len(slots))}", flush=True)
    for task, why in plan.skipped.items():
        print(f"skipped: {task}: {why}")


def duration(minutes: Sequence[float | None], workers: int) -> str:
    """Minutes or hours for runs of these minutes, `workers` at a time; at least those that were measured."""
    known = [each for each in minutes if each is not None]
    if minutes and not known:
        return "not measured"
    total = expected_minutes(known, workers)
    text = f"{total:.0f} min" if total < 60 else f"{total / 60:.1f} h"
    return text if len(known) == len(minutes) else f"at least {text}, {len(minutes) - len(known)} runs not measured"


def train(plan: Plan, runs: str, slots: Sequence[Slot]) -> list[str]:
    """Train the runs that are missing; return the names of those that left no complete record."""
    missing = {run.name: run for run in plan.missing}
    jobs = [
        Job(
            name,
            (sys.executable, "scripts/train.py", *run.overrides),
            Path(runs) / "logs" / f"{name.replace('/', '-')}.log",
            run.minutes,
            run.replays,
        )
        for name, run in missing.items()
    ]

    def outcome(job: Job) -> str | None:
        folder = find.find_complete(missing[job.name].config)
        return folder and layout.read_meta(folder)["status"]

    return [name for name, word in run_all(jobs, slots, outcome).items() if word is None]


def gather(plan: Plan) -> Path:
    """Copy the complete records of the plan's runs, and no other run that lies beside them, for drawing."""
    records = OUT / "records"
    shutil.rmtree(OUT, ignore_errors=True)
    for run in plan.runs:
        if folder := find.find_complete(run.config):
            shutil.copytree(folder, records / folder.relative_to(run.config.runs))
    return records


def draw(records: Path) -> bool:
    """Draw figures and tables from `records` and print where they are; return whether that worked."""
    command = [sys.executable, "scripts/plot.py", "--records", str(records), "--out", str(OUT)]
    return subprocess.run(command, check=False).returncode == 0


def print_speedups() -> None:
    """Print the speed-ups just measured, in examples and seconds, beside the committed ones."""
    here, committed = read_speedups(OUT / SPEEDUP), read_speedups(Path("results") / SPEEDUP)
    print(f"\n{'task':<11} {'arm':<24} {'speed-up in':<11} {'here':<27} committed")
    for key, row in here.items():
        for unit in ("examples", "seconds"):
            task, arm = key
            print(f"{task:<11} {arm:<24} {unit:<11} {speedup(row, unit):<27} {speedup(committed.get(key), unit)}")


def read_speedups(path: Path) -> dict[tuple[str, str], pd.Series]:
    """The rows of a speed-up table by task and arm; none where there is no such file."""
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    return {(row["task"], row["arm"]): row for _, row in table.iterrows()}


def speedup(row: pd.Series | None, unit: str) -> str:
    """A speed-up with its interval and number of seeds, such as `2.71× (2.61 to 2.80) (n=5)`; a dash for none."""
    return "–" if row is None else f"{stats.speedup_text(row, unit)} (n={row['n_seeds']})"


def gpus() -> list[str]:
    """The GPUs that torch sees, as CUDA_VISIBLE_DEVICES names them."""
    count, named = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(k) for k in range(count)]


def places(found: Sequence[str], jobs: int | None) -> list[Slot]:
    """Where runs go: `jobs` (one) to each GPU of `found`, and where there is none on `jobs` (all) cores.

    SystemExit where a run would be without a core.
    """
    limit = max(1, len(cores()) // max(1, len(found)))
    if jobs is None:
        jobs = 1 if found else limit
    if not 1 <= jobs <= limit:
        to = f"to each of {len(found)} GPUs" if found else "side by side"
        raise SystemExit(f"reproduce: --jobs {jobs} {to}: give 1 to {limit}, the cores here: a run has one to itself")
    return gpu_slots(found, jobs) if found else core_slots(jobs)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--profile", default="quick", help="a file of conf/profile (default: quick)")
    parser.add_argument("--runs", default="results/runs", help="record root (default: results/runs)")
    parser.add_argument("--jobs", type=int, help="runs side by side: to each GPU (default: 1), else in all (the cores)")
    return parser.parse_args(arguments)


def reproduce(profile: str, runs: str, slots: Sequence[Slot]) -> int:
    """Plan, train and draw, from the repository's root; return the exit code."""
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        plan = make_plan(read_profile(profile), runs, "minutes" if slots[0].gpu is None else "gpu_minutes")
    print_plan(plan, slots)
    failed = train(plan, runs, slots)
    if drawn := draw(gather(plan)):
        print_speedups()
    for name in failed:
        print(f"FAILED: {name}", file=sys.stderr)
    return 0 if drawn and not failed else 1


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    slots = places(gpus(), options.jobs)
    runs = os.path.relpath(options.runs, ROOT)
    os.chdir(ROOT)
    try:
        return reproduce(options.profile, runs, slots)
    except KeyboardInterrupt:
        print(
            "\ninterrupted: the same command goes on from here, runs that are complete are kept",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    sweeps.end_on_signals()
    sys.exit(main())
