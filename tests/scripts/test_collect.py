"""scripts/collect.py: what is taken into the records, what is refused, and that nothing there is overwritten."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import collect

CURVE = ((0, 1000), {"train_loss": [2.0, 0.5]})


def run(tmp_path: Path) -> int:
    return collect.main(["--runs", str(tmp_path / "records"), "--records", str(tmp_path / "kept")])


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.relative_to(tmp_path / "kept").as_posix() for path in (tmp_path / "kept").glob("*/*/*"))


def test_complete_runs_are_copied_with_their_files_alone(run_writer, tmp_path, capsys):
    folder = run_writer("rais", 0, *CURVE, norms=[(0, 1, 0.5, 0.5)], examples_npz={"drawn": np.arange(3)})
    run_writer("smoothed_0", 1, *CURVE, status="diverged")
    (folder / "wandb").mkdir()
    (folder / "notes.txt").write_text("mine")
    assert run(tmp_path) == 0
    assert kept(tmp_path) == ["digits/rais/seed0-rais0", "digits/smoothed_0/seed1-smoothed_01"]
    copy = tmp_path / "kept/digits/rais/seed0-rais0"
    assert sorted(path.name for path in copy.iterdir()) == ["examples.npz", "meta.json", "norms.csv", "record.csv"]
    assert all(path.read_bytes() == (folder / path.name).read_bytes() for path in copy.iterdir())
    assert "2 copied, 0 already there, 0 refused" in capsys.readouterr().out


def test_a_second_time_nothing_is_left_to_copy(run_writer, tmp_path, capsys):
    run_writer("rais", 0, *CURVE)
    run(tmp_path)
    assert run(tmp_path) == 0
    assert "0 copied, 1 already there, 0 refused" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dirty": True}, "its code was not committed: commit, delete the folder and run again: python scripts"),
        ({"dirty": None}, "which code made it is unknown (run from a clone of this project)"),
        ({"dirty": None, "commit_unknown": "git does not trust"}, "which code made it is unknown (git does not trust)"),
        ({"record_sha256": "0" * 64}, "is not the record that was finished, its checksum differs"),
        ({"status": "running"}, "it is interrupted: run it again: python scripts/train.py"),
        ({"status": "failed"}, "it is failed"),
    ],
)
def test_what_is_refused_is_named_and_the_rest_copied(run_writer, tmp_path, capsys, change, reason):
    run_writer("rais", 0, *CURVE, **change)
    run_writer("uniform", 0, *CURVE)
    assert run(tmp_path) == 1
    assert kept(tmp_path) == ["digits/uniform/seed0-uniform0"]
    printed = capsys.readouterr().out
    assert "digits/rais/seed0-rais0: " in printed and reason in printed
    assert "1 copied, 0 already there, 1 refused" in printed


def test_a_folder_that_cannot_be_read_is_refused(run_writer, tmp_path, capsys):
    (run_writer("rais", 0, *CURVE) / "meta.json").unlink()
    assert run(tmp_path) == 1
    assert "has no meta.json" in capsys.readouterr().out


def test_other_results_of_the_same_run_are_not_overwritten(run_writer, tmp_path, capsys):
    folder = run_writer("rais", 0, *CURVE)
    run(tmp_path)
    record = tmp_path / "kept/digits/rais/seed0-rais0/record.csv"
    before = record.read_bytes()
    shutil.rmtree(folder)
    run_writer("rais", 0, (0, 1000), {"train_loss": [2.0, 0.25]})
    assert run(tmp_path) == 1
    assert record.read_bytes() == before
    assert "the records hold other results of this run: delete" in capsys.readouterr().out


def test_another_run_of_the_same_seed_is_refused(run_writer, tmp_path, capsys):
    folder = run_writer("rais", 0, *CURVE)
    run(tmp_path)
    folder.rename(tmp_path / "away")
    run_writer("rais", 0, *CURVE, run_id="other")
    assert run(tmp_path) == 1
    assert kept(tmp_path) == ["digits/rais/seed0-rais0"]
    assert "the records hold another run of this task, arm, variant and seed: delete" in capsys.readouterr().out


def test_variants_of_one_arm_and_seed_are_kept_side_by_side(run_writer, tmp_path):
    for variant in ("", "visits_2000", "visits_200"):
        run_writer("rais", 0, *CURVE, variant=variant)
    assert run(tmp_path) == 0
    assert kept(tmp_path) == [
        "digits/rais/seed0-rais0",
        "digits/rais@visits_200/seed0-rais0",
        "digits/rais@visits_2000/seed0-rais0",
    ]


def test_two_runs_of_one_seed_are_both_refused(run_writer, tmp_path, capsys):
    run_writer("rais", 0, *CURVE, run_id="a")
    run_writer("rais", 0, *CURVE, run_id="b")
    assert run(tmp_path) == 1
    assert kept(tmp_path) == []
    assert capsys.readouterr().out.count("2 runs of this task, arm, variant and seed: delete the others") == 2


def test_runs_of_several_machines_are_taken_together(run_writer, tmp_path, capsys):
    def made_on(machine: str, arm: str, loss: float) -> None:
        folder = run_writer(arm, 0, (0, 1000), {"train_loss": [2.0, loss]})
        shutil.copytree(folder, tmp_path / machine / folder.relative_to(tmp_path / "records"))
        shutil.rmtree(folder)

    for machine, arm in (("here", "rais"), ("there", "rais"), ("there", "uniform")):
        made_on(machine, arm, 0.5)
    roots = [str(tmp_path / machine) for machine in ("here", "there")]
    arguments = ["--runs", *roots, "--records", str(tmp_path / "kept")]
    assert collect.main(arguments) == 0
    assert kept(tmp_path) == ["digits/rais/seed0-rais0", "digits/uniform/seed0-uniform0"]
    for machine, loss in (("here", 0.5), ("there", 0.25)):
        made_on(machine, "smoothed_0", loss)
    assert collect.main(arguments) == 1
    assert capsys.readouterr().out.count("2 runs of this task, arm, variant and seed: delete the others") == 2
    assert len(kept(tmp_path)) == 2


def test_a_damaged_record_among_those_kept_is_named_and_stops_nothing(run_writer, tmp_path, capsys):
    run_writer("rais", 0, *CURVE)
    run(tmp_path)
    (tmp_path / "kept/digits/rais/seed0-rais0/meta.json").write_text("")
    run_writer("uniform", 0, *CURVE)
    assert run(tmp_path) == 1
    assert "digits/uniform/seed0-uniform0" in kept(tmp_path)
    assert "it is in the records already and damaged" in capsys.readouterr().out


def test_no_runs(tmp_path):
    with pytest.raises(SystemExit, match="no runs under .*make reproduce"):
        run(tmp_path)
