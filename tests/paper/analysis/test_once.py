"""A table is made once for the same records, and no caller can spoil it for the next."""

from __future__ import annotations

import pandas as pd

from rais.paper.analysis.once import once
from rais.paper.records.read import load


def test_a_table_is_made_once_for_the_same_records_and_arguments(many_records) -> None:
    calls = []

    @once
    def table(records, factor=1.0) -> pd.DataFrame:
        calls.append(factor)
        return records.runs[["seed"]] * factor

    records = load(many_records)
    first = table(records)
    first["seed"] = -1
    assert (table(records)["seed"] == records.runs["seed"]).all() and calls == [1.0]
    assert (table(records, 2.0)["seed"] == 2 * records.runs["seed"]).all() and calls == [1.0, 2.0]


def test_a_part_of_the_records_has_tables_of_its_own(many_records) -> None:
    @once
    def table(records) -> pd.DataFrame:
        return records.runs[["task"]]

    records = load(many_records)
    assert len(table(records)) == len(records.runs)
    part = records.of("digits")
    assert len(table(part)) == len(part.runs) < len(records.runs)
