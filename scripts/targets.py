"""What pilots say of a task's target: `python scripts/targets.py` prints the line for each conf/task/<task>.yaml.

Reads the pilots, `python scripts/train.py --multirun experiment=pilots task=<task>`, and says what keeps a target from
being used. It writes nothing: a target is put into its file by hand, once, before any arm is run with it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rais.paper.analysis.pilots import doubts, pilot_table, target_table, yaml_line
from rais.paper.records.layout import RecordError
from rais.paper.records.read import load


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pilots", type=Path, default=Path("results/pilots"), help="record root of the pilots")
    options = parser.parse_args(arguments)
    try:
        records = load(options.pilots)
    except RecordError as error:
        raise SystemExit(f"targets: {error}") from error
    rates, doubtful = pilot_table(records), 0
    print(rates.to_string(index=False, float_format="{:.4g}".format), end="\n\n")
    for _, target in target_table(records).iterrows():
        found = doubts(target, rates)
        doubtful += bool(found)
        print(f"conf/task/{target['task']}.yaml\n  {yaml_line(target)}")
        print("".join(f"  but {doubt}\n" for doubt in found), end="")
    return 1 if doubtful else 0


if __name__ == "__main__":
    sys.exit(main())
