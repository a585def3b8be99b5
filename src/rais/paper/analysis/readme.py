"""The parts of the README that hold numbers, made from records and put between their marks.

A part stands between `<!-- name:begin -->` and `<!-- name:end -->`. Nobody types a number there: `make figures` does.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

from rais.paper.analysis import sensitivity
from rais.paper.analysis import speedup as stats
from rais.paper.records.read import Records

MARK = re.compile(r"<!-- (\w+):(begin|end) -->")


def parts(records: Records, bench: Path) -> dict[str, str]:
    """Markdown by name: `claim`, `speedup`, and from bench/*.csv and .json, where they are, `bench` and `unrun`."""
    return {
        "claim": claim(records),
        "speedup": stats.readme_table(records),
        "bench": bench_table(bench),
        "unrun": unrun_table(records, bench),
    }


def fill(text: str, made: dict[str, str], path: Path) -> str:
    """`text` with every part of `made` between its marks.

    Raises:
        ValueError: a mark is missing, repeated, out of order, or of an unknown part.
    """
    for name in {name for name, _ in MARK.findall(text)} | {"speedup"}:
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        if name not in made or text.count(begin) != 1 or text.count(end) != 1 or end not in rest:
            raise ValueError(f"{path} must hold the lines {begin} and {end} once each, for {', '.join(made)} alone")
        text = f"{before}{begin}\n{made[name]}{end}{after}"
    return text


def claim(records: Records) -> str:
    """What RAIS saved on MNIST, and where it was run what it saves if it may go on a little past uniform's budget;
    nothing where there are no such records."""
    table = stats.speedup_table(records)
    rows = table[(table["task"] == "mnist") & (table["arm"] == "rais")]
    if rows.empty:
        return ""
    row = rows.iloc[0]
    end = stats.final_table(records).set_index(["task", "arm"]).loc[("mnist", "rais")]
    note = "" if row["status"] == "done" else f" Of these runs: {row['status']} (counted as 0)."
    fewer, sooner = (stats.speedup_text(row, unit) for unit in ("examples", "seconds"))
    return (
        f"**On MNIST with LeNet-5, RAIS reached uniform SGD's final training loss with {fewer} fewer examples and in "
        f"{sooner} less time** ({row['n_seeds']} seeds, 95 % intervals; {end['hardware']}).{note}{_longer(records)}\n"
    )


def _longer(records: Records) -> str:
    """The same for runs of RAIS with another budget: those that end just above L* get there later."""
    table = sensitivity.sensitivity_table(records.of("mnist"))
    default = sensitivity.default_of(records.of("mnist"), "epochs")
    rows = table[(table["sweep"] == "epochs") & (table["arm"] == "rais") & (table["value"] != default)]
    return "".join(
        f" With a budget of {float(row['value']):g} instead of {default} epochs equivalent, "
        f"{row['n_seeds'] - row['never'] - row['diverged']} of {row['n_seeds']} got there: "
        f"{stats.speedup_text(row, 'examples')} fewer examples."
        for _, row in rows.iterrows()
    )


def bench_table(bench: Path) -> str:
    """The rows of bench/step.csv, and how they were measured; nothing where they are missing."""
    lines = ["| what | value [95 % interval] |", "|---|---|"]
    for row in _rows(bench, "step"):
        value, low, high = (f"{float(row[key]):.3f}" for key in ("value", "low", "high"))
        unit = "" if row["unit"] == "1" else f" {row['unit']}"
        lines.append(f"| {row['quantity']} | {value}{unit}" + (f" [{low}, {high}] |" if low != high else " |"))
    return _with_source(lines, bench, "step")


def unrun_table(records: Records, bench: Path) -> str:
    """The tasks of bench/tasks.csv without complete headline runs: how to run them, and what that takes on a CPU."""
    lines = ["| task | command | a step of uniform SGD | a run, evaluations not counted |", "|---|---|---|---|"]
    for row in _rows(bench, "tasks"):
        if row["task"] not in records.comparable.tasks:
            command = f"`python scripts/train.py --multirun experiment=fig4_{row['task']}`"
            seconds, hours = float(row["seconds_per_step"]), float(row["hours_per_run"])
            lines.append(f"| {row['task']} | {command} | {seconds:.1f} s | {hours:.0f} h |")
    return _with_source(lines, bench, "tasks")


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
    return "\n".join(lines) + f"\n\n`{made['command']}`, {hardware['cpu']}, {hardware['threads']} thread.\n"
