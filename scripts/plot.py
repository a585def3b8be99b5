"""Draw figures and tables from records: `python scripts/plot.py` (or with names, such as fig1_oracle, or fig4).

Reads the record root, writes OUT/tables/*.csv, OUT/figures/*.png and *.pdf, and prints the speed-ups and every path.
A figure whose runs are missing is listed as skipped with the command that makes them. `--readme README.md` puts
the numbers of the records between the marks in that file; with `--check` nothing is written, and the exit code is
1 where the numbers in the file are not those of the records.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from rais.paper import figures
from rais.paper.analysis import levels, readme, sensitivity
from rais.paper.analysis import speedup as stats
from rais.paper.figures.fig2_approximation import phi_table
from rais.paper.figures.fig7_two_by_two import two_by_two_table
from rais.paper.records.read import RecordError, Records, load

TABLES = {
    "speedup": stats.speedup_table,
    "final": stats.final_table,
    "levels": levels.levels_table,
    "sensitivity": sensitivity.sensitivity_table,
    "phi": phi_table,
    "two_by_two": two_by_two_table,
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures to draw (default: all)")
    parser.add_argument("--records", type=Path, default=Path("results/records"), help="record root")
    parser.add_argument("--out", type=Path, default=Path("results"), help="holds figures/ and tables/")
    parser.add_argument("--readme", type=Path, help="file whose numbers between marks are replaced")
    parser.add_argument("--check", action="store_true", help="compare the file given by --readme, write nothing")
    options = parser.parse_args(arguments)
    if options.check and not options.readme:
        parser.error("--check needs --readme FILE")
    return options


def write_tables(records: Records, out: Path) -> list[Path]:
    """OUT/tables/*.csv, six digits; a table without rows is left out. Returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, make in TABLES.items():
        table = make(records)
        if len(table):
            paths.append(out / f"{name}.csv")
            table.to_csv(paths[-1], index=False, float_format="%.6g", lineterminator="\n")
    return paths


def write_figures(records: Records, names: Sequence[str], out: Path) -> tuple[list[Path], list[str]]:
    """The figures of those names: the paths written, and a line for every figure whose runs are missing."""
    paths, skipped = [], []
    for name in names:
        try:
            paths += figures.save(figures.draw(name, records), out / name)
        except figures.MissingRuns as reason:
            skipped.append(str(reason))
    return paths, skipped


def terminal_table(records: Records) -> str:
    """The table of speed-ups in aligned text, and the runs that were left out."""
    table = stats.speedup_table(records)
    ends = {"examples": [], "seconds": []}
    for _, row in table.iterrows():
        for unit, cells in ends.items():
            cells.append(stats.speedup_text(row, unit))
    shown = pd.DataFrame(
        {
            "task": table["task"],
            "arm": table["arm"],
            "n": table["n_seeds"],
            "speed-up, examples": ends["examples"],
            "speed-up, seconds": ends["seconds"],
            "final loss": table["final_train_loss"].map("{:.4f}".format),
            "test error": table["test_error"].map("{:.2%}".format),
            "status": table["status"],
        }
    )
    lines = [shown.to_string(index=False)]
    lines += [f"left out, {run['status']}: {records.root / run['folder']}" for _, run in records.unfinished.iterrows()]
    lines += [f"left out: {line}" for line in records.skipped]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        records = load(options.records)
        known = figures.figures_for(records)
        named = {name: [n for n in known if n == name or n.startswith(f"{name}_")] for name in options.names}
        if unknown := [name for name, found in named.items() if not found]:
            raise ValueError(f"no figure {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
        if options.check:
            return check(records, options)
        print(terminal_table(records), end="\n\n")
        paths = write_tables(records, options.out / "tables")
        drawn, skipped = write_figures(records, sum(named.values(), []) or list(known), options.out / "figures")
        paths += drawn
        if options.readme:
            text = options.readme.read_text(encoding="utf-8")
            made = readme.parts(records, options.out / "bench")
            options.readme.write_text(readme.fill(text, made, options.readme), encoding="utf-8")
            paths.append(options.readme)
    except (RecordError, ValueError, OSError) as error:
        raise SystemExit(f"plot: {error}") from error
    print("\n".join([*map(str, paths), *(f"skipped: {reason}" for reason in skipped)]))
    return 0


def check(records: Records, options: argparse.Namespace) -> int:
    """0 where the numbers in the README are those of the records, else 1 and the command that renews them."""
    text = options.readme.read_text(encoding="utf-8")
    if readme.fill(text, readme.parts(records, options.out / "bench"), options.readme) == text:
        return 0
    print(f"plot: numbers in {options.readme} are not those of {records.root}: run `make figures`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
