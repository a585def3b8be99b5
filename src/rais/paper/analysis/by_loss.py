"""When an arm gains: the same speed-ups at multiples of the target, which every curve passes on its way."""

from __future__ import annotations

import pandas as pd

from rais.paper.analysis.once import once
from rais.paper.analysis.speedup import speedup_table, targets
from rais.paper.records.read import Records

ARMS = ("uniform", "rais", "rais_spaced", "oracle")
FACTORS = (1, 1.5, 2, 3, 5, 10, 30, 100)
COLUMNS = [
    *("task", "arm", "factor", "level", "n_seeds", "reached"),
    *("examples_speedup", "examples_low", "examples_high", "status"),
]


@once
def by_loss_table(records: Records) -> pd.DataFrame:
    """The speed-ups of ARMS in examples at FACTORS times the target, one row a task, arm and factor, columns COLUMNS.

    level: that loss, in nats. A level at or above the loss that some run started with has no row, nor has an arm
    without complete runs. [ours]
    """
    records = records.where(records.runs["arm"].isin(ARMS))
    tables = [speedup_table(records, factor).assign(factor=factor) for factor in FACTORS]
    table = pd.concat(tables, ignore_index=True)
    table["level"] = table["factor"] * table["task"].map(targets(records.runs)).astype(float)
    table = table[table["examples_speedup"].notna() | table["status"].str.contains("neither")]
    return table.sort_values(["task", "arm", "factor"], kind="stable", ignore_index=True)[COLUMNS]
