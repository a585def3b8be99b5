"""Where the gain is lost, by hand: stages whose steps are powers of two."""

from __future__ import annotations

import math

import pytest

from rais.paper.analysis.headroom import headroom_table, verdict
from rais.paper.records.read import load

GRID = (0, 1000, 2000, 3000)


@pytest.fixture
def write(run_writer):
    def write(seed: int = 0, task: str = "digits", variant: str = "", **changed: object) -> None:
        metrics = {
            "train_loss": [2, 1, 1, 1],
            "oracle_rho": [2, 16, 16, 16],
            "hindsight_rho": [1, 4, 4, 4],
            "true_rho": [1, 4, 4, 4],
            "rho": [math.nan, 2, 4, 3],
            "rho_slow": [math.nan, 4, 4, 5],
            "phi": [1, 0.5, 0.5, 0.5],
            "gain_ratio": [1, 2, 2, 2],
        }
        run_writer("rais", seed, GRID, metrics | changed, task=task, variant=variant)

    return write


def test_medians_over_the_evaluations_with_importance(write, tmp_path):
    write()
    write(1, rho=[1, 4, 4, 4], variant="headroom")
    (row,) = (row for _, row in headroom_table(load(tmp_path / "records")).iterrows())
    assert row[["task", "arm", "n_seeds", "evaluations"]].tolist() == ["digits", "rais", 2, 6]
    assert row[["oracle_rho", "hindsight_rho", "true_rho", "rho", "gain_ratio"]].tolist() == [16, 4, 4, 4, 2]
    assert row["estimated_over_true"] == 1 and row["slow_over_true"] == 1
    lost = row[["lost_to_memory", "lost_to_set", "lost_to_estimate", "lost_to_noise"]].tolist()
    assert lost == pytest.approx([0.5, 0, 0, 0.25])
    assert row["verdict"].startswith("the past says little of the next norm: 50 % of the way from ρ = 16")


def test_estimated_over_true_is_a_median_of_ratios(write, tmp_path):
    write()
    row = headroom_table(load(tmp_path / "records")).iloc[0]
    assert row[["estimated_over_true", "slow_over_true"]].tolist() == [0.75, 1]


def test_little_headroom_is_said_before_any_cause():
    lost = {"lost_to_memory": 0.9, "lost_to_set": 0, "lost_to_estimate": 0, "lost_to_noise": 0}
    assert verdict({"oracle_rho": 1.2, **lost}) == "little headroom: the oracle has ρ = 1.2"
    assert verdict({"oracle_rho": 9.0, **lost}).startswith("the past says little")
    assert verdict({"oracle_rho": 9.0, **dict.fromkeys(lost, math.nan)}) == ""


def test_runs_that_did_not_record_it_and_other_variants_take_no_part(write, run_writer, tmp_path):
    run_writer("rais", 0, GRID, {"train_loss": [2, 1, 1, 1]})
    write(1, variant="visits_10")
    assert headroom_table(load(tmp_path / "records")).empty
