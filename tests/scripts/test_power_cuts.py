"""scripts/train.py on what a power cut may leave: it trains to the end, or refuses in one line and deletes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import toy
import train
from rais.paper.records import layout
from rais.paper.records.write import Record

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of runs with a toy run that lost its power after its third evaluation."""
    runs = tmp_path_factory.mktemp("cut") / "runs"
    with pytest.MonkeyPatch.context() as patched:
        loop = prepared(runs, patched)
        loop.evaluate()
        while loop.evaluated < 3:
            loop.run_timed(loop.steps_to_look())
            if loop.is_due:
                loop.evaluate()
    return runs


@pytest.fixture(scope="module")
def finished(cut_off: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, done."""
    runs = shutil.copytree(cut_off, tmp_path_factory.mktemp("finished") / "runs")
    with pytest.MonkeyPatch.context() as patched:
        assert trained(runs, patched) == "done"
    return runs


def prepared(runs: Path, patched: pytest.MonkeyPatch) -> train.Loop:
    patched.setattr(train.config.DataConfig, "build", lambda *_: toy.toy_data())
    return train.prepare(toy.settings(runs, epochs=2), CPU, None)


def trained(runs: Path, patched: pytest.MonkeyPatch) -> str:
    """What `python scripts/train.py` ends with."""
    patched.setattr(train.config.DataConfig, "build", lambda *_: toy.toy_data())
    patched.setattr(train.config, "from_hydra", lambda _: toy.settings(runs, epochs=2))
    return train.run(None)


def folder_in(runs: Path) -> Path:
    (found,) = runs.glob("*/*/*")
    return found


def files(runs: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder_in(runs).iterdir() if path.name != layout.LOCK}


def emptied(name: str):
    return lambda folder: (folder / name).write_bytes(b"")


def halved(name: str):
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: (folder / name).stat().st_size // 2]
    )


def lost(*names: str):
    return lambda folder: [(folder / name).unlink() for name in names]


def leftovers(folder: Path) -> None:
    for name in (*layout.KEPT, layout.CHECKPOINT):
        (folder / f"{name}{layout.PART}").write_bytes(b"half")
    (folder / layout.LOCK).write_bytes(b"")


META, RECORD, CHECKPOINT = layout.META, layout.RECORD, layout.CHECKPOINT
GOES_ON = {
    "nothing": lambda folder: None,
    "meta empty": emptied(META),
    "meta cut": halved(META),
    "meta lost": lost(META),
    "leftovers": leftovers,
    "more lines": lambda folder: (folder / RECORD).open("a").write("40,128"),
    "checkpoint lost": lost(CHECKPOINT),
    "all lost": lost(META, RECORD, CHECKPOINT),
}
REFUSED = {
    "record empty": emptied(RECORD),
    "record cut": halved(RECORD),
    "record lost": lost(RECORD),
    "checkpoint empty": emptied(CHECKPOINT),
    "checkpoint cut": halved(CHECKPOINT),
    "meta and checkpoint lost": lost(META, CHECKPOINT),
}
DAMAGED = {"record empty": emptied(RECORD), "record cut": halved(RECORD), "record lost": lost(RECORD)}


@pytest.mark.parametrize("damage", GOES_ON.values(), ids=GOES_ON.keys())
def test_an_unfinished_run_goes_on_to_its_end(
    damage, cut_off: Path, finished: Path, tmp_path: Path, monkeypatch
) -> None:
    runs = shutil.copytree(cut_off, tmp_path / "runs")
    damage(folder_in(runs))
    assert trained(runs, monkeypatch) == "done"

    def numbers(of: Path) -> list[str]:
        rows = [line.split(",") for line in files(of)[RECORD].decode().splitlines()]
        of_time = [row[5].endswith("seconds") or row[5].startswith("phase_") for row in rows]
        return [",".join([*row[:4], *row[5:]]) for row, skip in zip(rows, of_time, strict=True) if not skip]

    assert numbers(runs) == numbers(finished)
    assert set(files(runs)) >= {RECORD, META} and CHECKPOINT not in files(runs)


@pytest.mark.parametrize("damage", REFUSED.values(), ids=REFUSED.keys())
def test_an_unfinished_run_is_refused_in_one_line(damage, cut_off: Path, tmp_path: Path, monkeypatch) -> None:
    check_refusal(shutil.copytree(cut_off, tmp_path / "runs"), damage, monkeypatch)


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_run_that_was_done_is_refused_in_one_line(
    damage, finished: Path, tmp_path: Path, monkeypatch
) -> None:
    check_refusal(shutil.copytree(finished, tmp_path / "runs"), damage, monkeypatch)


def check_refusal(runs: Path, damage, patched: pytest.MonkeyPatch) -> None:
    damage(folder_in(runs))
    before = files(runs)
    with pytest.raises(SystemExit, match="^rais: .*delete ") as refused:
        trained(runs, patched)
    assert "\n" not in str(refused.value) and files(runs) == before


def test_a_full_disk_is_a_failure_that_goes_on_later(cut_off: Path, tmp_path: Path, monkeypatch) -> None:
    runs = shutil.copytree(cut_off, tmp_path / "runs")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(Record, "write", full)
        trained(runs, patched)
    assert layout.read_meta(folder_in(runs))["status"] == "failed"
    assert trained(runs, monkeypatch) == "done"
