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
    # uniform is at e^-4 after 8 000 examples, rais after 4 000, with fewer visits after 5 000.
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, {**falling(1.0), "gain_ratio": [1 + seed] * 11})
        run_writer("rais", seed, GRID, falling(0.8), variant="visits_2000", seconds_per_example=0.02)
    table = sensitivity.sensitivity_table(load(tmp_path / "records"))
    assert table[["sweep", "value", "arm", "uniform"]].values.tolist() == [
        ["visits", "2000", "rais", "headline"],
        ["visits", "20000", "rais", "headline"],
    ]
    assert table["examples_speedup"].tolist() == pytest.approx([8 / 5, 2])
    assert table["seconds_speedup"].tolist() == pytest.approx([8 / 10, 2])
    assert table["final_train_loss"].tolist() == pytest.approx([math.exp(-8), math.exp(-10)])
    assert table["n_seeds"].tolist() == [2, 2] and table["status"].tolist() == ["done", "done"]
    assert table[["gain_ratio", "gain_ratio_low", "gain_ratio_high"]].values.tolist()[1] == [1.5, 1, 2]


def test_the_default_of_a_sweep_is_taken_from_its_seeds_alone(run_writer, tmp_path):
    # Only seed 1 was swept. There uniform takes 8 000 examples, the default 2 000; on seeds 0 and 2 it would be 4 000.
    for seed, rate in ((0, 1.0), (1, 2.0), (2, 1.0)):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, falling(rate))
    run_writer("rais", 1, GRID, falling(1.0), variant="visits_2000")
    assert point(tmp_path, "visits", "2000")["examples_speedup"] == pytest.approx(2)
    default = point(tmp_path, "visits", "20000")
    assert (default["examples_speedup"], default["n_seeds"]) == (pytest.approx(4), 1)
    assert sensitivity.seeds_table(load(tmp_path / "records"))["seed"].unique().tolist() == [1]


def test_sensitivity_against_uniform_runs_of_the_same_variant(run_writer, tmp_path):
    # The variant's own uniform arm is at the target after 10 000 examples, its rais arm after 8 000.
    run_writer("uniform", 0, GRID, falling(0.8))
    run_writer("uniform", 0, GRID, falling(0.4), variant="batch_size_64")
    run_writer("rais", 0, GRID, falling(0.5), variant="batch_size_64")
    found = point(tmp_path, "batch_size", "64")
    assert (found["examples_speedup"], found["uniform"]) == (pytest.approx(10 / 8), "own")
    assert point(tmp_path, "batch_size", "64", "uniform")["examples_speedup"] == 1
    assert point(tmp_path, "batch_size", "32", "uniform")["final_train_loss"] == pytest.approx(math.exp(-8))
    table = sensitivity.sensitivity_table(load(tmp_path / "records"))
    assert len(table) == 3, "nobody has run rais at the default"


def test_sensitivity_counts_what_diverged_and_what_did_not_get_there(run_writer, tmp_path):
    ends = ((0.8, "done"), (0.8, "diverged"), (0.2, "done"), (0.1, "running"))
    for seed, (rate, status) in enumerate(ends):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, falling(rate), variant="alpha_0.1", status=status)
    found = point(tmp_path, "alpha", "0.1")
    assert found[["n_seeds", "reached", "diverged"]].tolist() == [3, 2, 1]
    assert found["examples_speedup"] == pytest.approx(8 / 5)
    assert found["status"] == "1 of 3 diverged, 1 after the target; 1 unfinished, left out"


def test_sensitivity_gives_the_share_of_the_sampler(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.4))
    metrics = {**falling(0.8), "sampler_seconds": [0.0025 * used for used in GRID]}
    run_writer("rais", 0, GRID, metrics, variant="visits_2000", seconds_per_example=0.01)
    assert point(tmp_path, "visits", "2000")["sampler_share"] == pytest.approx(0.25)


def test_values_of_a_sweep_come_by_size_words_after_the_default(run_writer, tmp_path):
    labels = [
        "visits_13600",
        "visits_850",
        "visits_100000",
        "features_no_spread",
        "features_last",
        "with_dropout",
        "alpha_1e-05",
    ]
    for label in labels:
        run_writer("uniform", 0, GRID, falling(0.4), variant=label)
    run_writer("uniform", 0, GRID, falling(0.4))
    table = sensitivity.sensitivity_table(load(tmp_path / "records"))
    assert table[["sweep", "value"]].values.tolist() == [
        ["visits", "850"],
        ["visits", "13600"],
        ["visits", "20000"],
        ["visits", "100000"],
        ["alpha", "1e-05"],
        ["alpha", "0.01"],
        ["features", "all"],
        ["features", "last"],
        ["features", "no_spread"],
    ]
    assert sensitivity.sweep_of("with_dropout") is None and sensitivity.sweep_of("") is None
    assert sensitivity.sweep_of("batch_size_64") == ("batch_size", "64")
