"""Speed-ups and intervals over seeds, from the records alone.

The comparison is meant to be fair to both sides [ours]: every arm of a task is asked what it paid for L*,
the training loss that uniform sampling ends with, and uniform is asked the same, since it may get there
before its end. Runs that diverge or never get there stay in every mean with a speed-up of 0, and the status
names them.

symbol    code      shape      unit
L*        level     ()         nats, mean over the seeds of uniform's final training loss, or a multiple of it
cost      *_cost    (runs,)    training examples, or seconds of the timed region, paid for L*; inf for never
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rais.paper.records.read import Records

# What a run ends with, and how a speed-up and its interval are named.
ENDS = ("gain_ratio", "final_train_loss", "test_error", "sampler_share")
SPEEDUPS = tuple(f"{unit}_{part}" for unit in ("examples", "seconds") for part in ("speedup", "low", "high"))
SPEEDUP_COLUMNS = [
    "task",
    "arm",
    "n_seeds",
    *SPEEDUPS,
    "final_train_loss",
    "test_error",
    "status",
]
OWN_CORE = 0.95
RESAMPLES = 10_000
# What `make reproduce` says of a run though it is the default: where records go, and which run a replay takes.
_DEFAULTS = r"\sruns=results/runs(?=\s|$)|\sgain\.record=results/runs/\w+/rais/seed\d+-\w+"
_TASK = r"\sexperiment=fig4_"  # a single run of fig4_<task> is a run of the task


def crossing(x: ArrayLike, loss: ArrayLike, level: float) -> float:
    """The x at which `loss` first is at or below `level`, log-linear between two evaluations; inf if never.

    x, loss: shape (k,), in the order of the evaluations, `level` > 0. Evaluations whose loss is nan are
    passed over. [ours]
    """
    x, loss = np.asarray(x, float), np.asarray(loss, float)
    x, loss = x[~np.isnan(loss)], loss[~np.isnan(loss)]
    below = np.flatnonzero(loss <= level)
    if not len(below):
        return float("inf")
    j = int(below[0])
    if j == 0 or np.isinf(loss[j - 1]):
        return float(x[j])
    before, after = _log(loss[j - 1]), _log(loss[j])
    return float(x[j - 1] + (x[j] - x[j - 1]) * (before - _log(level)) / (before - after))


def bootstrap_interval(values: ArrayLike) -> tuple[float, float]:
    """The 95 % percentile interval of the mean of `values`, shape (k,), over 10 000 resamples of the k seeds.

    (nan, nan) for fewer than two values: one seed says nothing of the spread. Same values, same interval.
    """
    low, high = bootstrap_band(np.asarray(values, float)[:, None])
    return float(low[0]), float(high[0])


def bootstrap_band(values: NDArray, resamples: int = RESAMPLES) -> tuple[NDArray, NDArray]:
    """`bootstrap_interval` for every column of `values`, shape (seeds, k); rows resampled. Two of (k,)."""
    k = len(values)
    if k < 2:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    counts = np.random.default_rng(0).multinomial(k, np.full(k, 1 / k), size=resamples)
    low, high = np.percentile(counts @ values / k, [2.5, 97.5], axis=0)
    return low, high


def mean_curve(
    curves: Sequence[tuple[ArrayLike, ArrayLike]], *, log: bool
) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Mean and 95 % band over seeds of curves measured at different x: (grid, mean, low, high), each (k,).

    curves: a pair (x, y) a seed, each of shape (evaluations,), x increasing. The grid is every x at which
    some seed was measured, as far as all seeds reach. With `log` means and interpolation are those of log y
    (a geometric mean).
    """
    start, end = max(np.min(x) for x, _ in curves), min(np.max(x) for x, _ in curves)
    grid = np.unique(np.concatenate([np.asarray(x, float) for x, _ in curves]))
    grid = grid[(grid >= start) & (grid <= end)]
    forward, back = (_log, np.exp) if log else (np.asarray, np.asarray)
    values = np.stack([np.interp(grid, x, forward(y)) for x, y in curves])
    low, high = bootstrap_band(values, resamples=2_000)
    return grid, back(values.mean(axis=0)), back(low), back(high)


def own_core(runs: pd.DataFrame) -> pd.Series:
    """Whether the seconds of each row of `Records.runs` can be compared: a GPU run, or core_share >= 0.95. [ours]"""
    return (runs["gpu"] != "") | (runs["core_share"] >= OWN_CORE)


def run_table(records: Records, factor: float = 1.0) -> pd.DataFrame:
    """`records.runs` plus what each run ended with and what L* cost it, one row a run.

    Added: start_train_loss, final_train_loss (nats), test_error (fraction), gain_ratio (the last one), examples,
    seconds; sampler_share (of the seconds, spent in drawing, observing and the gain ratio); level (`factor` times the
    L* of the task; nan where uniform is missing or did not start above that); examples_cost, seconds_cost (of that
    level; inf for never; nan without one); own_core (the seconds can be compared: a GPU run, or a CPU run whose
    core_share is at least 0.95). A diverged run has no final loss, test error and gain ratio (nan), and its costs are
    inf.
    """
    runs = records.runs
    wides = {index: records.wide(run) for index, run in runs.iterrows()}
    done = runs["status"] == "done"
    ends = {
        index: {
            "start_train_loss": wide["train_loss"].iloc[0],
            "final_train_loss": _last(wide, "train_loss") if done[index] else np.nan,
            "test_error": _last(wide, "test_error") if done[index] else np.nan,
            "gain_ratio": _last(wide, "gain_ratio") if done[index] else np.nan,
            "examples": float(wide["examples"].iloc[-1]),
            "seconds": wide["seconds"].iloc[-1],
            "sampler_share": _last(wide, "sampler_seconds") / (wide["seconds"].iloc[-1] or np.nan),
        }
        for index, wide in wides.items()
    }
    columns = ["start_train_loss", *ENDS, "examples", "seconds"]
    table = runs.join(pd.DataFrame.from_dict(ends, orient="index", columns=columns, dtype=float))
    table["own_core"] = own_core(runs)
    table["level"] = table["task"].map({task: _level(table[table["task"] == task], factor) for task in records.tasks})
    for unit in ("examples", "seconds"):
        costs = [
            crossing(wide[unit], wide["train_loss"], table["level"][index]) if done[index] else np.inf
            for index, wide in wides.items()
        ]
        table[f"{unit}_cost"] = pd.Series(costs, index=runs.index, dtype=float).where(table["level"].notna())
    return table


def speedup_table(records: Records, factor: float = 1.0) -> pd.DataFrame:
    """What each arm saves against uniform sampling, one row a task and arm, columns SPEEDUP_COLUMNS.

    examples_*, seconds_*: mean over the seeds of uniform's cost / the arm's cost of L*, paired by seed, and
    its bootstrap interval; of `factor` times L*, where that is given. A uniform run that never is at L*, or diverges,
    is counted with its whole length, a lower bound of its cost; an arm's run that diverges or never is at L* costs
    infinitely much. Seconds: pairs of runs on the same hardware, each with a core to itself. final_train_loss (nats),
    test_error (fraction): means over the runs that did not diverge. n_seeds: complete runs. Diagnostic runs and
    variants take no part. status: all that should temper the row, or `done`. [ours]
    """
    listed = records.where(~records.runs["diagnostic"] & (records.runs["variant"] == ""))
    table = run_table(records.comparable, factor)
    rows = []
    for task in listed.tasks:
        uniform = table[(table["task"] == task) & (table["arm"] == "uniform")]
        for arm in listed.arms(task):
            runs = table[(table["task"] == task) & (table["arm"] == arm)]
            unfinished = ((listed.unfinished["task"] == task) & (listed.unfinished["arm"] == arm)).sum()
            rows.append({"task": task, "arm": arm, **speedup_row(runs, uniform, unfinished)})
    return pd.DataFrame(rows, columns=SPEEDUP_COLUMNS)


def speedup_row(runs: pd.DataFrame, uniform: pd.DataFrame, unfinished: int) -> dict[str, object]:
    """What rows `runs` of `run_table`, one arm, saved against the rows `uniform`: SPEEDUP_COLUMNS but task and arm.

    unfinished: runs of the arm that were left out, for the status.
    """
    pairs = runs.merge(uniform, on="seed", suffixes=("", "_uniform"))
    alike = [pairs[key].astype(str) == pairs[f"{key}_uniform"].astype(str) for key in ("cpu", "threads", "gpu")]
    timed = pairs[pairs["own_core"] & pairs["own_core_uniform"] & np.logical_and.reduce(alike)]
    return {
        "n_seeds": len(runs),
        **mean_and_interval(_speedups(pairs, "examples"), "examples_speedup", "examples"),
        **mean_and_interval(_speedups(timed, "seconds"), "seconds_speedup", "seconds"),
        "final_train_loss": runs["final_train_loss"].mean(),
        "test_error": runs["test_error"].mean(),
        "status": "; ".join(_remarks(runs, uniform, len(pairs), len(timed), unfinished)) or "done",
    }


def paired_speedup(records: Records) -> float:
    """The speed-up in examples of the one run that is not uniform against the one that is; nan without either.

    L* is the final training loss of that uniform run. 0 where the run diverged or never was at L*. [ours]
    """
    table = run_table(records)
    is_uniform = table["arm"] == "uniform"
    speedups = _speedups(table[~is_uniform].merge(table[is_uniform], on="seed", suffixes=("", "_uniform")), "examples")
    return float(speedups[0]) if len(speedups) else float("nan")


def tally(runs: pd.DataFrame) -> tuple[int, int]:
    """Of rows of `run_table`: how many diverged, and how many others never were at L*."""
    done = runs["status"] == "done"
    return int((runs["status"] == "diverged").sum()), int(np.isinf(runs.loc[done, "examples_cost"]).sum())


def final_table(records: Records) -> pd.DataFrame:
    """What each arm ended with, one row a task and arm: means over seeds, intervals in *_low and *_high.

    final_train_loss (nats) and test_error (fraction): runs that did not diverge. examples, seconds (timed
    region) and duration_seconds (whole run): every complete run. hardware and command: as recorded, those
    of the seeds joined.
    """
    table = run_table(records.comparable)
    rows = []
    for task in records.comparable.tasks:
        for arm in records.comparable.arms(task):
            runs = table[(table["task"] == task) & (table["arm"] == arm)]
            diverged = int((runs["status"] == "diverged").sum())
            row = {"task": task, "arm": arm, "n_seeds": len(runs), "diverged": diverged}
            for name in ("final_train_loss", "test_error", "examples", "seconds", "duration_seconds"):
                row |= mean_and_interval(runs[name].dropna(), name, name)
            rows.append(row | {"hardware": _hardware(runs), "command": _command(runs)})
    return pd.DataFrame(rows)


def readme_table(records: Records) -> str:
    """The README's table of speed-ups in Markdown, and a note for every row whose status is not `done`.

    Intervals of speed-ups are given by their ends, those of loss and error by half their width. The column "at 2 L*"
    asks for twice the loss, which fewer runs miss by chance.
    """
    earlier = speedup_table(records, factor=2).set_index(["task", "arm"], drop=False)
    final = final_table(records).set_index(["task", "arm"])
    heads = ["task", "arm", "speed-up, examples (n)", "at 2 L*", "speed-up, seconds", "final loss", "test error"]
    lines, notes = [_cells([*heads, "command", "duration, hardware"]), _cells(["---"] * 9)], []
    for _, row in speedup_table(records).iterrows():
        if row["status"] != "done":
            notes.append(f"- {row['task']}, `{row['arm']}`: {row['status']}.")
        if not row["n_seeds"]:
            continue
        end = final.loc[(row["task"], row["arm"])]
        cells = [
            row["task"],
            f"`{row['arm']}`",
            f"{speedup_text(row, 'examples')} ({row['n_seeds']})",
            speedup_text(earlier.loc[(row["task"], row["arm"])], "examples"),
            speedup_text(row, "seconds"),
            _plus_minus(end, "final_train_loss", 1, 4),
            _plus_minus(end, "test_error", 100, 2, " %"),
            f"`{end['command']}`",
            f"{_duration(end['duration_seconds'])}, {end['hardware']}",
        ]
        lines.append(_cells(cells))
    return "\n".join([*lines, "", *notes]).rstrip() + "\n"


def mean_and_interval(values: ArrayLike, name: str, ends: str) -> dict[str, float]:
    """The mean of shape (k,) under `name`, its interval under `ends`_low and `ends`_high; nan if k = 0."""
    low, high = bootstrap_interval(values)
    return {name: float(np.mean(values)) if len(values) else np.nan, f"{ends}_low": low, f"{ends}_high": high}


def _level(runs: pd.DataFrame, factor: float) -> float:
    """`factor` times L* of one task; nan where no uniform run ended, or some started no higher than that."""
    uniform = runs[runs["arm"] == "uniform"]
    level = factor * uniform["final_train_loss"].mean()
    return level if level < uniform["start_train_loss"].min() else float("nan")


def _speedups(pairs: pd.DataFrame, unit: str) -> NDArray:
    """uniform's cost / the arm's cost of each pair that has an L*: shape (pairs,)."""
    pairs = pairs[pairs["level"].notna()]
    paid = np.minimum(pairs[f"{unit}_cost_uniform"], pairs[f"{unit}_uniform"])
    return np.where(pairs["arm"] == "uniform", 1.0, paid / pairs[f"{unit}_cost"]).astype(float)


def _remarks(runs: pd.DataFrame, uniform: pd.DataFrame, pairs: int, timed: int, unfinished: int) -> list[str]:
    """What should temper one row, worst first."""
    n, (diverged, never) = len(runs), tally(runs)
    speedups = _speedups(runs.merge(uniform, on="seed", suffixes=("", "_uniform")), "examples")
    arrived = speedups[speedups > 0]
    those = f" (those that were: {arrived.mean():.2f}×)" if len(arrived) and not runs["arm"].eq("uniform").all() else ""
    remarks = {
        f"{diverged} of {n} diverged": diverged,
        f"{never} of {n} never at L*{those}": never,
        f"{unfinished} unfinished, left out": unfinished,
        "no uniform run to compare with": uniform.empty,
        "uniform did not learn, so there is no L*": len(uniform) and runs["level"].isna().any(),
        f"{pairs} of {n} seeds have a uniform run": len(uniform) and pairs < n,
        f"seconds: {timed or 'none'} of {pairs} pairs had cores to themselves": timed < pairs,
    }
    return [text for text, holds in remarks.items() if holds]


def _last(wide: pd.DataFrame, metric: str) -> float:
    known = wide[metric].dropna() if metric in wide else []
    return float(known.iloc[-1]) if len(known) else float("nan")


def _log(y: ArrayLike) -> NDArray:
    return np.log(np.maximum(np.asarray(y, float), np.finfo(float).tiny))


def _hardware(runs: pd.DataFrame) -> str:
    threads = runs["threads"].map(lambda k: f"{k} thread" if k == 1 else f"{k} threads")
    return "; ".join(sorted(set(runs["gpu"].where(runs["gpu"] != "", runs["cpu"] + ", " + threads))))


def _command(runs: pd.DataFrame) -> str:
    """The recorded commands, without settings that are the default and with `task=` for an experiment that says no
    more than that; those that differ by their seed alone become one sweep over the seeds."""
    commands = sorted({re.sub(_TASK, " task=", re.sub(_DEFAULTS, "", command)) for command in runs["command"]})
    bare = {" ".join(re.sub(r"\sseed=\d+(?=\s|$)", "", command).split()) for command in commands}
    if len(commands) == 1 or len(bare) > 1:
        return " ; ".join(commands)
    sweep, seeds = bare.pop(), ",".join(str(seed) for seed in sorted(runs["seed"]))
    if "--multirun" not in sweep:
        sweep = sweep.replace(".py", ".py --multirun", 1)
    return f"{sweep} seed={seeds}"


def _cells(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def speedup_text(row: pd.Series, unit: str) -> str:
    """A row of the speed-up table in words, such as `2.71× [2.61, 2.80]`, for `unit` examples or seconds."""
    mean, low, high = (row[f"{unit}_{part}"] for part in ("speedup", "low", "high"))
    if np.isnan(mean):
        return "–"
    known = row["arm"] != "uniform" and not np.isnan(low)
    return f"{mean:.2f}×" + (f" [{low:.2f}, {high:.2f}]" if known else "")


def remarks_on_examples(status: str) -> list[str]:
    """What the status of a row of the speed-up table says of its speed-up in examples."""
    return [remark for remark in status.split("; ") if remark != "done" and not remark.startswith("seconds:")]


def _plus_minus(row: pd.Series, name: str, scale: float, digits: int, unit: str = "") -> str:
    mean, half = row[name] * scale, (row[f"{name}_high"] - row[f"{name}_low"]) * scale / 2
    if np.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if np.isnan(half) else f" ± {half:.{digits}f}") + unit


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{seconds / 60:.0f} min"
