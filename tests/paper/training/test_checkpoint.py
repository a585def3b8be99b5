"""Checkpoints: a run that goes on from one ends with the record of an uninterrupted run, or is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import toy
from rais.paper import settings as config
from rais.paper.records.layout import RecordError, read_meta
from rais.paper.records.write import Record
from rais.paper.training import build, checkpoint
from rais.paper.training.checkpoint import Checkpoint
from rais.paper.training.loop import Loop, train
from rais.paper.training.trace import Trace
from tricks import LOW, SAMPLERS, TRICKS

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is written down."""


def made(cfg: config.Config, replayed: Path | None = None) -> Loop:
    """The run `cfg` as scripts/train.py makes it, resumed where it has a checkpoint."""
    run_id = replayed and read_meta(replayed)["run_id"]
    parts = build.build(cfg, toy.toy_data(), replayed)
    kept = Checkpoint(record_folder(cfg, run_id), cfg, CPU, run_id)
    state = kept.read()
    record = Record(cfg, n=toy.N, device=CPU, replayed=run_id, resumed=state and state["record"])
    trace = Trace(parts) if cfg.trace else None
    loop = Loop(parts, record, cfg.epochs, cfg.evaluations, diagnoses=cfg.diagnose, trace=trace, checkpoint=kept)
    if state is not None:
        loop.load_state_dict(state)
    return loop


def record_folder(cfg: config.Config, run_id: str | None = None) -> Path:
    from rais.paper.records.find import folder_of

    return folder_of(cfg, run_id)


def kill_at(loop: Loop, iteration: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until that iteration, and then leave everything as it lies."""
    draw = loop.parts.sampler.draw

    def drawn():
        if loop.iteration == iteration:
            raise Killed
        return draw()

    with monkeypatch.context() as patched:
        patched.setattr(loop.parts.sampler, "draw", drawn)
        patched.setattr(Record, "finish", lambda *_: None)
        with pytest.raises(Killed):
            train(loop)


def timeless(folder: Path) -> pd.DataFrame:
    table = pd.read_csv(folder / "record.csv", dtype=str)
    of_time = table["metric"].str.endswith("seconds") | table["metric"].str.startswith("phase_")
    return table[~of_time].drop(columns="seconds").reset_index(drop=True)


RUNS = {
    **{name: {"sampler": sampler} for name, sampler in SAMPLERS.items()},
    "tricks": {**TRICKS, "trace": True},
    "diagnosed": {"diagnose": True},
}


@pytest.mark.parametrize("changes", RUNS.values(), ids=RUNS.keys())
def test_a_run_that_is_killed_twice_ends_with_the_record_of_one_that_is_not(
    changes: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"schedule": LOW, "epochs": 3, "evaluations": 8, **changes}
    whole = made(toy.settings(tmp_path / "whole", **changes))
    train(whole)
    cfg = toy.settings(tmp_path / "killed", **changes)
    for iteration in (7, 17):
        kill_at(made(cfg), iteration, monkeypatch)
    last = made(cfg)
    assert 0 < last.iteration <= 17
    assert train(last) == "done"
    a, b = whole.record.folder, last.record.folder
    pd.testing.assert_frame_equal(timeless(a), timeless(b))
    for x, y in zip(whole.parts.model.parameters(), last.parts.model.parameters(), strict=True):
        assert torch.equal(x, y)
    assert sorted(path.name for path in a.iterdir()) == sorted(path.name for path in b.iterdir())
    assert not (b / "checkpoint.pt").exists()
    if (a / "norms.csv").exists():
        assert (a / "norms.csv").read_bytes() == (b / "norms.csv").read_bytes()
    if (a / "examples.npz").exists():
        with np.load(a / "examples.npz") as x, np.load(b / "examples.npz") as y:
            assert all(np.array_equal(x[name], y[name]) for name in x)
    assert read_meta(a)["resumed"] == [] and len(read_meta(b)["resumed"]) == 2
    assert read_meta(a)["evaluations"] == read_meta(b)["evaluations"] == len(whole.grid)


def test_a_replay_is_resumed_in_its_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = made(toy.settings(tmp_path))
    train(source)
    gain = config.GainConfig("replay", "half_batch", 0.01, 16, str(source.record.folder))
    cfg = toy.settings(tmp_path, sampler=SAMPLERS["uniform"], gain=gain)
    kill_at(made(cfg, source.record.folder), 9, monkeypatch)
    last = made(cfg, source.record.folder)
    assert 0 < last.iteration < 9 and last.parts.gain.iteration == last.iteration
    train(last)
    assert last.iteration == source.iteration


def test_a_run_killed_after_its_last_evaluation_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = toy.settings(tmp_path, epochs=1)
    with monkeypatch.context() as patched:
        patched.setattr(Record, "finish", lambda *_: None)
        train(made(cfg))
    loop = made(cfg)
    assert loop.is_finished and train(loop) == "done"
    assert read_meta(loop.record.folder)["evaluations"] == len(loop.grid)


def test_an_interrupted_run_keeps_its_checkpoint_and_a_diverged_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = made(toy.settings(tmp_path, epochs=1))
    monkeypatch.setattr(loop.parts.sampler, "draw", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(loop)
    assert (loop.record.folder / "checkpoint.pt").exists() and loop.record.meta["status"] == "interrupted"
    cfg = toy.settings(tmp_path, epochs=1, seed=4)
    cfg.schedule.scale = 1e9
    loop = made(cfg)
    assert train(loop) == "diverged" and not (loop.record.folder / "checkpoint.pt").exists()


@pytest.fixture
def kept(tmp_path: Path) -> tuple[config.Config, Checkpoint]:
    cfg = toy.settings(tmp_path)
    found = Checkpoint(tmp_path, cfg, CPU)
    found.write({"iteration": 3})
    return cfg, found


@pytest.mark.parametrize(
    "name, line",
    [
        ("commit", "with commit old, this is"),
        ("code", "with code"),
        ("torch", "with torch old"),
        ("numba", "with numba old"),
        ("run_id", "with settings of run old"),
        ("threads", "with threads old"),
    ],
)
def test_another_identity_is_refused_and_nothing_deleted(
    name: str, line: str, kept: tuple[config.Config, Checkpoint], tmp_path: Path
) -> None:
    cfg, found = kept
    assert found.read() == {"iteration": 3}
    found.identity[name] = "old"
    found.write({"iteration": 3})
    before = found.path.read_bytes()
    with pytest.raises(RecordError, match=f"checkpoint.pt was written {line}.*: delete .*checkpoint.pt to start"):
        Checkpoint(tmp_path, cfg, CPU).read()
    assert found.path.read_bytes() == before


def test_changed_code_is_another_identity(kept: tuple[config.Config, Checkpoint], monkeypatch) -> None:
    cfg, found = kept
    monkeypatch.setattr(checkpoint, "code_digest", lambda: "0" * 64)
    with pytest.raises(RecordError, match="with code .* this is 0000"):
        Checkpoint(found.path.parent, cfg, CPU).read()


def poison(path: Path) -> None:
    import pickle

    class Harmful:
        def __reduce__(self):
            return print, ("code was run",)

    torch.save({"identity": Harmful(), "state": {}}, path, pickle_module=pickle)


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "foreign": lambda path: torch.save([1, 2], path),
    "code": poison,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_checkpoint_is_refused_in_one_line(
    damage, kept: tuple[config.Config, Checkpoint], capsys: pytest.CaptureFixture[str]
) -> None:
    _, found = kept
    damage(found.path)
    with pytest.raises(RecordError, match="checkpoint.pt cannot be read .*: delete .* to start the run anew") as raised:
        found.read()
    assert "\n" not in str(raised.value) and "code was run" not in capsys.readouterr().out


def test_a_failed_write_leaves_the_last_checkpoint(kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(state, file) -> None:
        file.write(b"PK")
        raise OSError("disk full")

    _, found = kept
    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(OSError, match="disk full"):
        found.write({"iteration": 4})
    assert found.read() == {"iteration": 3}
