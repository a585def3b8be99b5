"""The benchmarks run in miniature, and their table has the columns that readers of it expect."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import bench
from benches import memory
from benches.timing import Row, in_turns


@pytest.fixture(autouse=True)
def threads_as_they_were():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_benchmark_runs_in_miniature(tmp_path: Path) -> None:
    assert bench.main(["--quick", "--out", str(tmp_path)]) == 0
    with (tmp_path / "bench.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == bench.COLUMNS
    assert {"step", "exact norms", "oracle", "loop", "drawing", "(PT)"} == {row["name"] for row in rows}
    assert all(float(row["ours_median_ms"]) > 0 for row in rows)


def test_scale_in_miniature(tmp_path: Path) -> None:
    assert bench.main(["--scale", "1e4", "--out", str(tmp_path)]) == 0
    with (tmp_path / "scale.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert float(row["bytes_per_example"]) <= 72 and all(float(value) > 0 for value in row.values())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc, which Linux has")
def test_memory_in_miniature(tmp_path: Path) -> None:
    assert bench.main(["--memory", "--quick", "--out", str(tmp_path)]) == 0
    with (tmp_path / "memory.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["contender"] for row in rows] == 2 * ["ours", "forward + backward"]
    assert all(float(row["peak_megabytes"]) > 0 for row in rows)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is read from /proc, which Linux has")
def test_a_peak_is_what_is_held_at_once_not_in_all_and_not_at_the_end() -> None:
    def call() -> float:
        return sum(float(torch.ones(10_000_000).add_(1).sum()) for _ in range(3))  # 40 MB each, one after the other

    kept = [torch.ones(10_000_000)]
    assert 39e6 < memory.peak(call) < 45e6 and len(kept) == 1


def test_a_row_holds_medians_their_ratio_and_whether_the_target_is_met() -> None:
    cells = Row("a", "b", np.array([1.0, 2.0, 9.0]), "rival", np.array([4.0, 4.0]), target=0.5).cells()
    assert (cells["ours_median_ms"], cells["rival_median_ms"], cells["ratio"]) == ("2000", "4000", "0.5")
    assert (cells["target"], cells["met"]) == ("<= 0.5", "yes")
    assert Row("a", "b", np.array([3.0]), "rival", np.array([4.0]), target=0.5).cells()["met"] == "no"
    alone = Row("a", "b", np.array([3.0]), "rival", note="refuses").cells()
    assert (alone["rival"], alone["ratio"], alone["met"]) == ("rival (refuses)", "", "")


def test_rounds_are_compared_one_by_one_so_that_slow_ones_do_not_count() -> None:
    cells = Row("a", "b", np.array([1.0, 1.0, 9.0, 9.0, 9.0]), "rival", np.array([2.0, 2.0, 2.0, 18.0, 18.0])).cells()
    assert (cells["ours_median_ms"], cells["rival_median_ms"], cells["ratio"]) == ("9000", "2000", "0.5")


def test_contenders_take_turns_and_each_call_is_counted() -> None:
    order: list[str] = []
    now = iter(range(10**6))
    contenders = {name: (lambda name=name: order.append(name)) for name in "ab"}
    seconds = in_turns(contenders, rounds=2, block=3, clock=lambda: next(now))
    assert order == [*"ab", *"aaabbb", *"bbbaaa"]
    assert all(len(each) == 2 and math.isclose(each[0], 1 / 3) for each in seconds.values())
