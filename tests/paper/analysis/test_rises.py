"""Rises of the loss and largest weights, by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from rais.paper.analysis.rises import largest_rise, rises_table, steadiness_table
from rais.paper.records.read import load

GRID = (0, 500, 1000, 2000, 3000, 4000)  # of 1 000 examples: the first epoch ends at the third


def test_the_largest_rise_after_the_first_epoch():
    wide = pd.DataFrame({"epoch": [0, 0.5, 1, 2, 3, 4], "train_loss": [1, 9, 0.5, 0.4, 0.6, 0.3]})
    assert largest_rise(wide) == (pytest.approx(1.5), 4)
    wide["train_loss"] = [9, 8, 0.4, 0.3, 0.2, 0.1]
    assert largest_rise(wide) == (pytest.approx(0.75), 3), "a loss that only falls rises by less than 1"


def test_an_infinite_loss_is_an_infinite_rise_and_an_unknown_one_is_passed_over():
    wide = pd.DataFrame({"epoch": [1.0, 2, 3], "train_loss": [0.5, math.nan, math.inf]})
    assert largest_rise(wide) == (math.inf, 2)
    assert math.isnan(largest_rise(wide.iloc[:1])[0])


@pytest.fixture
def records(run_writer, tmp_path):
    # Two runs of rais rise by 2 and by 5, one of uniform by 1.5; weights up to 7 before the spike.
    for seed, top in ((0, 0.8), (1, 2.0)):
        loss = [2, 1, 0.5, 0.4, top, 0.1]
        more = {"largest_weight": [0, 1, 3, 7, 4 + seed, 2], "gain_ratio": [1, 1, 2, 2, 3 + seed, 3]}
        run_writer("rais", seed, GRID, {"train_loss": loss, "learning_rate": [0.1] * 6, **more})
        run_writer("uniform", seed, GRID, {"train_loss": [2, 1, 0.4, 0.5, 0.75, 0.7], "largest_weight": [0, *[1] * 5]})
    run_writer("rais", 0, GRID, {"train_loss": [2, 1, 0.1, 0.4, 0.4, 0.4]}, variant="without_window")
    return load(tmp_path / "records")


def test_steadiness_by_hand(records):
    rais, uniform = (row for _, row in steadiness_table(records).iterrows())
    assert rais[["arm", "n_seeds", "largest_weight", "trebled"]].tolist() == ["rais", 2, 7, 1]
    assert rais[["largest_rise", "largest_rise_low", "largest_rise_high"]].tolist() == pytest.approx([3.5, 2, 5])
    assert rais["uniform_largest_rise"] == uniform["largest_rise"] == pytest.approx(1.5)
    assert uniform[["largest_weight", "trebled"]].tolist() == [1, 0]


def test_a_run_that_was_made_twice_is_listed_once(records, run_writer, tmp_path):
    more = {"largest_weight": [0, 1, 3, 7, 5, 2], "gain_ratio": [1, 1, 2, 2, 4, 3], "learning_rate": [0.1] * 6}
    run_writer("rais", 1, GRID, {"train_loss": [2, 1, 0.5, 0.4, 2.0, 0.1], **more}, variant="headroom")
    assert rises_table(load(tmp_path / "records"))["variant"].tolist() == ["", "without_window"]


def test_runs_whose_loss_trebles_are_listed_with_what_was_recorded_there(records):
    table = rises_table(records)
    assert table[["arm", "variant", "seed", "epoch"]].values.tolist() == [
        ["rais", "", 1, 3],
        ["rais", "without_window", 0, 2],
    ]
    spike = table.iloc[0]
    assert spike[["rise", "loss_before", "loss_after"]].tolist() == pytest.approx([5, 0.4, 2])
    assert spike[["largest_weight", "gain_ratio", "learning_rate"]].tolist() == pytest.approx([5, 4, 0.1])
