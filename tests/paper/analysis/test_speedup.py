"""Speed-ups worked out by hand on curves whose crossing points are known.

The curves fall by a factor e in 1 000 examples or slower, so that the logarithm of the loss is a straight line and a
crossing lies where arithmetic puts it. The target is e^-4.
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from falling import GRID, falling
from rais.paper.analysis import speedup as stats
from rais.paper.analysis.by_loss import by_loss_table
from rais.paper.analysis.final import final_table
from rais.paper.analysis.together import apart
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


def test_columns_are_those_that_were_agreed_on(many_records):
    table = stats.speedup_table(load(many_records))
    assert ",".join(table.columns) == (
        "task,arm,n_seeds,reached,examples_speedup,examples_low,examples_high,seconds_speedup,seconds_low,seconds_high,"
        "test_error,test_error_difference,test_error_difference_low,test_error_difference_high,final_train_loss,status"
    )
    assert not table.duplicated(["task", "arm"]).any()


def test_speedup_by_hand(run_writer, tmp_path):
    # uniform is at e^-4 after 4/0.5 = 8 000 examples with every seed; rais after 5 000, 4 000 and 2 500.
    for seed, rate in ((0, 0.8), (1, 1.0), (2, 1.6)):
        run_writer("uniform", seed, GRID, falling(0.5), seconds_per_example=0.01)
        run_writer("rais", seed, GRID, falling(rate), seconds_per_example=0.016)
    found = row(tmp_path, "rais")
    assert found["examples_speedup"] == pytest.approx(2)
    assert found["seconds_speedup"] == pytest.approx(2 / 1.6)
    assert found[["examples_low", "examples_high"]].tolist() == pytest.approx([8 / 5, 8 / 2.5])
    assert found[["n_seeds", "reached", "status"]].tolist() == [3, 3, "done"]
    assert found["final_train_loss"] == pytest.approx(math.exp(-10))
    errors = [math.exp(-8) / 10, math.exp(-10) / 10, math.exp(-16) / 10]
    differences = [error - math.exp(-5) / 10 for error in errors]
    assert found["test_error"] == pytest.approx(sum(errors) / 3)
    assert found["test_error_difference"] == pytest.approx(sum(differences) / 3)
    ends = found[["test_error_difference_low", "test_error_difference_high"]].tolist()
    assert ends == pytest.approx([differences[2], differences[0]])
    uniform = row(tmp_path, "uniform")
    assert uniform[["examples_speedup", "seconds_speedup", "reached", "status"]].tolist() == [1, 1, 3, "done"]
    assert uniform[["examples_low", "test_error_difference"]].isna().all()


def test_it_is_the_ratio_of_medians_on_the_seeds_that_both_have(run_writer, tmp_path):
    # Costs of uniform 10, 8, 5 thousand, of rais 4, 5, 2: 8/4, where the ratios have the median 2.5. Seeds 3 and 4 of
    # uniform are faster, and have no rais run: they are no part of the comparison.
    for seed, (uniform, rais) in enumerate(((0.4, 1.0), (0.5, 0.8), (0.8, 2.0))):
        run_writer("uniform", seed, GRID, falling(uniform))
        run_writer("rais", seed, GRID, falling(rais))
    for seed in (3, 4):
        run_writer("uniform", seed, GRID, falling(4.0))
    run_writer("rais", 9, GRID, falling(4.0))
    found = row(tmp_path, "rais")
    assert found["examples_speedup"] == pytest.approx(2)
    assert found[["n_seeds", "reached"]].tolist() == [3, 3]
    assert found["status"] == "1 without a uniform run of their seed, left out"
    assert row(tmp_path, "uniform")["n_seeds"] == 5


def test_from_eight_seeds_on_there_is_an_interval_inside_the_range(run_writer, tmp_path):
    for seed in range(8):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, falling(0.8 + 0.1 * seed))
    found = row(tmp_path, "rais")
    assert 8 / 5 < found["examples_low"] < found["examples_speedup"] < found["examples_high"] < 8 * 1.5 / 4
    assert "[" in stats.speedup_text(found, "examples")


def test_a_run_that_does_not_get_there_moves_the_median_and_does_not_poison_it(run_writer, tmp_path):
    for seed, rate in enumerate((0.8, 1.0, 0.3)):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, falling(rate))
    found = row(tmp_path, "rais")
    assert found["examples_speedup"] == pytest.approx(8 / 5)
    assert found[["reached", "examples_low", "status"]].tolist() == [2, 0, "done"]


def test_a_median_run_that_does_not_get_there_is_told_in_words(run_writer, tmp_path):
    for seed in range(3):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, falling(0.3))
        run_writer("uniform", seed, GRID, falling(0.3), task="hard")
        run_writer("rais", seed, GRID, falling(0.5), task="hard")
        run_writer("oracle", seed, GRID, falling(0.3), task="hard")
    table = stats.speedup_table(load(tmp_path / "records")).set_index(["task", "arm"], drop=False)
    rais, better, both = (table.loc[key] for key in (("digits", "rais"), ("hard", "rais"), ("hard", "oracle")))
    assert rais[["examples_speedup", "reached"]].tolist() == [0, 0]
    assert rais["status"].startswith("the median run does not reach the target; costs test error: ")
    assert stats.speedup_text(rais, "examples").startswith("target not reached")
    assert better["examples_speedup"] == math.inf
    assert better["status"] == "uniform's median run does not reach the target"
    assert math.isnan(both["examples_speedup"])
    assert both["status"].startswith("neither median run reaches the target; no interval")
    assert math.isnan(table.loc[("hard", "uniform"), "examples_speedup"])
    assert table.loc[("hard", "uniform"), "status"] == "the median run does not reach the target"


def test_a_run_that_diverges_before_costs_infinity_and_one_that_diverges_after_keeps_its_cost(run_writer, tmp_path):
    early, late = falling(0.8), falling(0.8)
    early["train_loss"][3:] = [math.inf] * 8
    late["train_loss"][8:] = [math.nan] * 3
    for seed, (curve, status) in enumerate(((falling(0.8), "done"), (late, "diverged"), (early, "diverged"))):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("smoothed_0", seed, GRID, curve, status=status)
    found = row(tmp_path, "smoothed_0")
    assert found["examples_speedup"] == pytest.approx(8 / 5)
    assert found[["n_seeds", "reached", "examples_low"]].tolist() == [3, 2, 0]
    assert found["status"] == "2 of 3 diverged, 1 after the target"
    assert found["final_train_loss"] == pytest.approx(math.exp(-8)), "diverged runs have no end"
    assert found["test_error_difference_low"] == found["test_error_difference_high"] or found.isna().any()


def test_unfinished_runs_are_listed_and_left_out(run_writer, tmp_path):
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.5))
    run_writer("rais", 0, GRID, falling(0.8))
    run_writer("rais", 1, GRID, falling(0.1), status="running")
    run_writer("oracle", 0, GRID, falling(0.8), status="failed")
    found = row(tmp_path, "rais")
    assert (found["n_seeds"], found["examples_speedup"]) == (1, pytest.approx(8 / 5))
    assert found["status"] == "1 unfinished, left out"
    assert found[["examples_low", "examples_high"]].isna().all(), "one seed says nothing of the spread"
    assert row(tmp_path, "oracle")[["n_seeds", "status"]].tolist() == [0, "1 unfinished, left out"]


def test_a_speedup_that_costs_test_error_is_said_to(run_writer, tmp_path):
    for seed in range(3):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, falling(0.8) | {"test_error": [0.02 + 0.001 * seed] * 11})
    assert row(tmp_path, "rais")["status"] == "costs test error: +2.03 %"


def test_a_rounding_error_is_no_test_error(run_writer, tmp_path):
    for seed in range(3):
        run_writer("uniform", seed, GRID, falling(0.5) | {"test_error": [0.3] * 11})
        run_writer("rais", seed, GRID, falling(0.8) | {"test_error": [0.1 + 0.2] * 11})
    found = row(tmp_path, "rais")
    assert found["test_error_difference_low"] > 0 and found["status"] == "done"


def test_the_oracle_says_what_is_not_counted(run_writer, tmp_path):
    for arm in ("uniform", "oracle"):
        run_writer(arm, 0, GRID, falling(0.5))
    assert row(tmp_path, "oracle")["status"] == "its passes over the whole training set are not counted as examples"


def test_a_run_that_ended_short_of_its_budget_is_said_to(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.5))
    run_writer("smoothed_0.1", 0, GRID, falling(0.5), message="stopped at twice its budget in examples")
    assert row(tmp_path, "smoothed_0.1")["status"] == "1 of 1 stopped short of the budget"


def test_diagnostic_runs_and_variants_take_no_part(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.5))
    run_writer("rais", 0, GRID, falling(0.8))
    before = [table(load(tmp_path / "records")) for table in (stats.speedup_table, final_table, by_loss_table)]
    run_writer("rais", 1, GRID, {**falling(0.1), "true_phi": [1.0] * len(GRID)})
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.9), variant="lr_6.8")
        run_writer("rais", seed, GRID, falling(0.1), variant="visits_10", status=("done", "running")[seed])
    after = [table(load(tmp_path / "records")) for table in (stats.speedup_table, final_table, by_loss_table)]
    for one, other in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(one, other)


def test_seconds_are_those_of_the_cpu_on_one_thread(run_writer, tmp_path):
    # Another process took half of uniform's core: its wall-clock is twice what it would have been, its CPU time is not.
    run_writer("uniform", 0, GRID, falling(0.5), core_share=0.5, seconds_per_example=0.02)
    run_writer("rais", 0, GRID, falling(0.8), seconds_per_example=0.01)
    assert row(tmp_path, "rais")["seconds_speedup"] == pytest.approx(8 / 5)


def test_seconds_on_a_gpu_or_on_several_threads_are_those_of_the_wall(run_writer, tmp_path):
    gpu = {"cpu": "Some CPU", "cores": 2, "threads": 1, "gpu": "Some GPU"}
    for task, hardware in (("digits", gpu), ("mnist", gpu | {"gpu": None, "threads": 2})):
        run_writer("uniform", 0, GRID, falling(0.5), task=task, core_share=0.3, hardware=hardware)
        run_writer("rais", 0, GRID, falling(0.8), task=task, core_share=0.9, hardware=hardware)
    table = stats.speedup_table(load(tmp_path / "records"))
    assert table.loc[table["arm"] == "rais", "seconds_speedup"].tolist() == pytest.approx([8 / 5, 8 / 5])


def test_seconds_of_different_hardware_are_not_compared(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.5))
    hardware = {"cpu": "Another CPU", "cores": 2, "threads": 1, "gpu": None}
    run_writer("rais", 0, GRID, falling(0.8), hardware=hardware)
    found = row(tmp_path, "rais")
    assert found["examples_speedup"] == pytest.approx(8 / 5)
    assert math.isnan(found["seconds_speedup"])
    assert found["status"] == "seconds: not on the same hardware"


LATER = {"started": "2026-01-01T02:00:00Z", "finished": "2026-01-01T02:01:00Z"}  # of 00:00 to 00:01


def test_seconds_of_another_time_are_not_compared(run_writer, tmp_path):
    for seed in range(3):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer(
            "rais", seed, GRID, falling(0.8), **({} if seed else LATER), seconds_per_example=0.01 + 0.04 * (not seed)
        )
        run_writer("smoothed_0.1", seed, GRID, falling(0.8), **LATER)
    rais, smoothed = row(tmp_path, "rais"), row(tmp_path, "smoothed_0.1")
    assert [rais["n_seeds"], rais["seconds_speedup"], rais["seconds_low"]] == pytest.approx([3, 8 / 5, 8 / 5])
    assert rais["status"] == "seconds: of the 2 of 3 seeds that were trained at the time of uniform's"
    assert math.isnan(smoothed["seconds_speedup"]) and smoothed["examples_speedup"] == pytest.approx(8 / 5)
    assert stats.remarks_on_examples(smoothed) == ""
    diverged = pd.Series({"status": f"1 of 2 diverged; {smoothed['status']}"})
    assert stats.remarks_on_examples(diverged) == "1 of 2 diverged"
    assert smoothed["status"] == "seconds: none, not trained at the time of uniform's runs"


@pytest.mark.parametrize(
    ("started", "finished", "at_the_same_time"),
    [
        ("2026-01-01T01:00:59+00:00", "2026-01-01T09:00:00+00:00", True),  # an hour after uniform's end
        ("2026-01-01T01:01:01+00:00", "2026-01-01T01:10:00+00:00", False),
        ("2025-12-31T12:00:00+00:00", "2025-12-31T23:00:01+00:00", True),
        ("2025-12-31T12:00:00+00:00", "2025-12-31T22:59:59+00:00", False),
        ("2025-12-31T12:00:00+00:00", "2026-01-01T12:00:00+00:00", True),  # around uniform's
    ],
)
def test_an_hour_may_lie_between_two_runs(run_writer, tmp_path, started, finished, at_the_same_time):
    run_writer("uniform", 0, GRID, falling(0.5))
    run_writer("rais", 0, GRID, falling(0.8), started=started, finished=finished)
    assert math.isfinite(row(tmp_path, "rais")["seconds_speedup"]) is at_the_same_time


def test_an_interval_of_seconds_is_not_written_as_one_of_more_seeds(run_writer, tmp_path):
    for seed in range(8):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, falling(0.8), **({} if seed else LATER))
    found = row(tmp_path, "rais")
    assert found["seconds_speedup"] == pytest.approx(8 / 5) and math.isfinite(found["examples_low"])
    assert math.isnan(found["seconds_low"]) and stats.speedup_text(found, "seconds") == "1.60×"


def test_runs_apart_from_uniform_s_are_told(run_writer, tmp_path):
    another = {"cpu": "Another CPU", "cores": 2, "threads": 1, "gpu": None}
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, falling(0.8), hardware=another, **LATER, task="mnist")  # without a uniform run
    run_writer("rais", 0, GRID, falling(0.8))
    run_writer("rais", 1, GRID, falling(0.8), **LATER)
    run_writer("smoothed_0.1", 0, GRID, falling(0.8), hardware=another)
    runs = load(tmp_path / "records").runs
    told = apart(runs)
    assert told.index.equals(runs.index)
    found = set(map(tuple, runs.loc[told, ["task", "arm", "seed"]].values))
    assert found == {("digits", "rais", 1), ("digits", "smoothed_0.1", 0)}


def test_pairs_of_seeds_on_different_hardware_have_no_seconds_together(run_writer, tmp_path):
    another = {"cpu": "Another CPU", "cores": 2, "threads": 1, "gpu": None}
    for seed, machine in ((0, {}), (1, {"hardware": another})):
        for arm in ("uniform", "rais"):
            run_writer(arm, seed, GRID, falling(0.8), **machine)
            run_writer(arm, seed, GRID, falling(0.8), task="mnist")
    records = load(tmp_path / "records")
    told = apart(records.runs)
    assert told.equals(records.runs["task"] == "digits")


def test_without_uniform_or_without_a_target_there_is_no_speedup(run_writer, tmp_path):
    run_writer("rais", 0, GRID, falling(0.8))
    for arm in ("uniform", "rais"):
        run_writer(arm, 0, GRID, falling(0.8), task="new", target_loss=None)
    table = stats.speedup_table(load(tmp_path / "records")).set_index(["task", "arm"])
    assert table.loc[("digits", "rais"), "status"] == "no uniform run to compare with"
    assert table.loc[("new", "rais"), "status"] == "no target loss"
    assert table.loc[[("digits", "rais"), ("new", "rais")], "examples_speedup"].isna().all()


def test_two_targets_of_one_task_are_refused(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.5))
    run_writer("rais", 0, GRID, falling(0.8), target_loss=0.02)
    with pytest.raises(ValueError, match=r"runs of digits name the targets 0.0183156, 0.02: a target is not touched"):
        row(tmp_path, "rais")


def test_speedups_at_multiples_of_the_target(run_writer, tmp_path):
    # The arm falls as uniform does to e^-2 and then three times as fast: it gains below that loss alone.
    bent = [math.exp(-0.5 * min(x, 4) - 1.5 * max(x - 4, 0)) for x in range(11)]
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, {"train_loss": bent, "test_error": bent})
    table = by_loss_table(load(tmp_path / "records"))
    table = table[table["arm"] == "rais"].set_index("factor")
    assert table.loc[1, "examples_speedup"] == pytest.approx(8 / (4 + 2 / 1.5))
    assert table.loc[10, "examples_speedup"] == pytest.approx(1)
    assert table.loc[10, "level"] == pytest.approx(10 * math.exp(-4))
    assert 100 not in table.index, "both started below that"


def test_text_of_a_speedup():
    known = pd.Series({"arm": "rais", "examples_speedup": 2.714, "examples_low": 2.0, "examples_high": math.inf})
    assert stats.speedup_text(pd.concat([known, pd.Series({"n_seeds": 5})]), "examples") == "2.71× (2.00 to ∞)"
    assert stats.speedup_text(pd.concat([known, pd.Series({"n_seeds": 8})]), "examples") == "2.71× [2.00, ∞]"
    unknown = pd.Series(
        {"arm": "rais", "examples_speedup": math.nan, "examples_low": 1, "examples_high": 1, "n_seeds": 8}
    )
    assert stats.speedup_text(unknown, "examples") == "–"


def test_final_table(run_writer, tmp_path):
    for seed, rate in ((0, 0.4), (1, 0.5), (2, 0.6)):
        run_writer("uniform", seed, GRID, falling(rate), duration_seconds=100.0 + seed)
    found = final_table(load(tmp_path / "records")).iloc[0]
    assert found[["final_train_loss", "final_train_loss_low", "final_train_loss_high"]].tolist() == pytest.approx(
        [math.exp(-5), math.exp(-6), math.exp(-4)]
    )
    assert found[["examples", "seconds", "duration_seconds"]].tolist() == pytest.approx([10_000, 100, 101])
    assert found["hardware"] == "Some CPU, 1 thread"


def test_paired_speedup_of_one_run(run_writer, tmp_path):
    run_writer("rais", 0, GRID, falling(0.8))
    assert math.isnan(stats.paired_speedup(load(tmp_path / "records")))
    run_writer("uniform", 0, GRID, falling(0.5))
    assert stats.paired_speedup(load(tmp_path / "records")) == pytest.approx(8 / 5)


def test_paired_speedup_of_a_run_that_never_gets_there(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.5))
    run_writer("rais", 0, GRID, falling(0.3))
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


def test_no_level_where_one_run_of_the_task_starts_below_the_target(run_writer, tmp_path):
    run_writer("uniform", 0, GRID, falling(0.5), target_loss=0.7)
    run_writer("rais", 0, GRID, falling(0.5, start=0.6), target_loss=0.7)
    assert stats.run_table(load(tmp_path / "records"))["level"].isna().all()
