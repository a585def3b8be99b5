"""Time what the project claims to be fast, each beside its rival: `make bench`, at most 15 minutes on two cores.

One file of benches/ asks one question. The table is results/bench/bench.csv; `--quick` runs everything in miniature
and without rivals that have to be installed. `--tasks` instead measures a step of uniform SGD on every task and what a
run would take at that pace (results/bench/tasks.csv), `--scale` RAIS from 10^4 to 10^8 examples (results/bench/
scale.csv; 12 GB), `--memory` the peak memory of exact norms (results/bench/memory.csv), `--gpu` the step and the
oracle on a GPU (results/bench/gpu.csv).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import torch
from hydra import initialize_config_dir

from benches import drawing, gpu, loop, memory, norms, oracle, scale, step, tasks, uncertainty
from rais.paper import settings
from rais.paper.records.environment import environment

ROOT = Path(__file__).resolve().parents[1]
BENCHES = {
    "step": step,
    "norms": norms,
    "oracle": oracle,
    "loop": loop,
    "drawing": drawing,
    "uncertainty": uncertainty,
}
COLUMNS = (
    *("name", "case", "ours_median_ms", "ours_iqr_ms", "rival", "rival_median_ms", "ratio", "target", "met"),
    *("threads", "hardware", "versions"),
)


def measure(benches: Iterable[ModuleType], quick: bool, device: torch.device) -> list[dict[str, object]]:
    """The rows of bench.csv or gpu.csv, printed as they come."""
    about = environment(device)
    versions = " ".join(f"{name} {about['versions'][name]}" for name in ("torch", "numpy", "scipy"))
    shared = {
        "threads": torch.get_num_threads(),
        "hardware": about["hardware"]["gpu"] or about["hardware"]["cpu"],
        "versions": versions,
    }
    found = []
    for bench in benches:
        for row in bench.rows(quick):
            found.append({**row.cells(), **shared})
            print("  ".join(str(value) for value in row.cells().values()), flush=True)
    return found


def _shown(rows: Iterator[tuple[object, ...]]) -> list[list[str]]:
    found = []
    for row in rows:
        found.append([f"{value:.4g}" if isinstance(value, float) else str(value) for value in row])
        print("  ".join(found[-1]), flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], metavar="NAME", help=f"of {', '.join(BENCHES)}")
    parser.add_argument("--quick", action="store_true", help="in miniature, without rivals")
    parser.add_argument("--gpu", action="store_true", help="what a GPU changes instead")
    parser.add_argument("--tasks", action="store_true", help="a step of every task instead")
    parser.add_argument("--scale", type=float, metavar="N", help="RAIS up to N examples instead: --scale 1e8")
    parser.add_argument("--memory", action="store_true", help="peak memory of exact norms instead")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "bench")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    device = torch.device("cuda" if options.gpu else "cpu")
    settings.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        if options.tasks:
            name, lines = "tasks", [tasks.HEADER, *tasks.rows()]
        elif options.memory:
            name, lines = "memory", [memory.HEADER, *_shown(memory.rows(options.quick))]
        elif options.scale:
            name, lines = "scale", [scale.HEADER, *_shown(scale.rows(int(options.scale)))]
        else:
            chosen = [gpu] if options.gpu else [BENCHES[name] for name in options.names or BENCHES]
            made = measure(chosen, options.quick, device)
            name, lines = (
                "gpu" if options.gpu else "bench",
                [COLUMNS, *([row[column] for column in COLUMNS] for row in made)],
            )
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(lines)
    words = [*(sys.argv[1:] if arguments is None else arguments)]
    if "--out" in words:  # where it wrote says nothing of what it measured
        del words[words.index("--out") : words.index("--out") + 2]
    command = " ".join(["python scripts/bench.py", *words])
    about = {"command": command, **environment(device)}
    (options.out / f"{name}.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    sys.exit(main())
