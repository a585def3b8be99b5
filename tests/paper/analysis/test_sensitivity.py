"""Speed-ups of variants, worked out by hand on curves whose crossing points are known."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from falling import GRID, falling
from rais.paper.analysis import sensitivity
from rais.paper.records.read import load


def point(tmp_path, sweep: str, value: str, arm: str = "rais") -> pd.Series:
    table = sensitivity.sensitivity_table(load(tmp_path / "records"))
    found = table[(table["sweep"] == sweep) & (table["value"] == value) & (table["arm"] == arm)]
    assert len(found) == 1
    return found.iloc[0]


def test_sensitivity_against_the_headline_uniform_runs(run_writer, tmp_path):
    # L* = e^-4 after 10 000 examples; rais is there after 5 000, with fewer visits after 8 000.
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.4))
        run_writer("rais", seed, GRID, {**falling(0.8), "gain_ratio": [1 + seed] * 11})
        run_writer("rais", seed, GRID, falling(0.5), variant="visits_2000", seconds_per_example=0.02)
    table = sensitivity.sensitivity_table(load(tmp_path / "records"))
    assert table[["sweep", "value", "arm", "uniform"]].values.tolist() == [
        ["visits", "2000", "rais", "headline"],
        ["visits", "20000", "rais", "headline"],
    ]
    assert table["examples_speedup"].tolist() == [pytest.approx(10 / 8), pytest.approx(2)]
    assert table["seconds_speedup"].tolist() == [pytest.approx(10 / 16), pytest.approx(2)]
    assert table["final_train_loss"].tolist() == [pytest.approx(math.exp(-5)), pytest.approx(math.exp(-8))]
    assert table["n_seeds"].tolist() == [2, 2] and table["status"].tolist() == ["done", "done"]
    assert table["gain_ratio"].tolist()[1] == pytest.approx(1.5)
    assert table[["gain_ratio_low", "gain_ratio_high"]].values.tolist()[1] == [1, 2]


def test_sensitivity_against_uniform_runs_of_the_same_variant(run_writer, tmp_path):
    # The variant's own uniform arm ends at e^-2, where its rais arm is after 4 000 examples.
    run_writer("uniform", 0, GRID, falling(0.4))
    run_writer("uniform", 0, GRID, falling(0.2), variant="batch_size_64")
    run_writer("rais", 0, GRID, falling(0.5), variant="batch_size_64")
    found = point(tmp_path, "batch_size", "64")
    assert (found["examples_speedup"], found["uniform"]) == (pytest.approx(2.5), "own")
    assert point(tmp_path, "batch_size", "64", "uniform")["examples_speedup"] == 1
    assert point(tmp_path, "batch_size", "32", "uniform")["final_train_loss"] == pytest.approx(math.exp(-4))
    table = sensitivity.sensitivity_table(load(tmp_path / "records"))
    assert len(table) == 3, "nobody has run rais at the default"


def test_sensitivity_counts_what_diverged_and_what_never_arrived(run_writer, tmp_path):
    ends = ((0.8, "done"), (0.8, "diverged"), (0.2, "done"), (0.1, "running"))
    for seed, (rate, status) in enumerate(ends):
        run_writer("uniform", seed, GRID, falling(0.4))
        run_writer("rais", seed, GRID, falling(rate), variant="alpha_0.1", status=status)
        run_writer("rais", seed, GRID, falling(0.35), variant="alpha_1")  # ends between L* and twice that
    found = point(tmp_path, "alpha", "0.1")
    assert found[["n_seeds", "diverged", "never"]].tolist() == [3, 1, 1]
    assert found["examples_speedup"] == pytest.approx(2 / 3)
    assert found["twice_speedup"] == pytest.approx(2 / 3)
    assert point(tmp_path, "alpha", "1")[["examples_speedup", "twice_speedup", "twice_low"]].tolist() == pytest.approx(
        [0, 0.875, 0.875]
    )
    assert found["status"].startswith("1 of 3 diverged; 1 of 3 never at L* (those that were: 2.00×); 1 unfinished")


def test_sensitivity_gives_the_share_of_the_sampler(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.4))
    metrics = {**falling(0.8), "sampler_seconds": [0.0025 * used for used in GRID]}
    run_writer("rais", 0, GRID, metrics, variant="visits_2000", seconds_per_example=0.01)
    assert point(tmp_path, "visits", "2000")["sampler_share"] == pytest.approx(0.25)


def test_values_of_a_sweep_come_by_size_words_after_the_default(run_writer, tmp_path):
    labels = ["lr_13.6", "lr_0.85", "lr_100", "features_no_spread", "features_last", "with_dropout", "alpha_1e-05"]
    for label in labels:
        run_writer("uniform", 0, GRID, falling(0.4), variant=label)
    run_writer("uniform", 0, GRID, falling(0.4))
    table = sensitivity.sensitivity_table(load(tmp_path / "records"))
    assert table[["sweep", "value"]].values.tolist() == [
        ["alpha", "1e-05"],
        ["alpha", "0.003"],
        ["features", "all"],
        ["features", "last"],
        ["features", "no_spread"],
        ["lr", "0.85"],
        ["lr", "3.4"],
        ["lr", "13.6"],
        ["lr", "100"],
    ]
    assert sensitivity.sweep_of("with_dropout") is None and sensitivity.sweep_of("") is None
    assert sensitivity.sweep_of("batch_size_64") == ("batch_size", "64")


def test_the_default_budget_is_that_of_the_headline_runs(run_writer, tmp_path):
    run_writer("rais", 0, GRID, falling(0.8), variant="epochs_48.0")
    run_writer("rais", 0, GRID, falling(0.8))
    (path,) = tmp_path.glob("records/digits/rais/*/meta.json")
    path.write_text(path.read_text().replace('"epochs": 10.0', '"epochs": 40.0'))
    assert sensitivity.sensitivity_table(load(tmp_path / "records"))["value"].tolist() == ["40", "48.0"]
