"""The ablation by hand: one cure taken out, held against uniform as the whole recipe is."""

from __future__ import annotations

import pytest

from falling import GRID, falling
from rais.paper.analysis.ablation import ablation_table
from rais.paper.records.read import load


def test_a_row_for_the_recipe_and_one_for_each_cure_taken_out(run_writer, tmp_path):
    weights = {"largest_weight": [0, *[4] * 10]}
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, {**falling(1.0), **weights})
        spiked = falling(0.8)
        spiked["train_loss"][8] = 10 * spiked["train_loss"][7]
        run_writer("rais", seed, GRID, {**spiked, "largest_weight": [0, *[300] * 10]}, variant="without_extra_visit")
        run_writer("rais", seed, GRID, falling(0.3), variant="without_window", status=("done", "running")[seed])
        run_writer("rais", seed, GRID, falling(0.5), variant="visits_10")
        run_writer("uniform", seed, GRID, falling(0.5), task="mnist")
        run_writer("rais", seed, GRID, falling(0.5), task="mnist")
    table = ablation_table(load(tmp_path / "records"))
    assert table[["task", "without", "n_seeds", "reached"]].values.tolist() == [
        ["digits", "", 2, 2],
        ["digits", "extra_visit", 2, 2],
        ["digits", "window", 1, 0],
    ]
    assert table["examples_speedup"].tolist() == pytest.approx([2, 1.6, 0])
    assert table["largest_weight"].tolist()[:2] == [4, 300]
    assert table["largest_rise"].tolist()[1] == pytest.approx(10) and table["trebled"].tolist() == [0, 2, 0]
    assert "1 unfinished, left out" in table["status"].tolist()[2]


def test_a_task_without_an_ablation_has_no_rows(run_writer, tmp_path):
    run_writer("rais", 0, GRID, falling(0.5))
    assert ablation_table(load(tmp_path / "records")).empty
