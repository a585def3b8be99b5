"""Which runs were made side by side, so that their seconds can be compared.

The same step takes longer on another processor, and on a shared machine from one hour to the next. What the losses say
does not depend on it; the seconds of two runs are compared only if both ran on the same hardware at the same time.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

APART = 3600.0  # seconds that may lie between the end of one run and the start of the other
HARDWARE = ("cpu", "threads", "gpu")


def same_hardware(pairs: pd.DataFrame) -> bool:
    """Whether all runs of the pairs had one hardware. pairs: columns of `Records.runs`, and again with _uniform."""
    found = {
        machine for who in ("", "_uniform") for machine in zip(*(pairs[f"{key}{who}"] for key in HARDWARE), strict=True)
    }
    return len(found) == 1


def same_time(pairs: pd.DataFrame) -> pd.Series:
    """Whether at most APART lay between the two runs of each pair; False where a run did not say when it was made."""
    later = np.maximum(pairs["started"], pairs["started_uniform"])
    return later - np.minimum(pairs["finished"], pairs["finished_uniform"]) <= APART


def apart(runs: pd.DataFrame) -> pd.Series:
    """Whether a run's seconds say nothing beside uniform's, one bool for each row of `Records.runs`: it and the uniform
    run of its task, variant and seed had other hardware or another time, or the seeds of that task and variant had
    several hardwares, and a median over them would mix these. False for a run without such a uniform one."""
    keys = ["task", "variant", "seed"]
    uniform = runs[runs["arm"] == "uniform"].drop_duplicates(keys)
    pairs = runs.reset_index().merge(uniform, on=keys, suffixes=("", "_uniform")).set_index("index")
    alike = same_time(pairs)
    for key in HARDWARE:
        alike &= pairs[key] == pairs[f"{key}_uniform"]
    machine = pd.Series(list(zip(*(pairs[key] for key in HARDWARE), strict=True)), pairs.index, dtype=object)
    alike &= machine.where(alike).groupby([pairs["task"], pairs["variant"]]).transform("nunique") == 1
    return ~alike.reindex(runs.index, fill_value=True).astype(bool)
