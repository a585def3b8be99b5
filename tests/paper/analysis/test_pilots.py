"""Targets from pilots, worked out by hand: the geometric mean at three quarters, who reaches it, which rate is best."""

from __future__ import annotations

import math

import pytest

from falling import GRID, falling
from rais.paper.analysis import pilots
from rais.paper.records.read import load

GRID_OF_FIVE = list(range(0, 10_001, 2_000))  # three quarters of the budget of 10 epochs are not on it


@pytest.fixture
def pilot(run_writer):
    def write(seed: int, rate: float, variant: str = "", grid=GRID, **meta: object) -> None:
        curve = {"train_loss": [math.exp(-rate * used / 1000) for used in grid]}
        run_writer("uniform", seed, grid, curve, variant=variant, target_loss=None, **meta)

    return write


def test_the_target_is_the_geometric_mean_at_three_quarters_of_the_budget(pilot, tmp_path):
    pilot(100, 0.2)
    pilot(101, 1.0, grid=GRID_OF_FIVE)  # log-linear between its evaluations
    pilot(100, 0.1, variant="lr_half")
    pilot(100, 0.15, variant="lr_twice")
    records = load(tmp_path / "records")
    (target,) = (row for _, row in pilots.target_table(records).iterrows())
    assert target["target_loss"] == pytest.approx(math.exp(-7.5 * 0.6), rel=5e-3), "rounded to three digits"
    assert target[["epochs_equivalent", "budget", "n_seeds", "seeds"]].tolist() == [7.5, 10, 2, "100 101"]
    # The slower pilot ends at e^-2, above e^-4.5 and above every loss that is tried instead: no target.
    assert target[["reached", "valid"]].tolist() == [1, False]
    assert pilots.doubts(target, pilots.pilot_table(records)) == [
        "2 pilots: 5 are asked for",
        "only 1 of 2 pilots reach it: no target",
    ]
    line = pilots.yaml_line(target)
    assert line.startswith(f"target_loss: {target['target_loss']:g}  # ") and "seeds 100 to 101, at 7.5 of 10" in line


def test_a_loss_that_a_pilot_misses_gives_way_to_the_latest_that_all_reach(pilot, tmp_path):
    pilot(100, 0.42)  # ends at e^-4.2, above the mean of e^-4.5 at three quarters
    pilot(101, 0.78)
    target = pilots.target_table(load(tmp_path / "records")).iloc[0]
    assert target["epochs_equivalent"] == pytest.approx(10 * 16 / 24)
    assert target["target_loss"] == pytest.approx(math.exp(-4), rel=5e-3)
    assert target[["reached", "valid"]].tolist() == [2, True]


def test_a_target_that_every_pilot_reaches_in_the_last_quarter(pilot, tmp_path):
    for seed, rate in enumerate((0.45, 0.5, 0.55), 100):
        pilot(seed, rate)
    target = pilots.target_table(load(tmp_path / "records")).iloc[0]
    assert target[["reached", "valid"]].tolist() == [3, True]
    assert target[["lowest", "highest"]].tolist() == pytest.approx([math.exp(-7.5 * 0.55), math.exp(-7.5 * 0.45)])


def test_the_best_rate_is_the_one_with_the_lowest_loss_at_three_quarters(pilot, tmp_path):
    for seed in (100, 101):
        pilot(seed, 0.5)
        pilot(seed, 0.6, variant="lr_twice")
        pilot(seed, 0.4, variant="lr_half")
        pilot(seed, 0.9, variant="visits_10")
    records = load(tmp_path / "records")
    table = pilots.pilot_table(records)
    assert table[["learning_rate", "best"]].values.tolist() == [[0.5, False], [1, False], [2, True]]
    assert table["loss"].tolist() == pytest.approx([math.exp(-7.5 * rate) for rate in (0.4, 0.5, 0.6)])
    assert table["final_loss"].tolist() == pytest.approx([math.exp(-10 * rate) for rate in (0.4, 0.5, 0.6)])
    target = pilots.target_table(records).iloc[0]
    assert target["learning_rate"] == 2
    assert pilots.doubts(target, table) == [
        "2 pilots: 5 are asked for",
        "the best learning rate is 2 times the task's: give the task that rate",
    ]


def test_rates_are_compared_on_the_seeds_that_all_of_them_have(pilot, tmp_path):
    for seed, rate in ((100, 0.5), (101, 0.2), (102, 0.2)):
        pilot(seed, rate)
    pilot(100, 0.4, variant="lr_half")
    table = pilots.pilot_table(load(tmp_path / "records")).set_index("learning_rate")
    assert table["best"].to_dict() == {0.5: False, 1: True} and table.loc[1, "loss"] > table.loc[0.5, "loss"]


def test_a_rate_with_a_diverged_pilot_is_never_the_best(pilot, tmp_path):
    for seed in (100, 101):
        pilot(seed, 0.5)
        pilot(seed, 0.9, variant="lr_twice", status=("done", "diverged")[seed - 100])
    table = pilots.pilot_table(load(tmp_path / "records")).set_index("learning_rate")
    assert table.loc[2, "loss"] == math.inf and table.loc[2, "diverged"] == 1
    assert table["best"].to_dict() == {1: True, 2: False}
    target = pilots.target_table(load(tmp_path / "records")).iloc[0]
    assert pilots.doubts(target, table.reset_index()) == [
        "2 pilots: 5 are asked for",
        "not tried: 0.5 times the learning rate",
    ]


def test_a_run_that_did_not_get_to_three_quarters_has_no_loss_there(run_writer, tmp_path):
    run_writer("uniform", 100, GRID[:7], {"train_loss": falling(0.4)["train_loss"][:7]})
    records = load(tmp_path / "records")
    assert math.isnan(pilots.loss_at(records.wide(records.runs.iloc[0]), 7.5))
    assert pilots.loss_at(records.wide(records.runs.iloc[0]), 6.0) == pytest.approx(math.exp(-2.4))


def test_an_arm_that_is_not_uniform_is_no_pilot(run_writer, tmp_path):
    run_writer("rais", 100, GRID, falling(0.4))
    assert pilots.target_table(load(tmp_path / "records")).empty


def test_runs_that_name_no_target_have_that_of_their_pilots(pilot, run_writer, tmp_path):
    for seed, rate in enumerate((0.45, 0.5, 0.55), 100):
        pilot(seed, rate)
    of_pilots = load(tmp_path / "records")
    (tmp_path / "records").rename(tmp_path / "pilots")
    run_writer("uniform", 0, GRID, falling(0.5), target_loss=None)
    records = pilots.with_targets(load(tmp_path / "records"), of_pilots)
    assert records.runs["target_loss"].tolist() == [pytest.approx(math.exp(-7.5 * 0.5), rel=5e-3)]
    run_writer("rais", 0, GRID, falling(0.5), variant="headroom", target_loss=0.5)
    records = load(tmp_path / "records")
    assert pilots.with_targets(records, of_pilots).runs["target_loss"].tolist() == [0.5, 0.5], (
        "a run of the task names one"
    )
    assert pilots.with_targets(records, None) is records
