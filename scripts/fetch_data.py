"""Fetch and verify data sets, and print where they lie: `python scripts/fetch_data.py mnist` (no name: all).

Files go into $RAIS_DATA where it is set and into ~/.cache/rais otherwise; files that are there are checked,
not replaced. The exit code is 1 where one of the data sets cannot be had. All of them are about 2 GB, of which svhn
is 1.6 GB.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rais.paper import data


def main(arguments: Sequence[str] | None = None) -> int:
    known = sorted(set(data.DATA_SETS) - {"npz"})  # the user's own file
    parser = argparse.ArgumentParser(description="Fetch and verify data sets, and print where they lie.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(known)}; all of them if none is named")
    names = parser.parse_args(arguments).names or known
    if unknown := [name for name in names if name not in known]:
        parser.error(f"unknown data set {unknown[0]!r}: choose from {', '.join(known)}")
    missing = 0
    for name in names:
        try:
            dataset = data.load(name)
        except data.DataUnavailable as error:
            missing += 1
            print(f"{name}: {error}", file=sys.stderr)
        else:
            where = data.folder(name) or "made from scikit-learn's digits, nothing to fetch"
            print(f"{name}: {len(dataset.train)} training and {len(dataset.test)} test images, {where}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
