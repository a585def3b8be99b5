"""Reading run folders: what is read, what a killed run leaves, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from rais.paper.records.layout import EXAMPLE_ARRAYS, RecordError
from rais.paper.records.read import load, load_beside_uniform

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
    assert not run["diagnostic"] and not run["traced"] and run["variant"] == ""
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
    with pytest.raises(RecordError, match=r"no records under .*skipped: .*seed0-rais0 has no meta.json.*move it"):
        load(tmp_path / "records")


FOREIGN = ["", "{", "[]", "null", "[" * 100_000, "\x00" * 40, '{"task": "digits"}', '{"n": "many"}']


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_a_broken_meta(run_writer, tmp_path, text):
    (run_writer("rais", 0, EXAMPLES, LOSS) / "meta.json").write_text(text)
    with pytest.raises(RecordError, match=r"seed0-rais0.meta.json .*delete the folder and run it again"):
        load(tmp_path / "records")


@pytest.mark.parametrize(
    "change",
    [{"config": {}}, {"config": {"batch_size": [], "epochs": 1}}, {"hardware": {"cpu": 1}}, {"n": 1.5}, {"config": 3}],
)
def test_a_meta_of_another_shape_is_no_traceback(run_writer, tmp_path, change):
    run_writer("rais", 0, EXAMPLES, LOSS)
    edit_meta(run_writer("uniform", 0, EXAMPLES, LOSS), **change)
    records = load(tmp_path / "records")
    assert records.runs["arm"].tolist() == ["rais"]
    assert len(records.skipped) == 1 and "uniform/seed0-uniform0/meta.json" in records.skipped[0]


def cut(name: str, left: float):
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(path.read_bytes()[: int(left * path.stat().st_size)])

    return damage


def lose(name: str):
    return lambda folder: (folder / name).unlink()


def zeros(name: str):
    return lambda folder: (folder / name).write_bytes(bytes((folder / name).stat().st_size))


POWER_CUTS = {
    **{
        f"{name} {how}": make(name)
        for name in ("meta.json", "record.csv")
        for how, make in (("lost", lose), ("zeros", zeros))
    },
    **{
        f"{name} {how}": cut(name, left)
        for name in ("meta.json", "record.csv")
        for how, left in (("empty", 0), ("cut", 0.5))
    },
    "record.csv without its last evaluation": lambda folder: (folder / "record.csv").write_text(
        "".join(line for line in (folder / "record.csv").open() if not line.startswith("200,"))
    ),
    "norms.csv cut": cut("norms.csv", 0.7),
    "examples.npz empty": cut("examples.npz", 0),
    "examples.npz cut": cut("examples.npz", 0.5),
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
}


@pytest.mark.parametrize("damage", POWER_CUTS.values(), ids=POWER_CUTS.keys())
def test_what_a_power_cut_damaged_is_named_and_the_rest_is_read(run_writer, tmp_path, damage, example_arrays):
    run_writer("rais", 0, EXAMPLES, LOSS)
    norms = [(0.0, 5, 0.5, 2.0), (1.0, 5, 0.25, 1.0)]
    damage(run_writer("rais", 1, EXAMPLES, LOSS, norms=norms, examples_npz=example_arrays))
    records = load(tmp_path / "records")
    assert records.runs["seed"].tolist() == [0]
    (line,) = records.skipped
    assert "seed1-rais1" in line and "\n" not in line and "delete the folder" in line


def test_a_record_from_before_the_checksum_is_read_if_it_reaches_its_budget(run_writer, tmp_path):
    old = {"record_sha256": None, "evaluations": None}
    run_writer("rais", 0, (0, 5000, 10000), LOSS, **old)
    run_writer("rais", 1, EXAMPLES, LOSS, **old)
    run_writer("rais", 2, EXAMPLES, LOSS, **old, message="stopped at twice its budget in examples")
    run_writer("rais", 3, EXAMPLES, LOSS, **old, status="diverged")
    records = load(tmp_path / "records")
    assert sorted(records.runs["seed"]) == [0, 2, 3]
    assert len(records.skipped) == 1 and "ends at 2 of 10 epochs although the run is done" in records.skipped[0]


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


ARRAYS = {
    "drawn": np.array([3, 0, 1], np.int32),
    "labels": np.array([7, 1, 4], np.int32),
    "epoch": np.array([0, 1], np.float32),
    "norms": np.array([[0.5, 0.25], [0.1, 0.0]], np.float32),
    "index": np.array([1, 0], np.int32),
    "images": np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2),
}


def test_variants_stand_apart_from_headline_runs(run_writer, tmp_path):
    run_writer("rais", 0, EXAMPLES, LOSS)
    run_writer("rais", 0, EXAMPLES, LOSS, variant="visits_2000")
    run_writer("rais", 0, EXAMPLES, LOSS, variant="visits_200")
    run_writer("rais", 1, EXAMPLES, LOSS, variant="visits_200", status="running")
    run_writer("rais", 2, EXAMPLES, {**LOSS, "true_phi": [1, 1, 1]}, variant="visits_200")
    records = load(tmp_path / "records")
    assert records.comparable.runs["folder"].tolist() == ["digits/rais/seed0-rais0"]
    assert records.comparable.runs["variant"].tolist() == [""]
    assert sorted(records.variants.runs["variant"]) == ["visits_200", "visits_2000"]
    assert sorted(records.variants.runs["folder"]) == [
        "digits/rais@visits_200/seed0-rais0",
        "digits/rais@visits_2000/seed0-rais0",
    ]
    assert len(records.variants.curves) == 2 * len(records.comparable.curves)


def test_two_variants_of_one_run_id_keep_their_own_curves(run_writer, tmp_path):
    for variant, loss in (("", 0.5), ("alpha_0.1", 0.25)):
        run_writer("rais", 0, EXAMPLES, {"train_loss": [2.0, 1.0, loss]}, variant=variant, run_id="same")
    records = load(tmp_path / "records")
    last = {run["variant"]: records.wide(run)["train_loss"].iloc[-1] for _, run in records.runs.iterrows()}
    assert last == {"": 0.5, "alpha_0.1": 0.25}


def test_a_curve_that_was_changed_is_whole_when_asked_for_again(run_writer, tmp_path):
    run_writer("rais", 0, EXAMPLES, LOSS)
    records = load(tmp_path / "records")
    run = records.runs.iloc[0]
    wide = records.wide(run)
    wide["train_loss"] *= 100
    assert records.of("digits").wide(run)["train_loss"].tolist() == LOSS["train_loss"]


def test_two_runs_of_one_variant_and_seed(run_writer, tmp_path):
    for run_id in "ab":
        run_writer("rais", 0, EXAMPLES, LOSS, variant="visits_2000", run_id=run_id)
    with pytest.raises(RecordError, match=r"two runs of one task, arm, variant and seed: .*seed0-a and .*seed0-b"):
        load(tmp_path / "records")


def test_a_folder_that_belies_its_variant(run_writer, tmp_path):
    edit_meta(run_writer("rais", 0, EXAMPLES, LOSS, variant="visits_2000"), variant="visits_200")
    with pytest.raises(RecordError, match=r"holds the run digits/rais@visits_200/seed0-rais0"):
        load(tmp_path / "records")


def test_variants_may_have_settings_of_their_own(run_writer, tmp_path):
    run_writer("rais", 0, EXAMPLES, LOSS)
    config = {"batch_size": 64, "epochs": 10.0}
    run_writer("rais", 0, EXAMPLES, LOSS, variant="batch_size_64", config=config)
    assert load(tmp_path / "records").variants.runs["batch_size"].tolist() == [64]


def test_examples_of_a_traced_run(run_writer, tmp_path):
    run_writer("rais", 0, EXAMPLES, LOSS, examples_npz=ARRAYS)
    run_writer("rais", 1, EXAMPLES, LOSS)
    records = load(tmp_path / "records")
    assert records.traced.runs["seed"].tolist() == [0]
    found = records.examples(records.traced.runs.iloc[0])
    assert set(found) == set(EXAMPLE_ARRAYS)
    assert all((found[name] == ARRAYS[name]).all() for name in ARRAYS)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def drop_labels(path: Path) -> None:
    np.savez(path, **{name: array for name, array in ARRAYS.items() if name != "labels"})


def pickle_images(path: Path) -> None:
    np.savez(path, **{**ARRAYS, "images": np.array([None, None])})


@pytest.mark.parametrize("damage", [cut, drop_labels, pickle_images, Path.unlink, lambda path: path.write_bytes(b"")])
def test_damaged_examples_are_named_with_the_cure(run_writer, tmp_path, damage):
    folder = run_writer("rais", 0, EXAMPLES, LOSS, examples_npz=ARRAYS)
    records = load(tmp_path / "records")
    damage(folder / "examples.npz")
    with pytest.raises(RecordError, match=r"examples.npz cannot be read .*delete the folder and run again: python"):
        records.examples(records.runs.iloc[0])


def beside(folder: Path) -> list[str]:
    return [path for path in load_beside_uniform(folder).runs["folder"] if "uniform" in path]


def test_the_uniform_run_beside_another_is_that_of_its_variant_else_the_headline_one(run_writer):
    folder = run_writer("rais", 0, EXAMPLES, LOSS, variant="lr_6.8")
    assert beside(folder) == []
    run_writer("uniform", 0, EXAMPLES, LOSS)
    run_writer("uniform", 1, EXAMPLES, LOSS, variant="lr_6.8")
    assert beside(folder) == ["digits/uniform/seed0-uniform0"]
    run_writer("uniform", 0, EXAMPLES, LOSS, variant="lr_6.8")
    assert beside(folder) == ["digits/uniform@lr_6.8/seed0-uniform0"]


@pytest.mark.parametrize(
    "change",
    [{"n": 500}, {"status": "running"}, {"config": {"batch_size": 20, "epochs": 10.0}}, {"hardware": {}}],
    ids=["n", "unfinished", "batch size", "unreadable"],
)
def test_a_uniform_run_that_cannot_be_compared_is_not_beside(run_writer, change):
    run_writer("uniform", 0, EXAMPLES, LOSS, **change)
    assert beside(run_writer("rais", 0, EXAMPLES, LOSS)) == []


def test_two_uniform_runs_beside_are_none(run_writer):
    for run_id in "ab":
        run_writer("uniform", 0, EXAMPLES, LOSS, run_id=run_id)
    assert beside(run_writer("rais", 0, EXAMPLES, LOSS)) == []
