"""Timing two or more ways of doing one thing fairly: in one process, in turns, by medians.

A shared machine slows everything down for seconds at a time. Whatever it does falls on all contenders alike when they
take turns in short blocks, so their ratio is trusted and their absolute times are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """One line of bench.csv. `ratio` is ours / rival, and `target` bounds it; None for a row without one.

    ours, rival: seconds of each call, any number of them; the table gives medians and the quartiles' distance of ours.
    As many of both are taken for the rounds of `in_turns`: `ratio` is then the median over rounds of the ratio within
    a round, which slow minutes of the machine leave alone, and otherwise the ratio of the medians. rival is empty for
    a contender that could not run; `note` says why.
    """

    name: str
    case: str
    ours: np.ndarray
    rival_name: str = ""
    rival: np.ndarray | None = None
    target: float | None = None
    note: str = ""

    def cells(self) -> dict[str, object]:
        """The columns of bench.csv that the timing itself fills, in milliseconds."""
        low, middle, high = 1e3 * np.percentile(self.ours, [25, 50, 75])
        other = np.nan if self.rival is None else 1e3 * float(np.median(self.rival))
        in_rounds = self.rival is not None and len(self.rival) == len(self.ours)
        ratio = float(np.median(self.ours / self.rival)) if in_rounds else middle / other
        met = "" if self.target is None or np.isnan(ratio) else ("yes" if ratio <= self.target else "no")
        return {
            "name": self.name,
            "case": self.case,
            "ours_median_ms": _short(middle),
            "ours_iqr_ms": _short(high - low),
            "rival": self.rival_name + (f" ({self.note})" if self.note else ""),
            "rival_median_ms": _short(other),
            "ratio": _short(ratio),
            "target": "" if self.target is None else f"<= {self.target:.3g}",
            "met": met,
        }


def in_turns(
    contenders: dict[str, Callable[[], object]],
    *,
    rounds: int,
    block: int = 1,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, np.ndarray]:
    """Seconds per call of each contender, (rounds,) by name: `rounds` turns of `block` calls, the mean of each block.

    `clock` is time.process_time for work that this process does alone, which others on the machine lengthen least.
    The order within a round turns from round to round, so that none always runs after the same one.
    """
    names = list(contenders)
    for name in names:
        for _ in range(warm_up):
            contenders[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            function = contenders[name]
            begin = clock()
            for _ in range(block):
                function()
            seconds[name].append((clock() - begin) / block)
    return {name: np.array(values) for name, values in seconds.items()}


def _short(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4g}"
