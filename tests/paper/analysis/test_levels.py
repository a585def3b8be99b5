"""Speed-ups at multiples of L*, worked out by hand on curves whose crossing points are known."""

from __future__ import annotations

import math

import pytest

from falling import GRID, falling
from rais.paper.analysis import levels
from rais.paper.analysis import speedup as stats
from rais.paper.records.read import load


def rows(tmp_path, arm: str = "rais", task: str = "digits"):
    table = levels.levels_table(load(tmp_path / "records"))
    return table[(table["task"] == task) & (table["arm"] == arm)].set_index("factor")


def test_an_arm_that_falls_twice_as_fast_has_a_speed_up_of_two_at_every_level(run_writer, tmp_path):
    # L* = e^-4 = 1/54.6: a hundred times that lies above where both start, and has no row.
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.4))
        run_writer("rais", seed, GRID, falling(0.8))
    found = rows(tmp_path)
    assert found.index.tolist() == [1, 1.5, 2, 3, 5, 10, 30]
    assert found["examples_speedup"].tolist() == pytest.approx([2] * 7)
    assert found["level"].tolist() == pytest.approx([factor * math.exp(-4) for factor in found.index])
    assert set(found["n_seeds"]) == {2} and set(found["status"]) == {"done"}
    assert rows(tmp_path, "uniform")["examples_speedup"].tolist() == [1] * 7


def test_a_run_that_ends_above_the_final_loss_counts_at_the_levels_that_it_was_at(run_writer, tmp_path):
    # Seed 1 ends at 2.5 L*: it has a speed-up of 0 below that, and from 3 L* on the one of its slope.
    slow = (4 - math.log(2.5)) / 10
    for seed, rate in ((0, 0.8), (1, slow)):
        run_writer("uniform", seed, GRID, falling(0.4))
        run_writer("rais", seed, GRID, falling(rate))
    found = rows(tmp_path)
    assert found.loc[[1, 2], "examples_speedup"].tolist() == pytest.approx([1, 1])
    assert found.loc[2, "status"] == "1 of 2 never at L* (those that were: 2.00×)"
    assert found.loc[[3, 30], "examples_speedup"].tolist() == pytest.approx([(2 + slow / 0.4) / 2] * 2)
    assert (found.loc[3, "examples_low"], found.loc[3, "examples_high"]) == pytest.approx((slow / 0.4, 2))


def test_at_the_final_loss_it_is_the_table_of_speed_ups(many_records):
    records = load(many_records)
    at_one = levels.levels_table(records).query("factor == 1").reset_index(drop=True)
    table = stats.speedup_table(records)
    table = (
        table[table["examples_speedup"].notna() & table["arm"].isin(levels.ARMS)]
        .sort_values(["task", "arm"])
        .reset_index(drop=True)
    )
    shared = [column for column in levels.COLUMNS if column in table]
    assert at_one[shared].equals(table[shared])
    assert len(at_one) == 7


def test_no_uniform_run_leaves_no_rows(run_writer, tmp_path):
    run_writer("rais", 0, GRID, falling(0.8))
    assert levels.levels_table(load(tmp_path / "records")).empty
