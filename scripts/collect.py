"""Copy finished runs into the committed records: `python scripts/collect.py`, or `… --runs FOLDER FOLDER …`.

A run is taken when it is done or diverged, its record is whole and its code was committed; every other one is refused
with a line that says why. Folders of several machines are taken together. Nothing in the records is ever overwritten.
The exit code is 1 where a run was refused.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rais.paper.records.layout import COMPLETE, KEPT, RecordError, read_meta, run_folders
from rais.paper.records.read import read_run

Key = tuple[str, str, str, int, bool]


def collect(roots: Sequence[Path], records: Path) -> tuple[list[Path], list[Path], dict[Path, str]]:
    """Copy what can be taken: the folders copied, those that were there already, and why others were refused."""
    keys: dict[Path, Key] = {}
    targets: dict[Path, Path] = {}
    refused: dict[Path, str] = {}
    for root in roots:
        if not (folders := run_folders(root)):
            raise RecordError(
                f"no runs under {root}: make some with `make reproduce`, or name their folder with --runs"
            )
        for folder in folders:
            targets[folder] = records / folder.relative_to(root)
            try:
                keys[folder] = _check(folder)
            except RecordError as error:
                refused[folder] = str(error)
    held = {}
    for folder in run_folders(records):
        try:
            held[_key(read_run(folder)[0])] = folder
        except RecordError as error:
            refused[folder] = f"it is in the records already and damaged: {error}"
    copied, present = [], []
    for key in dict.fromkeys(keys.values()):
        folder, *others = [path for path in keys if keys[path] == key]
        holder, target = held.get(key, targets[folder]), targets[folder]
        if any(_contents(path) != _contents(folder) for path in others):
            for path in (folder, *others):
                refused[path] = f"{1 + len(others)} runs of this task, arm, variant and seed: delete the others"
        elif holder != target:
            refused[folder] = f"the records hold another run of this task, arm, variant and seed: delete {holder} first"
        elif not target.exists():
            shutil.copytree(folder, target, ignore=lambda _, names: set(names) - set(KEPT))
            copied.append(target)
        elif _contents(folder) == _contents(target):
            present.append(target)
        else:
            refused[folder] = f"the records hold other results of this run: delete {target} first"
    return copied, present, refused


def _check(folder: Path) -> Key:
    """The key of the run in `folder`. Raises RecordError, with the reason and the cure, for a run not to be taken."""
    run, _, _ = read_run(folder)
    if run["status"] not in COMPLETE:
        raise RecordError(f"it is {run['status']}: run it again: {run['command']}")
    if run["dirty"] is None:
        reason = read_meta(folder).get("commit_unknown") or "run from a clone of this project"
        raise RecordError(f"which code made it is unknown ({reason}); then delete the folder and run: {run['command']}")
    if run["dirty"]:
        raise RecordError(f"its code was not committed: commit, delete the folder and run again: {run['command']}")
    return _key(run)


def _key(run: dict[str, Any]) -> Key:
    """What the records may hold once: (task, arm, variant, seed, diagnostic)."""
    return run["task"], run["arm"], run["variant"], run["seed"], run["diagnostic"]


def _contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in KEPT if (folder / name).exists()}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=Path, nargs="+", default=[Path("results/runs")], help="where runs were written, on any machine"
    )
    parser.add_argument("--records", type=Path, default=Path("results/records"), help="where they are kept")
    options = parser.parse_args(arguments)
    try:
        copied, present, refused = collect(options.runs, options.records)
    except (RecordError, OSError) as error:
        raise SystemExit(f"collect: {error}") from error
    for folder in copied:
        print(f"copied: {folder}")
    for folder, reason in refused.items():
        print(f"refused: {folder}: {reason}")
    print(f"{len(copied)} copied, {len(present)} already there, {len(refused)} refused")
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
