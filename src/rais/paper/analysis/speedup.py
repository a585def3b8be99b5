"""The measure: what each arm saves on the way to a training loss that was fixed before any arm was run.

A task names its target, the loss of pilot runs of uniform SGD at three quarters of the budget (pilots.py), and every
arm may train to the whole budget to reach it. A speed-up is the median cost of uniform's runs over the median cost of
the arm's, on the seeds that both have; a run that does not get there costs infinitely much.

symbol    code      shape      unit
L         level     ()         nats, the target or a multiple of it
cost      *_cost    (runs,)    training examples, or seconds of the timed region, until the loss first is at or below L
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from rais.paper.analysis.intervals import SEEDS, mean_spread, median, ratio_of_medians, ratio_spread
from rais.paper.analysis.once import once
from rais.paper.analysis.together import same_hardware, same_time
from rais.paper.records.read import Records

# What a run ends with, and how a speed-up and its spread are named.
ENDS = ("gain_ratio", "final_train_loss", "test_error", "sampler_share")
SPEEDUPS = tuple(f"{unit}_{part}" for unit in ("examples", "seconds") for part in ("speedup", "low", "high"))
DIFFERENCE = "test_error_difference"
SPEEDUP_COLUMNS = [
    "task",
    "arm",
    "n_seeds",
    "reached",
    *SPEEDUPS,
    "test_error",
    *(f"{DIFFERENCE}{end}" for end in ("", "_low", "_high")),
    "final_train_loss",
    "status",
]
NOT_COUNTED = {"oracle": "its passes over the whole training set are not counted as examples"}
ROUNDING = 1e-9  # of a mean of test errors, fractions of thousands of images; no difference is smaller


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


def targets(runs: pd.DataFrame) -> dict[str, float]:
    """The target loss of each task of `Records.runs`, nats; nan where no run names one.

    Raises:
        ValueError: runs of one task name different targets.
    """
    named = {task: sorted(of_task["target_loss"].dropna().unique()) for task, of_task in runs.groupby("task")}
    for task, found in named.items():
        if len(found) > 1:
            raise ValueError(
                f"runs of {task} name the targets {', '.join(f'{x:g}' for x in found)}: a target is not touched once "
                "runs are made with it; keep the runs of one of them"
            )
    return {task: found[0] if found else float("nan") for task, found in named.items()}


def timed_seconds(run: pd.Series, wide: pd.DataFrame) -> pd.Series:
    """Seconds of the timed region at each evaluation of a run: on a CPU with one thread its CPU seconds, which another
    process on the next core hardly lengthens; else wall-clock, synchronised on a GPU."""
    by_cpu = run["gpu"] == "" and run["threads"] == 1 and "cpu_seconds" in wide
    return wide["cpu_seconds" if by_cpu else "seconds"]


@once
def run_table(records: Records, factor: float = 1.0) -> pd.DataFrame:
    """`records.runs` plus what each run ended with and what `factor` times the target cost it, one row a run.

    Added: start_train_loss, final_train_loss (nats), test_error (fraction), gain_ratio (the last one), examples,
    seconds (timed_seconds); sampler_share (of the wall-clock, spent in drawing, observing and the gain ratio); level
    (nats; nan where the task has no target, or a run started at or below it); examples_cost, seconds_cost and, of
    examples, epochs_to_target (inf for never; nan without a level). A diverged run has no final loss, test error and
    gain ratio (nan); a level that it reached before keeps its cost.
    """
    runs = records.runs
    wides = {index: records.wide(run) for index, run in runs.iterrows()}
    seconds = {index: timed_seconds(run, wides[index]) for index, run in runs.iterrows()}
    done = runs["status"] == "done"
    ends = {
        index: {
            "start_train_loss": wide["train_loss"].iloc[0],
            "final_train_loss": _last(wide, "train_loss") if done[index] else np.nan,
            "test_error": _last(wide, "test_error") if done[index] else np.nan,
            "gain_ratio": _last(wide, "gain_ratio") if done[index] else np.nan,
            "examples": float(wide["examples"].iloc[-1]),
            "seconds": seconds[index].iloc[-1],
            "sampler_share": _last(wide, "sampler_seconds") / (wide["seconds"].iloc[-1] or np.nan),
        }
        for index, wide in wides.items()
    }
    columns = ["start_train_loss", *ENDS, "examples", "seconds"]
    table = runs.join(pd.DataFrame.from_dict(ends, orient="index", columns=columns, dtype=float))
    level = factor * table["task"].map(targets(runs)).astype(float)
    table["level"] = level.where(level < table.groupby("task")["start_train_loss"].transform("min"))
    for unit, x in (("examples", {index: wide["examples"] for index, wide in wides.items()}), ("seconds", seconds)):
        costs = [crossing(x[index], wide["train_loss"], table["level"][index]) for index, wide in wides.items()]
        table[f"{unit}_cost"] = pd.Series(costs, index=runs.index, dtype=float).where(table["level"].notna())
    table["epochs_to_target"] = table["examples_cost"] / table["n"]
    return table


@once
def speedup_table(records: Records, factor: float = 1.0) -> pd.DataFrame:
    """What each arm saves against uniform sampling, one row a task and arm, columns SPEEDUP_COLUMNS.

    examples_*, seconds_*: median cost of uniform / median cost of the arm at `factor` times the target, with the spread
    of `ratio_spread`; seconds only where all those runs had the same hardware, and of the pairs that were made at the
    same time (together.py). reached: runs with a finite cost, of
    n_seeds, the complete runs whose seed uniform has too; missing where there is no target. test_error (fraction): mean
    over the runs that did not diverge; *_difference: mean of the same-seed differences to uniform, with their
    `mean_spread`, none where so many diverged that it would be of another kind than n_seeds says. final_train_loss:
    median, nats. Diagnostic runs and variants take no part.
    status: what a reader of the row has to know, or `done`.
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
    return pd.DataFrame(rows, columns=SPEEDUP_COLUMNS).astype({"reached": "Int64"})


def speedup_row(runs: pd.DataFrame, uniform: pd.DataFrame, unfinished: int) -> dict[str, object]:
    """What rows `runs` of `run_table`, one arm, saved against the rows `uniform`: SPEEDUP_COLUMNS but task and arm.

    unfinished: runs of the arm that were left out, for the status.
    """
    pairs = runs.merge(uniform, on="seed", suffixes=("", "_uniform"))
    shown = runs[runs["seed"].isin(pairs["seed"])] if len(pairs) else runs
    differences = (pairs["test_error"] - pairs["test_error_uniform"]).dropna()
    is_as_told = (len(differences) >= SEEDS) == (len(shown) >= SEEDS)
    timed = pairs[same_time(pairs)] if same_hardware(pairs) else pairs.iloc[:0]
    spread = mean_spread(differences) if is_as_told else (np.nan, np.nan)
    row = {
        "n_seeds": len(shown),
        "reached": pd.NA if shown["level"].isna().any() else int(np.isfinite(shown["examples_cost"]).sum()),
        **_speedup(pairs, "examples"),
        **_speedup(timed, "seconds"),
        "test_error": shown["test_error"].mean(),
        DIFFERENCE: differences.mean(),
        **dict(zip((f"{DIFFERENCE}_low", f"{DIFFERENCE}_high"), spread, strict=True)),
        "final_train_loss": median(shown["final_train_loss"]),
    }
    if (len(timed) >= SEEDS) != (len(shown) >= SEEDS):
        row |= {"seconds_low": np.nan, "seconds_high": np.nan}
    if runs["arm"].eq("uniform").all():
        row |= dict.fromkeys((f"{DIFFERENCE}{end}" for end in ("", "_low", "_high")), np.nan)
        row |= {name: np.nan for name in SPEEDUPS if not name.endswith("speedup")}
    return row | {"status": "; ".join(_remarks(row, runs, shown, pairs, unfinished)) or "done"}


def paired_speedup(records: Records) -> float:
    """The speed-up in examples of the one run that is not uniform against the one that is; nan without either, without
    a target, or where neither reached it."""
    table = run_table(records)
    is_uniform = table["arm"] == "uniform"
    return ratio_of_medians(table.loc[is_uniform, "examples_cost"], table.loc[~is_uniform, "examples_cost"])


def speedup_text(row: pd.Series, unit: str) -> str:
    """A row of the speed-up table in words for `unit` examples or seconds: `2.71× [2.61, 2.80]` with an interval,
    `2.71× (2.5 to 2.9)` with the range of the same-seed ratios, and words where no median run is at the target."""
    ratio, low, high = (row[f"{unit}_{part}"] for part in ("speedup", "low", "high"))
    if row["arm"] == "uniform":
        return "1" if ratio == 1 else "–"
    if np.isnan(ratio):
        return "–"
    if ratio == 0:
        return "target not reached"
    number = "∞ (uniform does not get there)" if np.isinf(ratio) else f"{ratio:.2f}×"
    return number + spread_text(low, high, row["n_seeds"], ".2f")


def remarks_on_examples(row: pd.Series) -> str:
    """The status of a row of the speed-up table without what is said of its seconds; "" for none."""
    return "; ".join(part for part in row["status"].split("; ") if part != "done" and not part.startswith("seconds: "))


def at_target(row: pd.Series) -> str:
    """`9 of 10`, the seeds of a row of the speed-up table that reach the target; `–` without one."""
    return "–" if pd.isna(row["reached"]) else f"{row['reached']} of {row['n_seeds']}"


def spread_text(low: float, high: float, n_seeds: int, form: str) -> str:
    """` [low, high]` for the interval of SEEDS seeds or more, ` (low to high)` for the range of fewer, "" for none."""
    if np.isnan(low):
        return ""
    ends = ["∞" if np.isinf(end) else format(end, form) for end in (low, high)]
    return f" [{', '.join(ends)}]" if n_seeds >= SEEDS else f" ({' to '.join(ends)})"


def hardware(runs: pd.DataFrame) -> str:
    """The hardware of rows of `run_table`, such as `Some CPU, 1 thread`; several joined."""
    threads = runs["threads"].map(lambda k: f"{k} thread" if k == 1 else f"{k} threads")
    return "; ".join(sorted(set(runs["gpu"].where(runs["gpu"] != "", runs["cpu"] + ", " + threads))))


def _speedup(pairs: pd.DataFrame, unit: str) -> dict[str, float]:
    """Speed-up and spread of the pairs that have a level, under the names of SPEEDUPS."""
    known = pairs[pairs["level"].notna()]
    costs = known[f"{unit}_cost_uniform"], known[f"{unit}_cost"]
    if len(known) and known["arm"].eq("uniform").all():
        ratio = 1.0 if np.isfinite(median(costs[1])) else np.nan
        return {f"{unit}_speedup": ratio, f"{unit}_low": np.nan, f"{unit}_high": np.nan}
    low, high = ratio_spread(*costs)
    return {f"{unit}_speedup": ratio_of_medians(*costs), f"{unit}_low": low, f"{unit}_high": high}


def _of_other_times(pairs: pd.DataFrame) -> str:
    if n_timed := int(same_time(pairs).sum()):
        return f"seconds: of the {n_timed} of {len(pairs)} seeds that were trained at the time of uniform's"
    return "seconds: none, not trained at the time of uniform's runs"


def _remarks(
    row: dict[str, object], runs: pd.DataFrame, shown: pd.DataFrame, pairs: pd.DataFrame, unfinished: int
) -> list[str]:
    """What a reader of one row has to know, worst first."""
    arm = runs["arm"].iloc[0] if len(runs) else ""
    medians = [np.isinf(median(pairs[f"examples_cost{who}"])) for who in ("", "_uniform")]
    diverged = shown[shown["status"] == "diverged"]
    after = int(np.isfinite(diverged["examples_cost"]).sum())
    low, costs_error = row[f"{DIFFERENCE}_low"], row[DIFFERENCE]
    lengths = shown["message"].where(shown["status"] == "done", "").astype(bool).sum()
    asked = len(pairs) > 0 and pairs["level"].notna().all()
    remarks = [
        (len(runs) and pairs.empty, "no uniform run to compare with"),
        (len(pairs) and not asked, "no target loss"),
        (asked and medians[0] and (arm == "uniform" or not medians[1]), "the median run does not reach the target"),
        (asked and all(medians) and arm != "uniform", "neither median run reaches the target"),
        (asked and medians[1] and not medians[0], "uniform's median run does not reach the target"),
        (len(diverged), f"{len(diverged)} of {len(shown)} diverged" + (f", {after} after the target" if after else "")),
        (low > ROUNDING, f"costs test error: {100 * costs_error:+.2f} %"),
        (lengths, f"{lengths} of {len(shown)} stopped short of the budget"),
        (unfinished, f"{unfinished} unfinished, left out"),
        (len(runs) - len(shown), f"{len(runs) - len(shown)} without a uniform run of their seed, left out"),
        (asked and _lacks_spread(row, pairs, arm), "no interval: too often neither median is at the target"),
        (asked and not same_hardware(pairs), "seconds: not on the same hardware"),
        (asked and same_hardware(pairs) and not same_time(pairs).all(), _of_other_times(pairs)),
        (arm in NOT_COUNTED and len(runs), NOT_COUNTED.get(arm, "")),
    ]
    return [text for holds, text in remarks if holds]


def _lacks_spread(row: dict[str, object], pairs: pd.DataFrame, arm: str) -> bool:
    return arm != "uniform" and len(pairs) > 1 and bool(np.isnan(row["examples_low"]))


def _last(wide: pd.DataFrame, metric: str) -> float:
    values = wide[metric].to_numpy(float) if metric in wide else np.empty(0)
    known = values[~np.isnan(values)]
    return float(known[-1]) if len(known) else float("nan")


def _log(y: ArrayLike) -> NDArray:
    return np.log(np.maximum(np.asarray(y, float), np.finfo(float).tiny))
