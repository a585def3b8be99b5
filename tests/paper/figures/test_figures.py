"""Every figure is made and saved from made-up records of all arms, and what is missing is said, not raised half-way."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread

from rais.paper import figures
from rais.paper.analysis.phi import correlations, phi_table
from rais.paper.analysis.two_by_two import CELLS, two_by_two_table
from rais.paper.figures import style
from rais.paper.records.read import load

ROOT = Path(__file__).parents[3]
NAMES = tuple(figures.FIGURES)


@pytest.fixture(scope="module")
def records(many_records):
    return load(many_records)


@pytest.fixture(scope="module")
def pilots(many_pilots):
    return load(many_pilots)


@pytest.fixture(scope="module")
def drawn(records, pilots):
    return {name: figures.draw(name, records, pilots) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_figure_is_saved_with_something_on_it(drawn, tmp_path, name):
    (png,) = figures.save(drawn[name], tmp_path / "figures" / name)
    assert png.name == f"{name}.png"
    pixels = imread(png)[..., :3]
    assert min(pixels.shape[:2]) >= 400
    assert 0.005 < np.mean(pixels.min(axis=-1) < 0.9) < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_with_curves_names_its_axes(drawn, name):
    panels = [axes for axes in drawn[name].axes if axes.lines or axes.patches]
    assert panels
    for axes in panels:
        assert axes.get_xlabel() or axes.get_shared_x_axes().get_siblings(axes) != [axes]
        row = [other for other in drawn[name].axes if other.get_position().y0 == axes.get_position().y0]
        assert any(other.get_ylabel() for other in row)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_figure_declares_is_there(name):
    needs = figures.FIGURES[name].NEEDS
    for experiment in needs.experiments:
        assert (ROOT / "conf/experiment" / f"{experiment.split()[0]}.yaml").is_file(), f"{name}: {experiment}"
    assert f"`{name}" in figures.map_table() and needs.origin


def test_the_same_records_give_the_same_files(records, tmp_path):
    for run in ("one", "two"):
        figures.save(figures.draw("two_by_two", records), tmp_path / run / "figure", ("png", "pdf"))
    for suffix in (".png", ".pdf"):
        assert (tmp_path / f"one/figure{suffix}").read_bytes() == (tmp_path / f"two/figure{suffix}").read_bytes()


def test_settings_of_the_caller_are_left_alone(records):
    before = dict(matplotlib.rcParams)
    figures.draw("oracle", records)
    assert dict(matplotlib.rcParams) == before


def test_the_legend_of_the_learning_curves_names_every_arm(records):
    axes_of = figures.draw("curves_mnist", records).axes
    names = [text.get_text() for axes in axes_of if axes.legend_ for text in axes.legend_.texts]
    assert names == [style.look(arm).label for arm in records.comparable.arms("mnist")]
    assert len(names) == 11


def test_the_oracle_is_drawn_beside_uniform_and_rais(drawn):
    names = [text.get_text() for text in drawn["oracle"].legends[0].texts]
    assert names == ["uniform", "oracle", "RAIS"]
    assert len(drawn["oracle"].axes) == 3


def test_a_diverged_run_ends_in_a_cross_inside_the_axes(records):
    for axes in figures.draw("curves_mnist", records).axes[:6]:
        crosses = [line for line in axes.lines if line.get_marker() == "X"]
        assert len(crosses) == 1
        assert all(line.get_ydata()[-1] <= axes.get_ylim()[1] * (1 + 1e-9) for line in crosses)


@pytest.mark.parametrize("name", NAMES)
def test_missing_runs_are_named_with_the_commands_that_make_them(run_writer, tmp_path, name):
    run_writer("smoothed_9", 0, (0, 10), {"train_loss": [2, 1]}, task="other", status="failed")
    with pytest.raises(figures.MissingRuns, match=rf"^{name} needs complete .* on ") as caught:
        figures.draw(name, load(tmp_path / "records"))
    for experiment in figures.FIGURES[name].NEEDS.experiments:
        assert f"python scripts/train.py --multirun experiment={experiment}" in str(caught.value)


def test_one_seed_one_evaluation_and_no_gain_ratio_are_enough(run_writer, tmp_path):
    run_writer("uniform", 0, (0,), {"train_loss": [2], "test_error": [0.9]})
    figure = figures.draw("curves_digits", load(tmp_path / "records"))
    figure.draw_without_rendering()
    assert figure.axes[0].lines
    assert [text.get_text() for text in figure.axes[6].texts] == ["no gain ratio $r$ recorded"]


def test_panels_of_seconds_say_where_no_runs_were_made_together(run_writer, tmp_path):
    for seed, cpu in enumerate(("One CPU", "Another CPU")):
        machine = {"cpu": cpu, "cores": 2, "threads": 1, "gpu": None}
        run_writer("uniform", seed, (0, 10), {"train_loss": [2, 1], "test_error": [0.9, 0.8]}, hardware=machine)
    axes_of = figures.draw("curves_digits", load(tmp_path / "records")).axes
    told = [axes.get_xlabel() for axes in axes_of if "no runs made together" in [t.get_text() for t in axes.texts]]
    assert told == [style.AXIS_LABELS["seconds"]] * 2


def test_figures_of_a_task_each_are_named_by_it(records):
    names = figures.names(records)
    assert [name for name in names if name.startswith("curves")] == [
        "curves_digits",
        "curves_mnist",
        "curves_mnist_6000",
    ]
    assert "examples_mnist" in names and "oracle_mnist_6000" in names and "headroom" in names
    with pytest.raises(figures.MissingRuns, match="curves_svhn needs"):
        figures.draw("curves_svhn", records)
    with pytest.raises(KeyError):
        figures.draw("nothing", records)


def test_the_two_by_two_falls_back_on_digits(run_writer, tmp_path):
    for arm in CELLS.values():
        run_writer(arm, 0, (0, 10), {"train_loss": [2, 1]})
    assert figures.FIGURES["two_by_two"].NEEDS.tasks_in(load(tmp_path / "records")) == ["digits"]


def test_two_by_two_table_by_hand(run_writer, tmp_path):
    # rais ends after 1 000 examples with seed 0, after 3 000 with seed 1. Of uniform, e^(−examples / 1 000), that is
    # e^-1 and e^-3; the arm rais_multiplier_off stopped at e^-2 after 2 000 examples; one replay diverged.
    grid = (0, 2000, 4000)
    falling = {"train_loss": np.exp(-np.array(grid) / 1000)}
    for seed, end in ((0, 1000), (1, 3000)):
        run_writer("rais", seed, (0, end), {"train_loss": [1, 0.01]})
        run_writer("uniform", seed, grid, falling)
        run_writer("rais_multiplier_off", seed, grid[:2], {"train_loss": falling["train_loss"][:2]})
        run_writer("uniform_rais_multiplier", seed, grid, falling, status=("done", "diverged")[seed])
    run_writer("uniform", 2, grid, falling)
    table = two_by_two_table(load(tmp_path / "records")).set_index("arm")
    means = [(np.exp(-1) + np.exp(-3)) / 2, np.exp(-1), (np.exp(-1) + np.exp(-2)) / 2, 0.01]
    assert table["train_loss"].tolist() == pytest.approx(means)
    assert table["n_seeds"].tolist() == [2, 1, 2, 2]
    assert table["epochs"].tolist() == [2, 1, 2, 2]
    assert table["ended_before"].tolist() == [0, 0, 1, 0]
    assert table["diverged"].tolist() == [0, 1, 0, 0]
    assert table[["draws", "multiplier"]].values.tolist() == [
        ["uniform", "1"],
        ["uniform", "RAIS"],
        ["RAIS", "1"],
        ["RAIS", "RAIS"],
    ]


def test_phi_table_by_hand(run_writer, tmp_path):
    # The first evaluation is before any step and does not count; an estimate that is not there yet neither.
    for seed, error in ((0, 0.1), (1, -0.3)):
        run_writer(
            "rais",
            seed,
            (0, 10, 20, 30),
            {
                "train_loss": [2, 1, 1, 1],
                "true_phi": [1, 0.5, 0.5, 0.5],
                "phi_exact": [0, 0.5 + error, 0.5, np.nan],
                "phi_half_batch": [0, 0.5, 0.5, 0.5],
            },
        )
    table = phi_table(load(tmp_path / "records")).set_index("estimator")
    assert table.loc["exact", ["mean_absolute_error", "bias"]].tolist() == pytest.approx([0.1, -0.05])
    assert table.loc["half_batch", ["mean_absolute_error", "bias"]].tolist() == [0, 0]
    assert table["n_seeds"].tolist() == [2, 2]
    assert set(table.index) == {"exact", "half_batch"}


def test_correlation_of_norms(run_writer, tmp_path):
    line = [(0.0, i, i / 10, 3 * i + 1) for i in range(5)]
    against = [(1.0, i, i / 10, 9 - i) for i in range(5)]
    run_writer("rais", 0, (0, 10), {"train_loss": [2, 1]}, norms=line + against)
    found = correlations(load(tmp_path / "records").norms)
    assert found.to_dict() == {0.0: pytest.approx(1), 1.0: pytest.approx(-1)}


def test_estimated_gain_ratio_is_recomputed_from_each_phi(drawn):
    # Panel (c): 1 + φ(ρ − 1) with the true φ is the recorded gain ratio in the made-up runs.
    gain = drawn["approximation"].axes[2]
    lines = [line for line in gain.lines if line.get_linestyle() != "None"]
    truth, exact, half_batch, consecutive = (np.interp([1.5, 2.5, 3.5], *line.get_data()) for line in lines)
    assert half_batch == pytest.approx(truth, rel=0.03)
    assert exact == pytest.approx(truth, rel=0.05)
    assert (consecutive > truth * 1.02).all()


def test_saving_makes_the_folder(tmp_path):
    paths = figures.save(matplotlib.figure.Figure(), tmp_path / "a" / "b" / "c", ("png", "pdf"))
    assert [path.name for path in paths if path.exists()] == ["c.png", "c.pdf"]
