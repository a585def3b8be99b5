"""Speed-ups worked out by hand on curves whose crossing points are known, and the properties of the intervals.

The curves fall by a factor e in 1 000 examples, so that the logarithm of the loss is a straight line and a
crossing lies where arithmetic puts it.
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from falling import GRID, falling
from rais.paper.analysis import speedup as stats
from rais.paper.records.read import load


def row(tmp_path, arm: str) -> pd.Series:
    table = stats.speedup_table(load(tmp_path / "records"))
    return table[table["arm"] == arm].iloc[0]


def test_crossing_is_log_linear_between_evaluations():
    x, loss = [0, 10, 20], [1.0, math.exp(-2), math.exp(-4)]
    assert stats.crossing(x, loss, math.exp(-3)) == pytest.approx(15)
    assert stats.crossing(x, loss, math.exp(-0.5)) == pytest.approx(2.5)
    assert stats.crossing(x, loss, math.exp(-4)) == pytest.approx(20)


def test_the_first_crossing_counts_even_if_the_loss_rises_again():
    assert stats.crossing([0, 10, 20, 30], [1, math.exp(-2), 1, math.exp(-9)], math.exp(-1)) == pytest.approx(5)


def test_crossing_of_a_loss_that_never_gets_there():
    assert stats.crossing([0, 1], [1.0, 0.5], 0.4) == math.inf


def test_crossing_passes_over_evaluations_without_a_loss():
    assert stats.crossing([0, 5, 10], [1.0, math.nan, math.exp(-2)], math.exp(-1)) == pytest.approx(5)


def test_crossing_at_the_first_evaluation_and_after_an_infinite_loss():
    assert stats.crossing([3, 4], [0.1, 0.05], 0.2) == 3
    assert stats.crossing([3, 4], [math.inf, 0.05], 0.2) == 4


def test_speedup_by_hand(run_writer, tmp_path):
    # uniform ends at exp(-10 · 0.4) = e^-4 with every seed, so L* = e^-4, reached at 10 000 examples.
    # rais falls twice as fast with seed 0 (5 000 examples) and four times as fast with seed 1 (2 500).
    for seed, rate in ((0, 0.8), (1, 1.6)):
        run_writer("uniform", seed, GRID, falling(0.4), seconds_per_example=0.01)
        run_writer("rais", seed, GRID, falling(rate), seconds_per_example=0.016)
    found = row(tmp_path, "rais")
    assert found["examples_speedup"] == pytest.approx((2 + 4) / 2)
    assert found["seconds_speedup"] == pytest.approx((2 + 4) / 2 / 1.6)
    assert (found["examples_low"], found["examples_high"]) == (pytest.approx(2), pytest.approx(4))
    assert found["final_train_loss"] == pytest.approx((math.exp(-8) + math.exp(-16)) / 2)
    assert found["test_error"] == pytest.approx((math.exp(-8) + math.exp(-16)) / 20)
    assert (found["n_seeds"], found["status"]) == (2, "done")


def test_pairs_are_those_of_one_seed(run_writer, tmp_path):
    # Two seeds, both with L* between their ends: ratios of paired costs differ from the ratio of mean costs.
    run_writer("uniform", 0, GRID, falling(0.4))
    run_writer("uniform", 1, GRID, falling(0.8))
    for seed in (0, 1):
        run_writer("rais", seed, GRID, falling(1.0))
    level = (math.exp(-4) + math.exp(-8)) / 2
    rais_cost = -math.log(level) / 1.0
    late, early = 10.0, -math.log(level) / 0.8  # uniform: seed 0 ends above L* and counts with its whole length
    found = row(tmp_path, "rais")
    assert found["examples_speedup"] == pytest.approx((late / rais_cost + early / rais_cost) / 2)
    assert row(tmp_path, "uniform")["status"] == "1 of 2 never at L*"
    assert row(tmp_path, "uniform")[["examples_speedup", "examples_low", "examples_high"]].tolist() == [1, 1, 1]


def test_columns_are_those_that_were_agreed_on(many_records):
    table = stats.speedup_table(load(many_records))
    assert ",".join(table.columns) == (
        "task,arm,n_seeds,examples_speedup,examples_low,examples_high,seconds_speedup,seconds_low,seconds_high,"
        "final_train_loss,test_error,status"
    )
    assert not table.duplicated(["task", "arm"]).any()


def test_runs_that_diverge_or_never_arrive_count_as_zero_and_are_named(run_writer, tmp_path):
    for seed in range(4):
        run_writer("uniform", seed, GRID, falling(0.4))
    run_writer("smoothed_0", 0, GRID, falling(0.8))
    run_writer("smoothed_0", 1, GRID, falling(0.2))
    # It was below L* before it diverged, which does not help it.
    broken = falling(0.8)
    broken["train_loss"][-1] = math.inf
    run_writer("smoothed_0", 2, GRID, broken, status="diverged")
    run_writer("smoothed_0", 3, GRID, broken, status="diverged")
    found = row(tmp_path, "smoothed_0")
    assert found["examples_speedup"] == pytest.approx(2 / 4)
    assert found["examples_low"] == 0
    assert found["status"] == "2 of 4 diverged; 1 of 4 never at L* (those that were: 2.00×)"
    assert found["final_train_loss"] == pytest.approx((math.exp(-8) + math.exp(-2)) / 2)


def test_an_arm_that_always_diverges(run_writer, tmp_path):
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.4))
        run_writer("smoothed_0", seed, GRID, falling(0.8), status="diverged")
    found = row(tmp_path, "smoothed_0")
    assert found[["examples_speedup", "examples_high", "seconds_speedup"]].tolist() == [0, 0, 0]
    assert math.isnan(found["final_train_loss"])


def test_unfinished_runs_are_listed_and_left_out(run_writer, tmp_path):
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.4))
    run_writer("rais", 0, GRID, falling(0.8))
    run_writer("rais", 1, GRID, falling(0.1), status="running")
    run_writer("oracle", 0, GRID, falling(0.8), status="failed")
    found = row(tmp_path, "rais")
    assert (found["n_seeds"], found["examples_speedup"]) == (1, pytest.approx(2))
    assert found["status"] == "1 unfinished, left out"
    assert row(tmp_path, "oracle")["n_seeds"] == 0
    assert row(tmp_path, "oracle")["status"] == "1 unfinished, left out"


def test_diagnostic_runs_take_no_part(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.4))
    run_writer("rais", 0, GRID, falling(0.8))
    run_writer("rais", 1, GRID, {**falling(0.1), "true_phi": [1.0] * len(GRID)})
    assert row(tmp_path, "rais")[["n_seeds", "status"]].tolist() == [1, "done"]


def test_seconds_come_from_runs_with_a_core_to_themselves(run_writer, tmp_path):
    shares = {0: (1.0, 1.0), 1: (1.0, 0.9), 2: (0.9, 1.0), 3: (0.95, 0.96)}
    for seed, (uniform, rais) in shares.items():
        run_writer("uniform", seed, GRID, falling(0.4), core_share=uniform)
        run_writer("rais", seed, GRID, falling(0.8 if seed in (0, 3) else 1.6), core_share=rais)
    found = row(tmp_path, "rais")
    assert found["examples_speedup"] == pytest.approx((2 + 4 + 4 + 2) / 4)
    assert found["seconds_speedup"] == pytest.approx(2)
    assert found["status"] == "seconds: 2 of 4 pairs had cores to themselves"


def test_no_pair_with_a_core_to_itself_leaves_seconds_empty(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.4))
    run_writer("rais", 0, GRID, falling(0.8), core_share=0.5)
    found = row(tmp_path, "rais")
    assert math.isnan(found["seconds_speedup"])
    assert found["status"] == "seconds: none of 1 pairs had cores to themselves"


def test_seconds_on_a_gpu_count_whatever_the_cpu_did(run_writer, tmp_path):
    gpu = {"cpu": "Some CPU", "cores": 2, "threads": 1, "gpu": "Some GPU"}
    run_writer("uniform", 0, GRID, falling(0.4), core_share=0.3, hardware=gpu)
    run_writer("rais", 0, GRID, falling(0.8), core_share=0.3, hardware=gpu)
    assert row(tmp_path, "rais")["seconds_speedup"] == pytest.approx(2)


def test_seconds_of_different_hardware_are_not_compared(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.4))
    hardware = {"cpu": "Another CPU", "cores": 2, "threads": 1, "gpu": None}
    run_writer("rais", 0, GRID, falling(0.8), hardware=hardware)
    found = row(tmp_path, "rais")
    assert found["examples_speedup"] == pytest.approx(2)
    assert math.isnan(found["seconds_speedup"])


def test_one_seed_has_no_interval(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.4))
    run_writer("rais", 0, GRID, falling(0.8))
    assert row(tmp_path, "rais")[["examples_low", "examples_high"]].isna().all()


def test_without_uniform_there_is_no_speedup(run_writer, tmp_path):
    run_writer("rais", 0, GRID, falling(0.8))
    found = row(tmp_path, "rais")
    assert math.isnan(found["examples_speedup"])
    assert found["status"] == "no uniform run to compare with"


def test_seeds_without_a_uniform_run_are_named(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.4))
    for seed in (0, 1):
        run_writer("rais", seed, GRID, falling(0.8))
    assert row(tmp_path, "rais")["status"] == "1 of 2 seeds have a uniform run"


def test_uniform_that_learns_nothing_gives_no_level(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.0))
    run_writer("rais", 0, GRID, falling(0.8))
    found = row(tmp_path, "rais")
    assert math.isnan(found["examples_speedup"])
    assert found["status"] == "uniform did not learn, so there is no L*"


def test_a_diverged_uniform_run_counts_with_its_length(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.4))
    run_writer("uniform", 1, GRID, falling(0.4), status="diverged")
    for seed in (0, 1):
        run_writer("rais", seed, GRID, falling(0.8))
    assert row(tmp_path, "rais")["examples_speedup"] == pytest.approx(2)
    assert row(tmp_path, "uniform")["status"] == "1 of 2 diverged"


def test_interval_holds_the_mean_and_repeats():
    values = np.random.default_rng(1).normal(3, 1, 8)
    low, high = stats.bootstrap_interval(values)
    assert values.min() < low < values.mean() < high < values.max()
    assert (low, high) == stats.bootstrap_interval(values)


def test_interval_of_equal_values_is_a_point():
    assert stats.bootstrap_interval([2.0, 2.0, 2.0]) == (pytest.approx(2), pytest.approx(2))


def test_interval_is_that_of_an_enumeration():
    # Of the 256 equally likely resamples, 5 have a mean below 1.5 and 11 one of at most 1.5: 2.5 % falls between.
    values = np.array([1.0, 2.0, 6.0, 7.0])
    means = np.stack(np.meshgrid(*4 * [values])).reshape(4, -1).mean(axis=0)
    assert np.percentile(means, [2.5, 97.5], method="inverted_cdf").tolist() == [1.5, 6.5]
    assert stats.bootstrap_interval(values) == (1.5, 6.5)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(2)
    covered = [low <= 0 <= high for low, high in (stats.bootstrap_interval(random.normal(size=20)) for _ in range(100))]
    assert 0.84 < np.mean(covered) <= 0.98


def test_mean_curve_of_two_seeds_measured_at_different_places():
    grid, mean, low, high = stats.mean_curve([([0, 2, 4], [1, 3, 5]), ([0, 1, 3], [3, 4, 6])], log=False)
    assert grid.tolist() == [0, 1, 2, 3]
    assert mean.tolist() == [2, 3, 4, 5]
    assert (low < mean).all() and (mean < high).all()


def test_mean_curve_on_a_logarithmic_axis_is_geometric():
    _, mean, _, _ = stats.mean_curve([([0, 1], [1, 4]), ([0, 1], [4, 16])], log=True)
    assert mean == pytest.approx([2, 8])


def test_final_table(run_writer, tmp_path):
    for seed, rate in ((0, 0.4), (1, 0.5)):
        run_writer("uniform", seed, GRID, falling(rate), duration_seconds=100.0 + seed)
    found = stats.final_table(load(tmp_path / "records")).iloc[0]
    assert found["final_train_loss"] == pytest.approx((math.exp(-4) + math.exp(-5)) / 2)
    assert found["final_train_loss_low"] == pytest.approx(math.exp(-5))
    assert (found["examples"], found["seconds"], found["duration_seconds"]) == (10_000, 100, 100.5)
    assert found["hardware"] == "Some CPU, 1 thread"
    assert found["command"] == "python scripts/train.py --multirun task=digits sampler=uniform seed=0,1"


def test_runs_of_a_task_and_of_its_experiment_have_one_command(run_writer, tmp_path):
    for seed, name in enumerate(("experiment=fig4_digits", "task=digits", "experiment=fig4_digits")):
        command = f"python scripts/train.py {name} sampler=uniform seed={seed}"
        run_writer("uniform", seed, GRID, falling(0.4), command=command)
    (command,) = stats.final_table(load(tmp_path / "records"))["command"]
    assert command == "python scripts/train.py --multirun task=digits sampler=uniform seed=0,1,2"


def test_readme_table(run_writer, tmp_path):
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.4))
        run_writer(
            "rais", seed, GRID, falling(0.8 + 0.8 * seed), command="python scripts/train.py --multirun experiment=x"
        )
    run_writer("smoothed_0", 0, GRID, falling(0.4), status="diverged")
    run_writer("rais_multiplier_off", 0, GRID, falling(0.38))  # ends at e^-3.8, between L* = e^-4 and twice that
    lines = stats.readme_table(load(tmp_path / "records")).splitlines()
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert lines[2].startswith("| digits | `uniform` | 1.00× (2) | 1.00× | 1.00× | 0.0183 ± 0.0000 | 0.18 ± 0.00 % |")
    assert "| `rais` | 3.00× [2.00, 4.00] (2) | 3.00× [2.00, 4.00] | 3.00× [2.00, 4.00] |" in lines[4]
    assert "| `rais_multiplier_off` | 0.00× (1) | 0.95× | 0.00× |" in lines[5]
    assert lines[4].endswith("| `python scripts/train.py --multirun experiment=x` | 60 s, Some CPU, 1 thread |")
    assert "- digits, `smoothed_0`: 1 of 1 diverged." in lines


def test_variants_take_no_part_in_the_headline_tables(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.4))
    run_writer("rais", 0, GRID, falling(0.8))
    before = [table(load(tmp_path / "records")) for table in (stats.speedup_table, stats.final_table)]
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.9), variant="lr_6.8")
        run_writer("rais", seed, GRID, falling(0.1), variant="visits_10", status=("done", "running")[seed])
        run_writer("rais", seed, GRID, falling(0.1), variant="protected", task="digits_hot")
    after = [table(load(tmp_path / "records")) for table in (stats.speedup_table, stats.final_table)]
    for one, other in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_paired_speedup_of_one_run(run_writer, tmp_path):
    run_writer("rais", 0, GRID, falling(0.8))
    assert math.isnan(stats.paired_speedup(load(tmp_path / "records")))
    run_writer("uniform", 0, GRID, falling(0.4))
    assert stats.paired_speedup(load(tmp_path / "records")) == pytest.approx(2)


@pytest.mark.parametrize(("rate", "status"), [(0.8, "diverged"), (0.3, "done")])
def test_paired_speedup_of_a_run_that_never_gets_there(run_writer, tmp_path, rate, status):
    run_writer("uniform", 0, GRID, falling(0.4))
    run_writer("rais", 0, GRID, falling(rate), status=status)
    assert stats.paired_speedup(load(tmp_path / "records")) == 0


def test_reading_and_drawing_import_neither_torch_nor_training():
    # An empty package stands in for `rais`, whose own __init__ offers the samplers and so imports torch.
    code = (
        "import sys, types\n"
        "sys.modules['rais'] = types.ModuleType('rais')\n"
        "sys.modules['rais'].__path__ = [sys.argv[1]]\n"
        "import rais.paper.records.read, rais.paper.analysis.speedup, rais.paper.figures\n"
        "heavy = ('torch', 'hydra', 'wandb', 'rais.paper.training.loop', 'rais.paper.records.write')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    package = str(Path(stats.__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, package], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
