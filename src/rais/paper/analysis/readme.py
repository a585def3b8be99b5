"""The parts of README.md and results/README.md that hold numbers, made from records and put between their marks.

A part is between `<!-- name:begin -->` and `<!-- name:end -->`. Nobody types a number there: `make figures` does.
Every number carries its spread and its seeds; every row its command, duration and hardware.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from rais.paper.analysis.final import final_table
from rais.paper.analysis.headroom import headroom_table
from rais.paper.analysis.intervals import SEEDS
from rais.paper.analysis.rises import rises_table, steadiness_table
from rais.paper.analysis.speedup import DIFFERENCE, at_target, speedup_table, speedup_text, spread_text
from rais.paper.records.read import Records

Part = Callable[[], str]
MARK = re.compile(r"<!-- (\w+):(begin|end) -->")
# The rows of the first table: task, and its name for a stranger.
FIRST = {"mnist": "MNIST, LeNet-5", "digits": "digits, LeNet-5", "cifar10_resnet8": "CIFAR-10, ResNet-8"}
ADAMW = {  # arms of the tasks that train with AdamW
    "uniform": "uniform draws",
    "rais_multiplier_off": "RAIS's draws, multiplier 1",
    "rais_multiplier_root": "RAIS's draws, √r",
    "rais": "RAIS's draws, r",
}
SPREADS = (
    f"[95 % bootstrap interval of the ratio of medians] from {SEEDS} seeds on, "
    "(range of the same-seed ratios) with fewer."
)


def parts(records: Records, bench: Path) -> dict[str, Part]:
    """What makes the markdown of each part, by name: from the records, and from bench/*.csv and .json, where they are,
    those of timings."""
    return {
        "claim": partial(claim, records),
        "first": partial(first_table, records),
        "speedup": partial(speedup_markdown, records),
        "steadiness": partial(steadiness_markdown, records),
        "headroom": partial(headroom_markdown, records),
        "adamw": partial(adamw_table, records),
        "bench": partial(bench_table, bench, "step"),
        "benches": partial(bench_table, bench),
        "gpu": partial(bench_table, bench, file="gpu"),
        "scale": partial(plain_table, bench, "scale"),
        "memory": partial(plain_table, bench, "memory"),
        "unrun": partial(unrun_table, records, bench),
    }


def marked(path: Path, made: Mapping[str, Part]) -> list[str]:
    """The names of `made` that the file has marks for.

    Raises:
        ValueError: no mark at all, or one that is missing, repeated, out of order, or of an unknown part.
    """
    text = path.read_text(encoding="utf-8")
    found = sorted({name for name, _ in MARK.findall(text)})
    if not found:
        raise ValueError(f"{path} has no marks to put numbers between, such as <!-- speedup:begin -->")
    for name in found:
        begin, end = _marks(name)
        if name not in made or text.count(begin) != 1 or text.count(end) != 1 or end not in text.partition(begin)[2]:
            raise ValueError(f"{path} must hold the lines {begin} and {end} once each, for {', '.join(made)} alone")
    return found


def filled(path: Path, made: Mapping[str, Part]) -> str:
    """The text of the file with every part that it has marks for between them. Raises ValueError as `marked`."""
    names, text = marked(path, made), path.read_text(encoding="utf-8")
    for name in names:
        begin, end = _marks(name)
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{made[name]()}{end}{rest.partition(end)[2]}"
    return text


def _marks(name: str) -> tuple[str, str]:
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def claim(records: Records) -> str:
    """What RAIS saved on MNIST, in one sentence; nothing where there are no such records, or no target."""
    table = speedup_table(records)
    rows = table[(table["task"] == "mnist") & (table["arm"] == "rais") & (table["examples_speedup"] > 0)]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    end = final_table(records).set_index(["task", "arm"]).loc[("mnist", "rais")]
    time = "" if np.isnan(row["seconds_speedup"]) else f" and {speedup_text(row, 'seconds')} its time"
    error = "" if np.isnan(row[DIFFERENCE]) else f"; RAIS's test error is {difference_text(row)} from that of SGD"
    return (
        f"**To one training loss on MNIST with LeNet-5, plain SGD takes {speedup_text(row, 'examples')} the examples "
        f"of RAIS{time}** ({at_target(row)} seeds reach it{error}; {end['hardware']}).\n"
    )


def first_table(records: Records) -> str:
    """The table of the README's first screen: RAIS on the tasks of FIRST, those that have records."""
    table = speedup_table(records).set_index(["task", "arm"], drop=False)
    final = final_table(records).set_index(["task", "arm"])
    heads = ["task", "speed-up in examples", "in seconds", "seeds at the target", "test error, against SGD", "hardware"]
    lines = table_head(heads)
    for task, name in FIRST.items():
        if (task, "rais") in table.index:
            row = table.loc[(task, "rais")]
            units = (speedup_text(row, unit) for unit in ("examples", "seconds"))
            machine = final.loc[(task, "rais"), "hardware"]
            lines.append(cells([name, *units, at_target(row), difference_text(row), machine]))
    return f"{chr(10).join(lines)}\n\n{SPREADS}\n" if len(lines) > 2 else ""


def speedup_markdown(records: Records) -> str:
    """The whole table of speed-ups, and a note for every row whose status is not `done`."""
    final = final_table(records).set_index(["task", "arm"])
    heads = ["task", "arm", "speed-up in examples", "in seconds", "at the target", "final loss", "test error"]
    lines, notes = table_head([*heads, "test error, against SGD", "a run takes, hardware"]), []
    for _, row in speedup_table(records).iterrows():
        if row["status"] != "done":
            notes.append(f"- {row['task']}, `{row['arm']}`: {row['status']}.")
        if not row["n_seeds"]:
            continue
        end = final.loc[(row["task"], row["arm"])]
        lines.append(
            cells(
                [
                    row["task"],
                    f"`{row['arm']}`",
                    *(speedup_text(row, unit) for unit in ("examples", "seconds")),
                    at_target(row),
                    _range(end, "final_train_loss", 1, ".4f"),
                    _range(end, "test_error", 100, ".2f") + " %",
                    difference_text(row),
                    f"{_duration(end['duration_seconds'])}, {end['hardware']}",
                ]
            )
        )
    if len(lines) == 2:
        return ""
    lines += ["", f"{SPREADS} Losses and errors: median (lowest to highest).", *([""] if notes else []), *notes]
    return "\n".join(lines) + "\n"


def steadiness_markdown(records: Records) -> str:
    """The table of largest weights and rises, and the runs whose loss more than trebled."""
    heads = ["task", "arm", "seeds", "largest weight", "largest rise of the loss", "uniform's", "runs that trebled"]
    lines = table_head(heads)
    for _, row in steadiness_table(records).iterrows():
        weight = "–" if np.isnan(row["largest_weight"]) else f"{row['largest_weight']:.3g}"
        rise, beside = _range(row, "largest_rise", 1, ".2f"), f"{row['uniform_largest_rise']:.2f}"
        lines.append(cells([row["task"], f"`{row['arm']}`", row["n_seeds"], weight, rise, beside, row["trebled"]]))
    notes = [
        f"- {run['task']}, `{run['arm']}{'@' + run['variant'] if run['variant'] else ''}`, seed {run['seed']}, epoch "
        f"{run['epoch']:.1f}: {run['loss_before']:.3g} → {run['loss_after']:.3g} ({run['rise']:.1f}×), largest weight "
        f"{run['largest_weight']:.3g}, r {run['gain_ratio']:.3g}, learning rate {run['learning_rate']:.3g}."
        for _, run in rises_table(records).iterrows()
    ]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n" if len(lines) > 2 else ""


def headroom_markdown(records: Records) -> str:
    """The table of where the possible gain is lost: medians over evaluations of diagnosed runs."""
    heads = ["task", "arm", "seeds", "oracle ρ", "hindsight ρ", "ρ in use", "estimated ρ", "estimated / true"]
    lines = table_head([*heads, "slow average / true", "φ", "r", "lost to"])
    for _, row in headroom_table(records).iterrows():
        names = ("oracle_rho", "hindsight_rho", "true_rho", "rho", "estimated_over_true", "slow_over_true", "phi")
        numbers = ("–" if np.isnan(row[name]) else f"{row[name]:.2f}" for name in (*names, "gain_ratio"))
        lines.append(cells([row["task"], f"`{row['arm']}`", row["n_seeds"], *numbers, row["verdict"]]))
    return "\n".join(lines) + "\n" if len(lines) > 2 else ""


def adamw_table(records: Records) -> str:
    """What each multiplier of the learning rate does to AdamW."""
    table = speedup_table(records).set_index(["task", "arm"], drop=False)
    lines = table_head(
        ["task", "AdamW with", "speed-up in examples", "at the target", "final loss", "test error, against uniform"]
    )
    for task in (task for task in records.tasks if task.endswith("_adamw")):
        for arm in (arm for arm in ADAMW if (task, arm) in table.index):
            row = table.loc[(task, arm)]
            ends = at_target(row), f"{row['final_train_loss']:.2g}", difference_text(row)
            lines.append(cells([task, ADAMW[arm], speedup_text(row, "examples"), *ends]))
    return f"{chr(10).join(lines)}\n\n{SPREADS}\n" if len(lines) > 2 else ""


def difference_text(row: pd.Series) -> str:
    """The difference in test error of a row of the speed-up table, percentage points, such as `+0.03 % [-0.02,
    0.07]`."""
    if np.isnan(row[DIFFERENCE]):
        return "–"
    low, high = 100 * row[f"{DIFFERENCE}_low"], 100 * row[f"{DIFFERENCE}_high"]
    return f"{100 * row[DIFFERENCE]:+.2f} %" + spread_text(low, high, row["n_seeds"], "+.2f")


def bench_table(bench: Path, name: str | None = None, file: str = "bench") -> str:
    """The rows of bench/`file`.csv, those called `name` or all, and how they were measured; nothing without them."""
    lines = table_head(["what", "case", "ours, ms", "beside", "its ms", "ratio", "target", "met"])
    for row in _rows(bench, file):
        if name in (None, row["name"]):
            columns = ("name", "case", "ours_median_ms", "rival", "rival_median_ms", "ratio", "target", "met")
            lines.append(cells([row[column] or "–" for column in columns]))
    return _with_source(lines, bench, file)


def plain_table(bench: Path, file: str) -> str:
    """bench/`file`.csv, its columns as they are called there, and how it was measured; nothing without it."""
    rows = _rows(bench, file)
    lines = table_head([name.replace("_", " ") for name in rows[0]]) if rows else table_head([])
    return _with_source([*lines, *(cells(list(row.values())) for row in rows)], bench, file)


def unrun_table(records: Records, bench: Path) -> str:
    """The tasks of bench/tasks.csv without complete headline runs: how to run them, and what that takes on a CPU."""
    lines = table_head(["task", "command", "a step of uniform SGD", "a run, evaluations not counted"])
    for row in _rows(bench, "tasks"):
        if row["task"] not in records.comparable.tasks:
            command = f"`python scripts/train.py --multirun experiment=curves task={row['task']}`"
            seconds, hours = float(row["seconds_per_step"]), float(row["hours_per_run"])
            lines.append(cells([row["task"], command, f"{seconds:.2g} s", f"{hours:.2g} h"]))
    return _with_source(lines, bench, "tasks")


def cells(texts: Sequence[object]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(map(str, texts)) + " |"


def table_head(heads: Sequence[str]) -> list[str]:
    """The two lines that begin a Markdown table."""
    return [cells(heads), cells(["---"] * len(heads))]


def _range(row: pd.Series, name: str, scale: float, form: str) -> str:
    """`median (lowest to highest)` of a number in the columns `name`, `name`_low and `name`_high."""
    middle, low, high = (scale * row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if np.isnan(middle):
        return "–"
    ends = f" ({format(low, form)} to {format(high, form)})" if low < high else ""
    return format(middle, form) + ends


def _rows(bench: Path, name: str) -> list[dict[str, str]]:
    """bench/`name`.csv; no rows where that or the file that says how it was made is missing."""
    if not ((bench / f"{name}.csv").is_file() and (bench / f"{name}.json").is_file()):
        return []
    with (bench / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _with_source(lines: list[str], bench: Path, name: str) -> str:
    """A Markdown table and how it was measured; nothing for a table of two lines, its head."""
    if len(lines) == 2:
        return ""
    made = json.loads((bench / f"{name}.json").read_text(encoding="utf-8"))
    hardware = made["hardware"]
    place = hardware.get("gpu") or hardware["cpu"]
    return "\n".join(lines) + f"\n\n`{made['command']}`, {place}, {hardware['threads']} thread.\n"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{seconds / 60:.0f} min"
