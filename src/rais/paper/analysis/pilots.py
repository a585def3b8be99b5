"""Where targets come from: pilot runs of uniform SGD, on seeds that are never reported.

A task's target is the geometric mean over the pilots of their training loss at three quarters of the budget, and it is
valid only if every pilot reaches it within the budget; otherwise it is that of the latest earlier place which is.
Pilots at half and at twice the learning rate say whether uniform was given the rate that is best for it.

symbol    code       shape      unit
t̂         epochs_equivalent     epochs equivalent; the budget is where the schedule ends
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from rais.paper.analysis.curves import interpolated
from rais.paper.analysis.once import once
from rais.paper.analysis.speedup import crossing, hardware
from rais.paper.records.read import Records

SHARE = 0.75  # of the budget, at which the loss is the target [ours]
EARLIER = tuple(k / 24 for k in range(17, 11, -1))  # tried in turn if a pilot misses the loss at SHARE for good [ours]
RATES = {"lr_half": 0.5, "": 1.0, "lr_twice": 2.0}
PILOTS = 5  # that a target is made from [ours]
DIGITS = 3  # of a target that is written into a YAML file
PILOT_COLUMNS = [
    *("task", "learning_rate", "n_seeds", "budget", "loss", "loss_low", "loss_high", "final_loss", "diverged", "best"),
]
TARGET_COLUMNS = [
    *("task", "target_loss", "learning_rate", "epochs_equivalent", "budget", "n_seeds", "seeds"),
    *("reached", "valid", "lowest", "highest", "commit", "hardware"),
]


def loss_at(wide: pd.DataFrame, epochs_equivalent: float) -> float:
    """The training loss of one run, `Records.wide`, at a place in t̂, log-linear between two evaluations; nan where the
    run did not get that far."""
    x, loss = wide["epochs_equivalent"], wide["train_loss"]
    known = loss.notna()
    if not known.any() or x[known].iloc[-1] < epochs_equivalent * (1 - 1e-9):
        return float("nan")
    return float(interpolated(epochs_equivalent, x[known], loss[known], log=True))


def pilot_table(records: Records) -> pd.DataFrame:
    """What each learning rate gave, one row a task and multiple of the task's rate, columns PILOT_COLUMNS.

    loss: geometric mean over seeds of the training loss at SHARE of the budget (nats), loss_low and loss_high the
    extremes; a rate with a diverged pilot has none (inf). final_loss: the same at the end of the budget. best: the rate
    with the lowest loss of its task over the seeds that all its rates have.
    """
    runs = pilot_runs(records)
    rows = []
    for (task, rate), pilots in runs.groupby(["task", "learning_rate"]):
        losses = pilots["loss"].where(pilots["status"] == "done", np.inf)
        row = {"task": task, "learning_rate": rate, "n_seeds": len(pilots), "budget": pilots["epochs"].iloc[0]}
        row |= {"loss": _geometric_mean(losses), "loss_low": losses.min(), "loss_high": losses.max()}
        row |= {"final_loss": _geometric_mean(pilots["final"]), "diverged": int((pilots["status"] == "diverged").sum())}
        rows.append(row | {"best": rate == _best_rate(runs[runs["task"] == task])})
    return pd.DataFrame(rows, columns=PILOT_COLUMNS)


@once
def target_table(records: Records) -> pd.DataFrame:
    """The target of each task with its provenance, one row a task with pilots, columns TARGET_COLUMNS.

    It is taken from the pilots at the best learning rate, rounded to DIGITS digits, at SHARE of the budget; if a pilot
    never gets down to that loss, at the latest of EARLIER at which every pilot gets there. reached: pilots that get
    there within the budget; valid: all of them. lowest, highest: the pilots' losses at that place.
    """
    runs, rates = pilot_runs(records), pilot_table(records)
    rows = []
    for _, best in rates[rates["best"].eq(True)].iterrows():
        pilots = runs[(runs["task"] == best["task"]) & (runs["learning_rate"] == best["learning_rate"])]
        if not np.isfinite(best["loss"]):
            continue
        wides = [records.wide(pilot) for pilot in _rows(pilots)]
        tried = [_target_at(share * best["budget"], wides) for share in (SHARE, *EARLIER)]
        found = next((each for each in tried if each["valid"]), tried[0])
        rows.append(
            {
                **best[["task", "learning_rate", "budget", "n_seeds"]].to_dict(),
                **found,
                "seeds": " ".join(str(seed) for seed in sorted(pilots["seed"])),
                "commit": " ".join(sorted(set(pilots["commit"].str[:10]))),
                "hardware": hardware(pilots),
            }
        )
    return pd.DataFrame(rows, columns=TARGET_COLUMNS)


def with_targets(records: Records, pilots: Records | None) -> Records:
    """`records`, in which a run that names no target has that of the other runs of its task, else that of the `pilots`.

    Such runs were made beside their pilots, before the target was written into conf/task/<task>.yaml.
    """
    if pilots is None:
        return records
    runs = records.runs
    of_task = runs["target_loss"].astype(float).groupby(runs["task"]).transform("first")
    known = target_table(pilots).query("valid").set_index("task")["target_loss"]
    targets = runs["target_loss"].astype(float).fillna(of_task).fillna(runs["task"].map(known))
    return replace(records, runs=runs.assign(target_loss=targets))


def _target_at(epochs_equivalent: float, wides: list[pd.DataFrame]) -> dict[str, float]:
    """The geometric mean of the pilots' losses at a place in t̂, and how many of them get there."""
    losses = pd.Series([loss_at(wide, epochs_equivalent) for wide in wides])
    target = float(f"{_geometric_mean(losses):.{DIGITS}g}")
    costs = [crossing(wide["epochs_equivalent"], wide["train_loss"], target) for wide in wides]
    return {
        "target_loss": target,
        "epochs_equivalent": epochs_equivalent,
        "reached": int(np.isfinite(costs).sum()),
        "valid": bool(np.isfinite(costs).all()),
        "lowest": losses.min(),
        "highest": losses.max(),
    }


def yaml_line(target: pd.Series) -> str:
    """A row of `target_table` as the line that goes into conf/task/<task>.yaml."""
    seeds = target["seeds"].split()
    return (
        f"target_loss: {target['target_loss']:g}  # nats: geometric mean of {target['n_seeds']} pilots of uniform, "
        f"seeds {seeds[0]} to {seeds[-1]}, at {target['epochs_equivalent']:g} of {target['budget']:g} "
        f"epochs equivalent (results/pilots), reached by {target['reached']}"
    )


def doubts(target: pd.Series, rates: pd.DataFrame) -> list[str]:
    """What keeps a row of `target_table` from being used as it is; `rates` is the `pilot_table`. Empty for nothing."""
    of_task = rates[rates["task"] == target["task"]]
    missing = [rate for rate in RATES.values() if rate not in set(of_task["learning_rate"])]
    found = {
        f"{target['n_seeds']} pilots: {PILOTS} are asked for": target["n_seeds"] < PILOTS,
        f"only {target['reached']} of {target['n_seeds']} pilots reach it: no target": not target["valid"],
        f"the best learning rate is {target['learning_rate']:g} times the task's: give the task that rate": (
            target["learning_rate"] != 1
        ),
        f"not tried: {', '.join(f'{rate:g}' for rate in missing)} times the learning rate": bool(missing),
    }
    return [text for text, holds in found.items() if holds]


def pilot_runs(records: Records) -> pd.DataFrame:
    """The complete runs of uniform with a rate of RATES, and their losses: loss at SHARE of the budget, final."""
    runs = records.runs
    kept = runs["arm"].eq("uniform") & runs["variant"].isin(RATES) & runs["status"].isin(("done", "diverged"))
    runs = runs[kept]
    wides = {index: records.wide(run) for index, run in runs.iterrows()}
    return runs.assign(
        learning_rate=runs["variant"].map(RATES).astype(float),
        loss=[loss_at(wide, SHARE * runs["epochs"][index]) for index, wide in wides.items()],
        final=[loss_at(wide, wide["epochs_equivalent"].iloc[-1]) for wide in wides.values()],
    )


def _best_rate(pilots: pd.DataFrame) -> float:
    """The learning rate with the lowest geometric mean of the losses, on the seeds that every rate of the task has."""
    losses = pilots.assign(loss=pilots["loss"].where(pilots["status"] == "done", np.inf))
    by_seed = losses.pivot(index="seed", columns="learning_rate", values="loss").dropna()
    return float(by_seed.apply(_geometric_mean).idxmin()) if len(by_seed) else 1.0


def _rows(table: pd.DataFrame) -> list[pd.Series]:
    return [row for _, row in table.iterrows()]


def _geometric_mean(values: pd.Series) -> float:
    return float(np.exp(np.log(values.to_numpy(float)).mean()))
