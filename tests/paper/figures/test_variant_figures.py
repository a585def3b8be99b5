"""The figures of sweeps, of traced runs and of the speed-ups: what they draw is held against records made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rais.paper import figures
from rais.paper.figures import fig5_examples, style
from rais.paper.records.read import load

GRID = list(range(0, 10_001, 1000))


def falling(rate: float, **metrics: object) -> dict[str, object]:
    """log loss = −rate · examples / 1 000 at GRID, and a tenth of the loss as test error."""
    loss = [math.exp(-rate * used / 1000) for used in GRID]
    return {"train_loss": loss, "test_error": [x / 10 for x in loss], **metrics}


@pytest.fixture
def drawn(run_writer, tmp_path):
    """Writes uniform and rais on mnist, then draws; L* is e^-4, where rais is after half of uniform's examples."""

    def draw(name: str):
        for seed in (0, 1):
            run_writer("uniform", seed, GRID, falling(0.4), task="mnist")
            run_writer("rais", seed, GRID, falling(0.8), task="mnist")
        return figures.draw(name, load(tmp_path / "records"))

    return draw


def texts(target) -> list[str]:
    return [text.get_text() for text in target.texts]


def labels(target) -> list[str]:
    return [text.get_text() for text in target.get_legend().texts] if target.get_legend() else []


def ticks(axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def test_smoothing_over_delta(run_writer, drawn):
    # δ = 0 diverges once; δ = 0.1 is at L* after 8 000 examples; δ = 0.3 never is.
    run_writer("smoothed_0", 0, GRID, falling(0.8), task="mnist")
    run_writer("smoothed_0", 1, GRID, falling(0.8), task="mnist", status="diverged")
    run_writer("smoothed_0.1", 0, GRID, falling(0.5), task="mnist")
    run_writer("smoothed_0.3", 0, GRID, falling(0.3), task="mnist")
    run_writer("smoothed_0.1_multiplier_off", 0, GRID, falling(0.3), task="mnist")
    speedup, loss, curves = drawn("fig3_smoothing").axes
    points = [line for line in speedup.lines if len(line.get_xdata()) == 3]
    assert points[0].get_ydata().tolist() == pytest.approx([1, 10 / 8, 0])
    assert texts(speedup) == ["1 diverged", "", "1 never\nat L*", ""]
    levels = [line.get_ydata()[0] for line in speedup.lines if list(line.get_xdata()) == [0, 1]]
    assert levels == pytest.approx([1, 2])
    final = [line for line in loss.lines if len(line.get_xdata()) == 3]
    assert final[0].get_ydata().tolist() == pytest.approx([math.exp(-8), math.exp(-5), math.exp(-3)])
    assert ticks(loss) == ["0", "0.1", "0.3", "RAIS"]
    assert [line.get_marker() for line in curves.lines].count("X") == 1


def test_concentration_by_hand():
    share, of_draws = fig5_examples.concentration([0, 6, 3, 1])
    assert share.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert of_draws.tolist() == pytest.approx([0, 0.6, 0.9, 1, 1])
    assert fig5_examples.concentration([2, 2])[1].tolist() == [0, 0.5, 1]


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
    figure = figures.draw("fig5_digits", load(tmp_path / "records"))
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
    figure = figures.draw("fig5_examples", load(tmp_path / "records"))
    figure.draw_without_rendering()
    assert texts(figure.axes[-1]) == ["nothing was drawn with importance"]


def test_set_relative_to_its_centre(run_writer, tmp_path):
    known = {"set_radius": [math.nan] + [0.5] * 10, "set_center": [math.nan] + [2.0] * 10, "gain_ratio": [1.0] * 11}
    run_writer("rais", 0, GRID, falling(0.8, **known))
    run_writer("rais", 0, GRID, falling(0.8, **known | {"set_radius": [1.0] * 11}), variant="with_dropout")
    run_writer("rais", 0, GRID, falling(0.8, **known), variant="with_noise")
    run_writer("rais", 0, GRID, falling(0.8, **known), variant="visits_2000")
    figure = figures.draw("fig6_uncertainty", load(tmp_path / "records"))
    lines = [line.get_ydata()[0] for line in figure.axes[0].lines if len(line.get_xdata()) == 10]
    assert lines == [0.25, 0.5, 0.25]
    assert [text.get_text() for text in figure.legends[0].texts] == ["RAIS", "with dropout", "with noise"]


def test_sensitivity_joins_the_variants_and_the_default(run_writer, drawn):
    share = {"sampler_seconds": [0.002 * used for used in GRID]}
    for seed in (0, 1):
        run_writer("rais", seed, GRID, falling(0.5, **share), task="mnist", variant="visits_2000")
        run_writer("rais", seed, GRID, falling(0.35), task="mnist", variant="features_no_spread")  # between L* and 2 L*
    figure = drawn("fig7_sensitivity")
    top, bottom = figure.axes[:4], figure.axes[4:]
    assert top[0].lines[0].get_xydata().tolist() == [[2000, pytest.approx(10 / 8)], [20000, pytest.approx(2)]]
    assert top[0].get_xscale() == "log" and top[2].get_xscale() == "linear"
    assert bottom[0].lines[0].get_ydata()[0] == pytest.approx(20)
    assert top[2].lines[0].get_xydata().tolist() == [[0, pytest.approx(2)], [1, 0]]
    dashed = [line for line in top[2].lines if line.get_color() == style.ORANGE and len(line.get_xdata()) == 2]
    assert dashed[0].get_ydata().tolist() == pytest.approx([2, 35 / 40])
    assert [text.get_text() for text in figure.legends[0].texts] == ["RAIS", "RAIS at 2 L*"]
    assert texts(top[2]) == ["", "2 never\nat L*"] and ticks(bottom[2]) == ["all", "no\nspread"]
    assert [texts(top[k]) for k in (1, 3)] == [[f"not run:\nexperiment=\nsweep_{k}"] for k in ("alpha", "batch_size")]


def test_learning_rates_of_uniform(run_writer, drawn):
    run_writer("uniform", 0, GRID, falling(0.2), task="mnist", variant="lr_1.7")
    run_writer("uniform", 0, GRID, falling(0.9), task="mnist", variant="lr_6.8", status="diverged")
    loss, error = drawn("fig7_learning_rate").axes
    expected = [math.exp(-2), math.exp(-4), math.nan]
    assert loss.lines[0].get_xdata().tolist() == [0.5, 1, 2]
    assert loss.lines[0].get_ydata().tolist() == pytest.approx(expected, nan_ok=True)
    assert error.lines[0].get_ydata().tolist() == pytest.approx([10 * y for y in expected], nan_ok=True)
    assert texts(loss) == ["", "", "1 diverged"] and ticks(loss) == ["0.5×", "1×", "2×"]
    assert math.exp(-8) in [pytest.approx(line.get_ydata()[0]) for line in loss.lines[1:]]


def test_speedups_of_every_task_with_what_tempers_them(run_writer, drawn):
    run_writer("uniform", 0, GRID, falling(0.4))
    run_writer("rais", 0, GRID, falling(0.35))
    run_writer("oracle", 0, GRID, falling(1.6))
    run_writer("smoothed_0", 0, GRID, falling(1.6))
    (axes,) = drawn("fig8_speedup").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["digits, oracle", "digits, RAIS", "mnist, RAIS"]
    both = ["4.00×, n = 1; at 2 L*: 4.00×", "0.00×, n = 1; at 2 L*: 0.88×", "2.00× [2.00, 2.00], n = 2; at 2 L*: 2.00×"]
    assert texts(axes)[::2] == [*both[:2], f"{both[2]} [2.00, 2.00]"]
    hardware = "Some CPU, 1 thread"
    assert texts(axes)[1::2] == [hardware, f"{hardware}; 1 of 1 never at L*", hardware]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_marker() in "Ds"] == pytest.approx(
        [4, 4, 35 / 40, 0, 2, 2]
    )


def test_speedups_by_the_loss_that_is_asked_for(run_writer, drawn):
    run_writer("uniform", 0, GRID, falling(0.4))
    run_writer("oracle", 0, GRID, falling(1.6))
    figure = drawn("fig8_levels")
    rais, oracle = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["RAIS", "oracle"]
    for axes, speedup, color in ((rais, 2, style.TASKS["mnist"].color), (oracle, 4, style.TASKS["digits"].color)):
        line = next(line for line in axes.lines if line.get_color() == color and len(line.get_xdata()) > 2)
        assert line.get_xdata().tolist() == [1, 1.5, 2, 3, 5, 10, 30]
        assert line.get_ydata().tolist() == pytest.approx([speedup] * 7)
    assert [text.get_text() for text in figure.legends[0].texts] == ["digits", "mnist"]
    assert rais.get_xlim()[0] > rais.get_xlim()[1], "training goes from left to right"


def test_protection_is_drawn_where_it_never_acted_too(run_writer, tmp_path):
    for seed, status in enumerate(("done", "diverged")):
        still = {"outlier_share": [0.0] * 11, "outlier_bias": [0.0] * 11}
        run_writer("rais", seed, GRID, falling(0.4, **still), task="digits_hot", variant="unprotected", status=status)
        acted = {"outlier_share": [0.1] * 11, "outlier_bias": [-0.01] * 11}
        run_writer("rais", seed, GRID, falling(0.4, **acted), task="digits_hot", variant="protected")
    loss, share, bias = figures.draw("fig9_outliers", load(tmp_path / "records")).axes
    assert loss.get_title(loc="left") == "unprotected: 1 of 2 diverged; protected: 0 of 2 diverged"
    assert {line.get_ydata()[0] for line in share.lines} == {0.0, 0.1}
    assert {line.get_ydata()[0] for line in bias.lines} == {0.0, -0.01}


def test_variants_are_drawn_in_no_headline_figure(run_writer, drawn, tmp_path):
    run_writer("rais", 0, GRID, falling(0.1), task="mnist", variant="visits_2000")
    run_writer("rais", 0, GRID, falling(0.1), task="other", variant="visits_2000")
    drawn("fig4_mnist")
    records = load(tmp_path / "records")
    assert [len(runs) for runs in style.runs_by_arm(records.comparable.of("mnist")).values()] == [2, 2]
    assert "fig4_other" not in figures.figures_for(records)


def test_a_figure_of_variants_needs_variants_of_its_own(run_writer, tmp_path):
    run_writer("rais", 0, GRID, falling(0.1), task="mnist", variant="lr_6.8")
    run_writer("rais", 0, GRID, falling(0.1), variant="without_anything")
    run_writer("uniform", 0, GRID, falling(0.1), variant="with_dropout")
    records = load(tmp_path / "records")
    tasks = {name: figures.FIGURES[name].task(records) for name in ("fig6_uncertainty", "fig7_sensitivity")}
    assert tasks == {"fig6_uncertainty": None, "fig7_sensitivity": None}
    with pytest.raises(figures.MissingRuns, match=r"complete runs of rais with a variant with_\* on digits: "):
        figures.draw("fig6_uncertainty", records)
