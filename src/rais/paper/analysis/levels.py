"""Speed-ups at other losses than uniform's final one, from the records alone.

At its final loss L* a comparison is at its sharpest and at its most fragile: an arm that trains to the same budget is
there only at its very end, or by chance never. The same question is therefore also asked for multiples of L*, which
every curve passes on its way.
"""

from __future__ import annotations

import pandas as pd

from rais.paper.analysis.speedup import remarks_on_examples, speedup_table
from rais.paper.records.read import Records

ARMS = ("uniform", "rais", "oracle")
FACTORS = (1, 1.5, 2, 3, 5, 10, 30, 100)
COLUMNS = ["task", "arm", "factor", "level", "n_seeds", "examples_speedup", "examples_low", "examples_high", "status"]


def levels_table(records: Records) -> pd.DataFrame:
    """The speed-ups of ARMS in examples at FACTORS times L*, one row a task, arm and factor, columns COLUMNS.

    level: that loss, in nats. status: what tempers the speed-up in examples. A level at or above the loss that some
    uniform run started with has no row, nor has an arm without complete runs. [ours]
    """
    records = records.where(records.runs["arm"].isin(ARMS))
    tables = [speedup_table(records, factor).assign(factor=factor) for factor in FACTORS]
    table = pd.concat(tables, ignore_index=True)
    reached = table[table["arm"] == "uniform"].drop_duplicates("task").set_index("task")["final_train_loss"]
    table["level"] = table["factor"] * table["task"].map(reached)
    table["status"] = ["; ".join(remarks_on_examples(status)) or "done" for status in table["status"]]
    table = table[table["examples_speedup"].notna()]
    return table.sort_values(["task", "arm", "factor"], kind="stable", ignore_index=True)[COLUMNS]
