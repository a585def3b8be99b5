"""What RAIS costs: its training step against uniform's, in one process, and the parts that its sampler adds.

Both runs take turns in short blocks on one core, so that whatever else the machine does falls on both. The table is
results/bench/step.csv, with the machine beside it. `--tasks` instead measures a step of uniform SGD on every task and
what a run would take at that pace (results/bench/tasks.csv); no other command writes there.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir

from rais import rng
from rais.gain import Minibatch
from rais.gradnorm import softmax_cross_entropy_norm
from rais.paper import data
from rais.paper import settings as config
from rais.paper.records import write as record
from rais.paper.training import build
from rais.paper.training.loop import Loop
from rais.paper.training.parts import Parts

ROOT = Path(__file__).resolve().parents[1]
BLOCK = 50
HEADERS = {
    "step": ("quantity", "unit", "value", "low", "high"),
    "tasks": ("task", "batch_size", "seconds_per_step", "steps_per_run", "hours_per_run"),
}
TASKS = {  # training examples, classes, shape of an image
    "digits": (20_000, 10, (1, 28, 28)),
    "mnist": (60_000, 10, (1, 28, 28)),
    "rot_mnist": (12_000, 10, (1, 28, 28)),
    "cifar10_small": (10_000, 10, (3, 32, 32)),
    "svhn": (604_388, 10, (3, 32, 32)),
    "cifar10": (50_000, 10, (3, 32, 32)),
    "cifar100": (50_000, 100, (3, 32, 32)),
}


def parts_of(sampler: str, task: str, dataset: data.Dataset | None) -> tuple[Parts, config.Config]:
    cfg = config.from_hydra(compose("config", [f"task={task}", f"sampler={sampler}", "device=cpu"]))
    dataset = dataset or data.load(cfg.data.name, path=cfg.data.path, n_train=cfg.data.n_train)
    return build.build(cfg, dataset), cfg


def timed_steps(loop: Loop, steps: int) -> list[float]:
    times = []
    for _ in range(steps):
        begin = time.perf_counter()
        loop.step()
        times.append(time.perf_counter() - begin)
    return times


def timed(function: Callable[[], object], repeats: int) -> list[float]:
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return times


def interval(values: np.ndarray, statistic: Callable = np.median) -> tuple[float, float, float]:
    """The statistic of `values` (rounds, …) and its bootstrap 95 % interval over rounds."""
    draws = np.random.default_rng(0).integers(len(values), size=(2000, len(values)))
    resampled = [statistic(values[rows]) for rows in draws]
    return float(statistic(values)), *(float(x) for x in np.percentile(resampled, [2.5, 97.5]))


def by_round(seconds: list[float], refresh: int) -> np.ndarray:
    """Means over rounds of `refresh` minibatches: draws and visits are worked off once a round."""
    return np.array(seconds).reshape(-1, refresh).mean(1)


def measure(task: str, rounds: int) -> list[tuple[str, str, float, float, float]]:
    """Rows (quantity, unit, value, low, high)."""
    rais, cfg = parts_of("rais", task, None)
    uniform, _ = parts_of("uniform", task, rais.paper.data)
    loops = [Loop(parts, None, epochs=cfg.epochs, evaluations=cfg.evaluations) for parts in (uniform, rais)]
    while not rais.sampler.has_learned:
        for loop in loops:
            timed_steps(loop, BLOCK)
    times, sampler_seconds = np.empty((rounds, 2, BLOCK)), loops[1].clock.sampler_seconds
    for turn in range(rounds):
        for which, loop in enumerate(loops):
            times[turn, which] = timed_steps(loop, BLOCK)
    sampler_share = (loops[1].clock.sampler_seconds - sampler_seconds) / times[:, 1].sum()

    sampler = rais.sampler
    draw = sampler.draw()
    x, y = rais.paper.data.train.batch(draw.index)
    logits = rais.model(x).detach()
    norm = softmax_cross_entropy_norm(logits, y)
    for parameter in rais.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    rais.gain.phi.iteration = 1  # a step at which φ is not due, as nearly all are
    batch = Minibatch(draw, norm, norm, x, y)

    def gain_update() -> None:
        rais.gain.phi.iteration = 1
        rais.gain.update(batch)

    pieces = {
        "draw": sampler.draw,
        "loss-layer norms": lambda: softmax_cross_entropy_norm(logits, y),
        "observe": lambda: sampler.observe(draw, norm),
        "gain ratio": gain_update,
    }
    rows = [
        ("uniform step, median", "ms", *interval(1e3 * times[:, 0])),
        ("RAIS step, median", "ms", *interval(1e3 * times[:, 1])),
        ("ratio of the medians", "1", *interval(times, lambda t: np.median(t[:, 1]) / np.median(t[:, 0]))),
        ("ratio of the means, (PT) and φ included", "1", *interval(times, lambda t: t[:, 1].mean() / t[:, 0].mean())),
    ]
    rows.append(("draw, norms, observe and gain ratio, share of the RAIS step", "1", *3 * (sampler_share,)))
    for name, function in pieces.items():
        sampler.solve_at = sampler.visited - 1  # the pieces are timed without a solve among them
        seconds = timed(function, 40 * sampler.refresh)
        rows.append(
            (f"{name} by itself, mean of {sampler.refresh}", "ms", *interval(1e3 * by_round(seconds, sampler.refresh)))
        )
    g = rng.generator(0, "evaluation")

    period = sampler.between_solves // sampler.m

    def solve_later() -> None:
        """Replace the visits by as many new ones, untimed; the next solve then starts as warm as in a run."""
        for _ in range(period):
            sampler.solve_at = sampler.visited - 1
            later = sampler.draw()
            noise = 0.8 + 0.4 * torch.rand(sampler.m, generator=g)
            sampler.observe(later, sampler.features.values[later.index, 2] * noise)

    solves = []
    for _ in range(10):
        solve_later()
        solves += timed(sampler.solve, 1)
    rows.append(("one solve of (PT), median", "ms", *interval(1e3 * np.array(solves))))
    rows.append((f"(PT) per step, one solve in {period}", "ms", *interval(1e3 * np.array(solves) / period)))
    return rows


def measure_tasks(steps: int = 5) -> list[tuple[str, int, float, int, float]]:
    """Rows (task, batch size, seconds of a step, steps of a run, hours of a run): medians of uniform SGD on a core.

    Evaluations are not in it. The images are random: what a step costs does not depend on them.
    """
    rows = []
    for task, (n, classes, shape) in TASKS.items():
        g = rng.generator(0, "evaluation")
        images = torch.randint(256, (512, *shape), generator=g, dtype=torch.uint8)
        split = data.Split(images, torch.randint(classes, (512,), generator=g))
        parts, cfg = parts_of("uniform", task, data.Dataset(task, split, split, classes))
        loop = Loop(parts, None, epochs=cfg.epochs, evaluations=cfg.evaluations)
        timed_steps(loop, 2)
        seconds, run = float(np.median(timed_steps(loop, steps))), round(cfg.epochs * n / cfg.batch_size)
        rows.append((task, cfg.batch_size, seconds, run, seconds * run / 3600))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="mnist", help="a task of conf/task (default: mnist)")
    parser.add_argument("--rounds", type=int, default=60, help=f"turns of {BLOCK} steps each (default: 60)")
    parser.add_argument("--tasks", action="store_true", help="a step of every task instead")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    config.register()
    name, command = "step", f"--task {options.task} --rounds {options.rounds}"
    if options.tasks:
        name, command = "tasks", "--tasks"
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        try:
            rows = measure_tasks() if options.tasks else measure(options.task, options.rounds)
        except data.DataUnavailable as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([HEADERS[name], *rows])
    about = {"command": f"python scripts/bench.py {command}", **record.environment(torch.device("cpu"))}
    (options.out / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    print((options.out / f"{name}.csv").read_text(encoding="utf-8"), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
