"""Reading run folders: what is read, what a killed run leaves, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rais.load import RecordError, load

EXAMPLES = (0, 1000, 2000)
LOSS = {"train_loss": [2.0, 1.0, 0.5], "test_error": [0.9, 0.2, 0.1]}


def edit_meta(folder: Path, **changes: object) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **changes}))


def test_a_run_is_read_as_it_was_written(run_writer, tmp_path):
    run_writer("rais", 3, EXAMPLES, LOSS, core_share=0.75, status="diverged")
    records = load(tmp_path / "records")
    run = records.runs.iloc[0]
    assert (run["task"], run["arm"], run["seed"], run["status"]) == ("digits", "rais", 3, "diverged")
    assert (run["n"], run["batch_size"], run["epochs"], run["gpu"]) == (1000, 10, 10.0, "")
    assert run["folder"] == "digits/rais/seed3-rais3"
    assert run["core_share"] == pytest.approx(0.75)
    assert not run["diagnostic"]
    wide = records.wide(run)
    assert wide["iteration"].tolist() == [0, 100, 200]
    assert wide["examples"].tolist() == [0, 1000, 2000]
    assert wide["seconds"].tolist() == [0.0, 10.0, 20.0]
    assert wide["train_loss"].tolist() == LOSS["train_loss"]
    assert len(records.curves) == 3 * 3


def test_values_that_are_not_finite_survive(run_writer, tmp_path):
    run_writer("rais", 0, EXAMPLES, {"train_loss": [2.0, math.inf, math.nan]}, status="diverged")
    records = load(tmp_path / "records")
    values = records.wide(records.runs.iloc[0])["train_loss"]
    assert math.isinf(values[1]) and math.isnan(values[2])


def test_a_killed_run_is_interrupted_and_its_cut_line_dropped(run_writer, tmp_path):
    folder = run_writer("rais", 0, EXAMPLES, LOSS, status="running")
    text = (folder / "record.csv").read_text()
    (folder / "record.csv").write_text(text[:-4])
    records = load(tmp_path / "records")
    assert records.unfinished["status"].tolist() == ["interrupted"]
    assert records.comparable.runs.empty
    assert len(records.curves) == 3 * 3 - 1


@pytest.mark.parametrize("left", ["", "iteration,exam"])
def test_a_run_killed_at_once_has_no_curve(run_writer, tmp_path, left):
    folder = run_writer("rais", 0, EXAMPLES, LOSS, status="running", duration_seconds=None)
    (folder / "record.csv").write_text(left)
    records = load(tmp_path / "records")
    assert records.curves.empty
    assert math.isnan(records.runs["core_share"][0])


def test_a_diagnostic_run_is_no_duplicate_and_stands_apart(run_writer, tmp_path):
    run_writer("rais", 0, EXAMPLES, LOSS)
    run_writer("rais", 0, EXAMPLES, {**LOSS, "true_phi": [1, 1, 1]}, run_id="other", norms=[(0, 5, 0.5, 2.0)])
    records = load(tmp_path / "records")
    assert records.comparable.runs["run_id"].tolist() == ["rais0"]
    assert records.diagnostics.runs["run_id"].tolist() == ["other"]
    assert records.diagnostics.norms[["example", "loss_layer", "exact"]].values.tolist() == [[5, 0.5, 2.0]]


@pytest.mark.parametrize("make", [False, True])
def test_no_records_name_the_command(tmp_path, make):
    root = tmp_path / "records"
    if make:
        root.mkdir()
    with pytest.raises(RecordError, match=r"no records under .*records: .*make reproduce"):
        load(root)


def test_a_folder_without_meta(run_writer, tmp_path):
    folder = run_writer("rais", 0, EXAMPLES, LOSS)
    (folder / "meta.json").unlink()
    with pytest.raises(RecordError, match=r"seed0-rais0 has no meta.json.*move it"):
        load(tmp_path / "records")


@pytest.mark.parametrize("text", ["{", "[]", '{"task": "digits"}'])
def test_a_broken_meta(run_writer, tmp_path, text):
    (run_writer("rais", 0, EXAMPLES, LOSS) / "meta.json").write_text(text)
    with pytest.raises(RecordError, match=r"seed0-rais0.meta.json .*delete the folder and run it again"):
        load(tmp_path / "records")


def test_an_unknown_status(run_writer, tmp_path):
    run_writer("rais", 0, EXAMPLES, LOSS, status="fine")
    with pytest.raises(RecordError, match=r"'fine', none of running, done"):
        load(tmp_path / "records")


def test_a_folder_that_belies_its_meta(run_writer, tmp_path):
    edit_meta(run_writer("rais", 0, EXAMPLES, LOSS), arm="oracle")
    with pytest.raises(RecordError, match=r"holds the run digits/oracle/seed0-rais0"):
        load(tmp_path / "records")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-3],
        lambda text: text.replace("iteration", "step"),
        lambda text: text.replace("0.5", "half"),
        lambda text: text + text.splitlines(keepends=True)[-1],
        lambda text: "".join(line for line in text.splitlines(keepends=True) if "train_loss" not in line),
    ],
    ids=["cut", "header", "word", "twice", "no loss"],
)
def test_a_damaged_record_of_a_complete_run(run_writer, tmp_path, damage):
    path = run_writer("rais", 0, EXAMPLES, LOSS) / "record.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(
        RecordError, match=r"seed0-rais0.record.csv .*delete the folder and run again: python scripts/tr"
    ):
        load(tmp_path / "records")


def test_two_runs_of_one_seed(run_writer, tmp_path):
    run_writer("rais", 0, EXAMPLES, LOSS, run_id="a")
    run_writer("rais", 0, EXAMPLES, LOSS, run_id="b")
    with pytest.raises(RecordError, match=r"two runs .*seed0-a and .*seed0-b; keep one"):
        load(tmp_path / "records")


def test_an_unfinished_run_beside_a_complete_one_is_no_duplicate(run_writer, tmp_path):
    run_writer("rais", 0, EXAMPLES, LOSS, run_id="a")
    run_writer("rais", 0, EXAMPLES, LOSS, run_id="b", status="interrupted")
    assert load(tmp_path / "records").comparable.runs["run_id"].tolist() == ["a"]


@pytest.mark.parametrize(
    "change",
    [{"n": 500}, {"config": {"batch_size": 20, "epochs": 10.0}}, {"config": {"batch_size": 10, "epochs": 5.0}}],
)
def test_runs_of_one_task_with_different_settings(run_writer, tmp_path, change):
    run_writer("uniform", 0, EXAMPLES, LOSS)
    run_writer("rais", 0, EXAMPLES, LOSS, **change)
    with pytest.raises(RecordError, match=r"task digits was run with .* cannot be compared"):
        load(tmp_path / "records")


def test_arms_come_in_the_order_of_the_paper(run_writer, tmp_path):
    for arm in ("zebra", "rais", "smoothed_0.1", "uniform", "smoothed_0.01"):
        run_writer(arm, 0, EXAMPLES, LOSS)
    assert load(tmp_path / "records").arms("digits") == ["uniform", "smoothed_0.01", "smoothed_0.1", "rais", "zebra"]
