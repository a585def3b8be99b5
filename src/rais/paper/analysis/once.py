"""A table that several figures, tables and pages show is made once for the same records."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

import pandas as pd

from rais.paper.records.read import Records


def once(make: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
    """`make(records, *args)`, kept by the records for the next caller, who is given a copy that is its own."""

    @wraps(make)
    def made(records: Records, *args: float) -> pd.DataFrame:
        key = (make.__module__, make.__name__, *args)
        if key not in records.made:
            records.made[key] = make(records, *args)
        return records.made[key].copy()

    return made
