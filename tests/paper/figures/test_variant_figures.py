"""The figures of sweeps, of traced runs and of the speed-ups: what they draw is held against records made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rais.paper import figures
from rais.paper.analysis.seconds import PHASES, seconds_table
from rais.paper.figures import examples, style
from rais.paper.records.read import load

GRID = list(range(0, 10_001, 1000))


def falling(rate: float, **metrics: object) -> dict[str, object]:
    """log loss = −rate · examples / 1 000 at GRID, and a tenth of the loss as test error."""
    loss = [math.exp(-rate * used / 1000) for used in GRID]
    return {"train_loss": loss, "test_error": [x / 10 for x in loss], **metrics}


@pytest.fixture
def drawn(run_writer, tmp_path):
    """Writes uniform and rais on mnist, at the target e^-4 after 8 and after 4 epochs of 1 000 examples, then draws."""

    def draw(name: str):
        for seed in (0, 1):
            run_writer("uniform", seed, GRID, falling(0.5), task="mnist")
            run_writer("rais", seed, GRID, falling(1.0), task="mnist")
        return figures.draw(name, load(tmp_path / "records"))

    return draw


def texts(target) -> list[str]:
    return [text.get_text() for text in target.texts]


def labels(target) -> list[str]:
    return [text.get_text() for text in target.get_legend().texts] if target.get_legend() else []


def ticks(axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def medians(axes) -> list[float]:
    """What the large markers show, from left to right."""
    found = [line.get_xydata()[0] for line in axes.lines if line.get_markersize() == 6.5]
    return [float(y) for _, y in sorted(map(tuple, found))]


def dots(axes) -> list[list[float]]:
    """What the small ones show, place by place."""
    found = [line for line in axes.lines if line.get_markersize() == 3 and len(line.get_xdata())]
    return [line.get_ydata().tolist() for line in sorted(found, key=lambda line: line.get_xdata().mean())]


def test_smoothing_over_delta(run_writer, drawn):
    # δ = 0 diverges once before the target; δ = 0.1 is there after 5 epochs; δ = 0.3 never is.
    broken = falling(0.8)
    broken["train_loss"][3:] = [math.inf] * 8
    run_writer("smoothed_0", 0, GRID, falling(0.8), task="mnist")
    run_writer("smoothed_0", 1, GRID, broken, task="mnist", status="diverged")
    run_writer("smoothed_0.1", 0, GRID, falling(0.8), task="mnist")
    run_writer("smoothed_0.3", 0, GRID, falling(0.3), task="mnist")
    run_writer("smoothed_0.1_multiplier_off", 0, GRID, falling(0.3), task="mnist")
    cost, loss, curves = drawn("smoothing").axes
    assert medians(cost) == pytest.approx([5, 4]), "of δ = 0.1 and of RAIS; half of δ = 0 and all of δ = 0.3 miss"
    assert dots(cost) == [[pytest.approx(5)], [pytest.approx(5)], [pytest.approx(4)] * 2]
    assert texts(cost) == ["1 diverged", "", "1 missed", ""]
    levels = [line.get_ydata()[0] for line in cost.lines if list(line.get_xdata()) == [0, 1]]
    assert levels == pytest.approx([8, 4])
    assert medians(loss) == pytest.approx([math.exp(-rate) for rate in (8, 8, 3, 10)]), "a diverged run has no end"
    assert ticks(loss) == ["0", "0.1", "0.3", "RAIS"]
    assert [line.get_marker() for line in curves.lines].count("X") == 1


def test_concentration_by_hand():
    share, of_draws = examples.concentration([0, 6, 3, 1])
    assert share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert of_draws.tolist() == pytest.approx([0, 0.6, 0.9, 1, 1])
    assert examples.concentration([2, 2])[1].tolist() == [0, 0.5, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_name_label_and_relative_draws(run_writer, tmp_path, channels):
    arrays = {
        "drawn": np.array([30, 0, 5, 5], np.int32),
        "labels": np.array([7, 1, 4, 9], np.int32),
        "epoch": np.array([0, 1], np.float32),
        "norms": np.array([[0.5, 0.25], [0.1, 0.0]], np.float32),
        "index": np.array([1, 0], np.int32),
        "images": np.arange(2 * channels * 16, dtype=np.uint8).reshape(2, channels, 4, 4),
    }
    for seed in (0, 1):
        run_writer("rais", seed, (0, 10), {"train_loss": [2, 1]}, variant="traced", examples_npz=arrays)
    bad = arrays | {"norms": arrays["norms"] * np.nan}
    run_writer("rais", 2, (0, 10), {"train_loss": [2, 1]}, variant="traced", examples_npz=bad, status="diverged")
    figure = figures.draw("examples_digits", load(tmp_path / "records"))
    figure.draw_without_rendering()
    pictures = [axes for axes in figure.axes if axes.images]
    assert [texts(axes) for axes in pictures] == [["1,  0×"], ["7,  3.0×"]]
    shown = pictures[1].images[0].get_array()
    assert np.array_equal(shown, arrays["images"][1].transpose(1, 2, 0) if channels == 3 else arrays["images"][1][0])
    *_, lorenz = figure.axes
    assert lorenz.lines[0].get_ydata().tolist() == pytest.approx([0, 75, 87.5, 100, 100])
    assert labels(lorenz)[0] == "RAIS (2 seeds)"


def test_a_run_without_importance_has_no_concentration(run_writer, example_arrays, tmp_path):
    arrays = example_arrays | {"drawn": 0 * example_arrays["drawn"]}
    run_writer("rais", 0, (0, 10), {"train_loss": [2, 1]}, task="mnist", examples_npz=arrays)
    figure = figures.draw("examples", load(tmp_path / "records"))
    figure.draw_without_rendering()
    assert texts(figure.axes[-1]) == ["nothing was drawn with importance"]


def test_set_relative_to_its_centre(run_writer, tmp_path):
    known = {"set_radius": [math.nan] + [0.5] * 10, "set_center": [math.nan] + [2.0] * 10, "gain_ratio": [1.0] * 11}
    run_writer("rais", 0, GRID, falling(0.8, **known))
    run_writer("rais", 0, GRID, falling(0.8, **known | {"set_radius": [1.0] * 11}), variant="with_dropout")
    run_writer("rais", 0, GRID, falling(0.8, **known), variant="with_noise")
    run_writer("rais", 0, GRID, falling(0.8, **known), variant="visits_2000")
    figure = figures.draw("uncertainty", load(tmp_path / "records"))
    lines = [line.get_ydata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 10]
    assert lines == [0.25, 0.5, 0.25]
    assert [text.get_text() for text in figure.legends[0].texts] == ["RAIS", "with dropout", "with noise"]


def test_sensitivity_joins_the_variants_and_the_default(run_writer, drawn):
    share = {"sampler_seconds": [0.002 * used for used in GRID]}
    for seed in (0, 1):
        run_writer("rais", seed, GRID, falling(0.8, **share), task="mnist", variant="visits_2000")
        run_writer(
            "rais", seed, GRID, falling(0.35), task="mnist", variant="features_last"
        )  # not there within 10 epochs
    figure = drawn("sensitivity")
    top, bottom = figure.axes[:4], figure.axes[4:]
    assert medians(top[0]) == pytest.approx([5, 4])
    joined = next(line for line in top[0].lines if len(line.get_xdata()) == 2 and line.get_linewidth() > 1)
    assert joined.get_xdata().tolist() == [2000, 20000]
    assert top[0].get_xscale() == "log" and top[2].get_xscale() == "linear"
    assert medians(bottom[0])[0] == pytest.approx(20)
    assert medians(top[2]) == pytest.approx([4])
    assert [text.get_text() for text in figure.legends[0].texts] == ["RAIS"]
    assert texts(top[2]) == ["", "2 missed"] and ticks(bottom[2]) == ["all", "last"]
    assert [texts(top[k]) for k in (1, 3)] == [[f"not run:\nexperiment=\nsweep_{k}"] for k in ("alpha", "batch_size")]


def test_sensitivity_says_of_which_arm_a_miss_is(run_writer, drawn):
    for arm, rate in (("uniform", 0.35), ("rais", 0.8)):
        run_writer(arm, 0, GRID, falling(rate), task="mnist", variant="batch_size_64")
    run_writer("rais", 1, GRID, falling(0.3), task="mnist", variant="batch_size_64")
    assert "uniform: 1 missed\nRAIS: 1 missed" in texts(drawn("sensitivity").axes[3])


def test_learning_rates_of_the_pilots(run_writer, tmp_path):
    for variant, rate in (("lr_half", 0.3), ("", 0.5), ("lr_twice", 0.4)):
        for seed in (100, 101):
            run_writer("uniform", seed, GRID, falling(rate), task="mnist", variant=variant)
    run_writer("uniform", 100, GRID, falling(0.5), task="digits")  # One rate says nothing of others.
    (axes,) = figures.draw("learning_rate", None, load(tmp_path / "records")).axes
    assert medians(axes) == pytest.approx([math.exp(-7.5 * rate) for rate in (0.3, 0.5, 0.4)])
    assert ticks(axes) == ["0.5×", "1×", "2×"] and axes.get_title(loc="left") == "mnist"


def test_speedups_of_every_task_with_what_a_reader_has_to_know(run_writer, drawn):
    run_writer("uniform", 0, GRID, falling(0.5))
    run_writer("rais", 0, GRID, falling(0.3))
    run_writer("oracle", 0, GRID, falling(2.0))
    run_writer("smoothed_0", 0, GRID, falling(1.6))
    (axes,) = drawn("speedup").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["digits, oracle", "digits, RAIS", "mnist, RAIS"]
    words = ["4.00×; 1 of 1 reach it", "target not reached; 0 of 1 reach it", "2.00× (2.00 to 2.00); 2 of 2 reach it"]
    assert texts(axes)[::2] == words
    assert "passes over the whole training set" in texts(axes)[1]
    assert texts(axes)[3] == "the median run does not reach the target" and texts(axes)[5] == ""
    seeds = [line.get_xdata().tolist() for line in axes.lines if line.get_markersize() == 3]
    assert seeds == [[pytest.approx(4)], [], [pytest.approx(2)] * 2], "a run that misses is counted, not drawn"
    assert axes.get_xscale() == "log" and [t.get_text() for t in axes.get_xticklabels()] == ["1", "2", "4"]


def test_an_interval_is_drawn_from_eight_seeds_on(run_writer, drawn):
    for seed in range(8):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, falling(0.8 + 0.1 * seed))
    (axes,) = drawn("speedup").axes
    bars = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linewidth() == 1.6]
    assert len(bars) == 1 and "[" in texts(axes)[0] and "(" in texts(axes)[2]


def test_speedups_by_the_loss_that_is_asked_for(run_writer, drawn):
    run_writer("uniform", 0, GRID, falling(0.5))
    run_writer("oracle", 0, GRID, falling(2.0))
    run_writer("rais", 0, GRID, falling(0.1))
    figure = drawn("by_loss")
    rais, oracle = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["RAIS", "oracle"]
    for axes, speedup, color in ((rais, 2, style.TASKS["mnist"].color), (oracle, 4, style.TASKS["digits"].color)):
        line = next(line for line in axes.lines if line.get_color() == color and len(line.get_xdata()) > 2)
        assert line.get_xdata().tolist() == [1, 1.5, 2, 3, 5, 10, 30]
        assert line.get_ydata().tolist() == pytest.approx([speedup] * 7)
    assert [text.get_text() for text in figure.legends[0].texts] == ["digits", "mnist"]
    assert rais.get_xlim()[0] > rais.get_xlim()[1], "training goes from left to right"
    assert rais.get_yscale() == "log" and rais.get_ylim()[0] < 1 and rais.get_ylim()[1] > 4


def test_four_ways_to_draw(run_writer, tmp_path):
    for arm, rate in (("uniform", 0.5), ("uniform_with_replacement", 0.4), ("rais", 0.8), ("rais_spaced", 1.0)):
        for seed in (0, 1):
            run_writer(arm, seed, GRID, falling(rate))
    run_writer("uniform_with_replacement", 2, GRID, falling(0.3))
    (axes,) = figures.draw("spaced", load(tmp_path / "records")).axes
    assert medians(axes) == pytest.approx([10, 8, 5, 4])
    assert texts(axes)[0] == "1 missed" and len(ticks(axes)) == 4


def test_seconds_are_shared_out_as_the_phases_of_the_run(run_writer, tmp_path):
    spent = {"forward": 3.0, "backward": 4.0, "step": 1.0, "data": 0.0, "norms": 0.5, "sampler": 1.0, "gain": 0.5}
    phases = {f"phase_{name}": [k * seconds for k in range(11)] for name, seconds in spent.items()}
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.5))  # without phases: of another version
        run_writer("uniform", seed + 2, GRID, falling(0.5, **phases))
        run_writer("rais", seed + 2, GRID, falling(1.0, **phases))
    run_writer("rais", 4, GRID, falling(0.1, **phases))  # never at the target
    records = load(tmp_path / "records")
    table = seconds_table(records).set_index("arm")
    assert table["n_seeds"].to_dict() == {"uniform": 2, "rais": 2}
    assert table.loc["uniform", "seconds"] == pytest.approx(2 * table.loc["rais", "seconds"])
    shares = table.loc["rais", list(PHASES)] / table.loc["rais", "seconds"]
    assert shares.to_dict() == pytest.approx({name: seconds / 10 for name, seconds in spent.items()})
    (axes,) = figures.draw("seconds", records).axes
    assert [patch.get_width() for patch in axes.patches[:2]] == pytest.approx(table["forward"].tolist())
    assert texts(axes)[1].endswith(", 2 seeds")


def test_no_figure_shows_seconds_of_another_time(run_writer, tmp_path):
    later = {"started": "2026-01-02T00:00:00Z", "finished": "2026-01-02T00:01:00Z"}
    phases = {f"phase_{name}": [float(k) for k in range(11)] for name in PHASES}
    run_writer("uniform", 0, GRID, falling(0.5, **phases))
    run_writer("rais", 0, GRID, falling(0.8, **phases))
    run_writer("rais_spaced", 0, GRID, falling(0.8, **phases), **later)
    records = load(tmp_path / "records")
    assert seconds_table(records)["arm"].tolist() == ["uniform", "rais"]
    runs = style.runs_by_arm(records)
    assert {arm: bool(run.wide["seconds"].notna().all()) for arm, (run,) in runs.items()} == {
        "uniform": True,
        "rais": True,
        "rais_spaced": False,
    }
    by_epoch, _, by_seconds, *_ = figures.draw("curves_digits", records).axes
    assert len(by_epoch.lines) == len(by_seconds.lines) + 2  # a line and its markers


def test_ablation_shows_every_run_of_every_cure(run_writer, tmp_path):
    weights = {"largest_weight": [1.0] * 10 + [4.0]}
    for seed in (0, 1):
        run_writer("uniform", seed, GRID, falling(0.5))
        run_writer("rais", seed, GRID, falling(1.0, **weights))
        heavy = {"largest_weight": [300.0 * (1 + seed)] * 11}
        run_writer("rais", seed, GRID, falling(0.8, **heavy), variant="without_extra_visit")
        run_writer("rais", seed, GRID, falling(0.3, **weights), variant="without_window")
    cost, weight, rise = figures.draw("ablation", load(tmp_path / "records")).axes
    assert ticks(cost) == ["whole\nrecipe", "extra\nvisit", "window"]
    assert medians(cost) == pytest.approx([4, 5]) and texts(cost) == ["", "", "2 missed"]
    assert dots(weight) == [[4, 4], [300, 600], [4, 4]]
    assert medians(rise) == pytest.approx([math.exp(-1), math.exp(-0.8), math.exp(-0.3)])


def test_headroom_draws_the_stages_and_says_the_cause(run_writer, tmp_path):
    stages = {"oracle_rho": 16, "hindsight_rho": 4, "true_rho": 4, "rho": 4, "gain_ratio": 2}
    metrics = {name: [1.0] + [float(value)] * 10 for name, value in stages.items()}
    run_writer("rais", 0, GRID, falling(0.8, **metrics))
    run_writer("rais", 0, GRID, falling(0.8, **metrics | {"oracle_rho": [1.2] * 11}), task="hard")
    panel, other, corner = figures.draw("headroom", load(tmp_path / "records")).axes[:3]
    assert [line.get_ydata()[0] for line in panel.lines[:5]] == pytest.approx([16, 4, 4, 4, 2])
    assert (
        panel.get_title(loc="left").replace("\n", " ").startswith("digits the past says little of the next norm: 50 %")
    )
    assert other.get_title(loc="left").startswith("hard\nlittle headroom")
    assert len(corner.get_legend().texts) == 9
    assert len(panel.collections) >= 2, "bands where something is lost"


def test_protection_is_drawn_where_it_never_acted_too(run_writer, tmp_path):
    for seed, status in enumerate(("done", "diverged")):
        still = {"outlier_share": [0.0] * 11, "outlier_bias": [0.0] * 11}
        run_writer("rais", seed, GRID, falling(0.4, **still), task="digits_hot", variant="unprotected", status=status)
        acted = {"outlier_share": [0.1] * 11, "outlier_bias": [-0.01] * 11}
        run_writer("rais", seed, GRID, falling(0.4, **acted), task="digits_hot", variant="protected")
    loss, share, bias = figures.draw("outliers", load(tmp_path / "records")).axes
    assert loss.get_title(loc="left") == "unprotected: 1 of 2 diverged; protected: 0 of 2 diverged"
    assert {line.get_ydata()[0] for line in share.lines} == {0.0, 0.1}
    assert {line.get_ydata()[0] for line in bias.lines} == {0.0, -0.01}


def test_variants_are_drawn_in_no_headline_figure(run_writer, drawn, tmp_path):
    run_writer("rais", 0, GRID, falling(0.1), task="mnist", variant="visits_2000")
    run_writer("rais", 0, GRID, falling(0.1), task="other", variant="visits_2000")
    drawn("curves_mnist")
    records = load(tmp_path / "records")
    assert [len(runs) for runs in style.runs_by_arm(records.comparable.of("mnist")).values()] == [2, 2]
    assert "curves_other" not in figures.names(records)


def test_a_figure_of_variants_needs_variants_of_its_own(run_writer, tmp_path):
    run_writer("rais", 0, GRID, falling(0.1), task="mnist", variant="lr_twice")
    run_writer("rais", 0, GRID, falling(0.1), variant="without_anything")
    run_writer("uniform", 0, GRID, falling(0.1), variant="with_dropout")
    records = load(tmp_path / "records")
    assert [figures.FIGURES[name].NEEDS.tasks_in(records) for name in ("uncertainty", "sensitivity")] == [[], []]
    with pytest.raises(figures.MissingRuns, match=r"complete runs of rais with a variant with_\* on digits: "):
        figures.draw("uncertainty", records)
