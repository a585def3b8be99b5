"""Draw figures and tables from records: `python scripts/plot.py` (or with names, such as headroom, or curves_mnist).

Reads the record root and the pilots, writes OUT/tables/*.csv and OUT/figures/*.png (`--pdf`: and *.pdf), and prints the
speed-ups and every path. A figure whose runs are missing is listed as skipped with the command that makes them.
`--readme FILE` puts the numbers of the records between the marks in that file; with `--check` nothing is written, and
the exit code is 1 where the numbers in a file are not those of the records.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd

from rais.paper import figures
from rais.paper.analysis import readme
from rais.paper.analysis.pilots import with_targets
from rais.paper.analysis.speedup import at_target, speedup_table, speedup_text
from rais.paper.records.layout import RecordError, run_folders
from rais.paper.records.read import Records, load


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="figures to draw (default: all)")
    parser.add_argument("--records", type=Path, default=Path("results/records"), help="record root")
    parser.add_argument("--pilots", type=Path, default=Path("results/pilots"), help="record root of the pilots")
    parser.add_argument("--out", type=Path, default=Path("results"), help="holds figures/ and tables/")
    parser.add_argument("--pdf", action="store_true", help="write each figure as PDF too")
    parser.add_argument("--readme", type=Path, action="append", default=[], help="file to put the numbers into")
    parser.add_argument("--check", action="store_true", help="compare the files given by --readme, write nothing")
    options = parser.parse_args(arguments)
    if options.check and not options.readme:
        parser.error("--check needs --readme FILE")
    return options


def write_tables(records: Records, pilots: Records | None, out: Path) -> list[Path]:
    """OUT/tables/*.csv of every figure, six digits; a table without rows is left out. Returns the paths."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for module in figures.FIGURES.values():
        source = pilots if module.NEEDS.pilots else records
        for name, make in module.NEEDS.tables.items() if source is not None else ():
            table = make(source)
            if len(table):
                paths.append(out / f"{name}.csv")
                table.to_csv(paths[-1], index=False, float_format="%.6g", lineterminator="\n")
    return paths


def write_figures(
    records: Records, pilots: Records | None, names: Sequence[str], out: Path, formats: Sequence[str]
) -> tuple[list[Path], list[str]]:
    """The figures of those names: the paths written, and a line for every figure whose runs are missing."""
    paths, skipped = [], []
    for name in names:
        try:
            paths += figures.save(figures.draw(name, records, pilots), out / name, formats)
        except figures.MissingRuns as reason:
            skipped.append(str(reason))
    return paths, skipped


def terminal_table(records: Records) -> str:
    """The table of speed-ups in aligned text, and the runs that were left out."""
    table = speedup_table(records)
    ends = {"examples": [], "seconds": []}
    for _, row in table.iterrows():
        for unit, cells in ends.items():
            cells.append(speedup_text(row, unit))
    shown = pd.DataFrame(
        {
            "task": table["task"],
            "arm": table["arm"],
            "at target": [at_target(row) for _, row in table.iterrows()],
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


def resolve(asked: Sequence[str], known: Sequence[str]) -> list[str]:
    """The names of `known` that are asked for, a figure that there is for each task by its name alone; all for none.

    Raises:
        ValueError: a name that is no figure.
    """
    named = {name: [n for n in known if n == name or n.startswith(f"{name}_")] for name in asked}
    for name in named:
        if name in figures.FIGURES and not named[name]:
            named[name] = [name]
    if unknown := [name for name, found in named.items() if not found]:
        raise ValueError(f"no figure {', '.join(sorted(unknown))}: choose from {', '.join(known)}")
    return list(dict.fromkeys(sum(named.values(), []))) or list(known)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        pilots = load(options.pilots) if run_folders(options.pilots) else None
        records = with_targets(load(options.records), pilots)
        names = resolve(options.names, figures.names(records))
        made = parts(records, pilots, options.out)
        for path in options.readme:
            readme.marked(path, made)  # before anything is drawn
        if options.check:
            return check(made, options)
        print(terminal_table(records), end="\n\n")
        formats = ("png", "pdf") if options.pdf else ("png",)
        paths = write_tables(records, pilots, options.out / "tables")
        drawn, skipped = write_figures(records, pilots, names, options.out / "figures", formats)
        paths += drawn
        for path in options.readme:
            path.write_text(readme.filled(path, made), encoding="utf-8")
            paths.append(path)
    except (RecordError, ValueError, OSError) as error:
        raise SystemExit(f"plot: {error}") from error
    print("\n".join([*map(str, paths), *(f"skipped: {reason}" for reason in skipped)]))
    return 0


def parts(records: Records, pilots: Records | None, out: Path) -> dict[str, readme.Part]:
    """What makes the parts of the README files."""
    of_figures = {"map": figures.map_table, "pictures": partial(figures.gallery, records, pilots)}
    return {**readme.parts(records, out / "bench"), **of_figures}


def check(made: dict[str, readme.Part], options: argparse.Namespace) -> int:
    """0 where the numbers in the files are those of the records, else 1 and the command that renews them."""
    stale = [path for path in options.readme if readme.filled(path, made) != path.read_text(encoding="utf-8")]
    for path in stale:
        print(f"plot: numbers in {path} are not those of {options.records}: run `make figures`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
