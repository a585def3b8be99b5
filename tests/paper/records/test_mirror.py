"""The mirror in wandb: what it shows, and that nothing that goes wrong in it reaches the run."""

from __future__ import annotations

import json
import struct
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train
from rais.paper import settings as config
from rais.paper.records import layout
from rais.paper.records import write as record
from rais.paper.records.mirror import Mirror
from toy import settings


def opened(cfg: config.Config, outcome=train.outcome) -> record.Record:
    mirror = cfg.wandb and partial(Mirror, outcome=outcome)
    return record.Record(cfg, n=640, device=torch.device("cpu"), mirror=mirror)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> config.WandbConfig:
    """wandb without an account or a network."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    return config.WandbConfig(mode="offline", project="toy")


def falling(written: record.Record, rate: float, end: int = 4) -> None:
    """Evaluations at whole epochs, with a training loss of 2·2^(−rate·epoch)."""
    for epoch in range(end + 1):
        axes = {"iteration": 20 * epoch, "examples": 640 * epoch, "epoch": epoch, "epochs_equivalent": 2 * epoch}
        written.write({**axes, "seconds": 3.0 * epoch}, {"train_loss": 2 * 2 ** (-rate * epoch), "test_error": 0.25})


def test_wandb_offline_round_trip(tmp_path: Path, offline: config.WandbConfig) -> None:
    """What was logged is read back from the file that offline mode leaves; no account is involved."""
    uniform = opened(
        settings(
            tmp_path, sampler=config.UniformConfig(), gain=config.GainConfig("off", "exact", 0.1, 1), target_loss=0.125
        )
    )
    falling(uniform, rate=1)
    uniform.finish("done")
    written = opened(settings(tmp_path, wandb=offline, label="visits_100", target_loss=0.125))
    falling(written, rate=2)
    assert written.shows_distributions
    written.write_distribution(1.0, np.array([0.0, 0.01, 1.0, 1.0, 100.0]))
    written.finish("done")
    (folder,) = written.folder.glob("wandb/offline-run-*")
    history, summary = read_wandb(*folder.glob("run-*.wandb"))
    for axis, values in (
        ("epoch", [0, 1, 2, 3, 4]),
        ("epochs_equivalent", [0, 2, 4, 6, 8]),
        ("seconds", [0, 3, 6, 9, 12]),
    ):
        curve = [(row[axis], row[f"by_{axis}/train_loss"]) for row in history if f"by_{axis}/train_loss" in row]
        assert curve == [(value, 2 * 4.0**-epoch) for epoch, value in enumerate(values)]
    (shown,) = [row for row in history if "distribution/log10_np._type" in row]
    counts, edges = shown["distribution/log10_np.values"], shown["distribution/log10_np.bins"]
    assert shown["epoch"] == 1 and shown["distribution/log10_np._type"] == "histogram"
    assert sum(counts) == 4 and (counts[0], counts[-1]) == (1, 1) and (edges[0], edges[-1]) == (-2, 2)
    # uniform ends at 2/16 after 4 epochs, where this run is after 2.
    assert summary["speedup_examples"] == pytest.approx(2)
    assert summary["status"] == "done"
    (picture,) = [row["learning_curves.path"] for row in history if "learning_curves.path" in row]
    assert (folder / "files" / picture).read_bytes().startswith(b"\x89PNG")
    assert json.loads((written.folder / "meta.json").read_text())["status"] == "done"


def test_wandb_without_a_uniform_run_and_of_a_failed_run(tmp_path: Path, offline: config.WandbConfig) -> None:
    alone = opened(settings(tmp_path, wandb=offline))
    falling(alone, rate=2, end=1)
    alone.finish("diverged")
    history, summary = read_wandb(*alone.folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert "speedup_examples" not in summary and summary["status"] == "diverged"
    assert any("learning_curves.path" in row for row in history)
    failed = opened(settings(tmp_path, wandb=offline, seed=4))
    failed.finish("failed", "RuntimeError: out of memory")
    history, summary = read_wandb(*failed.folder.glob("wandb/offline-run-*/run-*.wandb"))
    assert not any("learning_curves.path" in row for row in history) and summary["status"] == "failed"


def test_an_outcome_that_cannot_be_drawn_does_not_spoil_the_run(tmp_path: Path, offline: config.WandbConfig) -> None:
    def fails(*_: object) -> None:
        raise OSError("disk full")

    written = opened(settings(tmp_path, wandb=offline), fails)
    falling(written, rate=2, end=1)
    with pytest.warns(UserWarning, match="no outcome of this run: OSError.*disk full"):
        written.finish("done")
    assert layout.read_meta(written.folder)["status"] == "done"


class Fails:
    """A wandb of which one call fails; everything else answers with itself."""

    def __init__(self, call: str, error: BaseException) -> None:
        self.call, self.error, self.summary, self.calls = call, error, {}, []

    def __getattr__(self, name: str):
        def answer(*_: object, **settings: object) -> Fails:
            self.calls.append((name, settings))
            if name == self.call:
                raise self.error
            return self

        return answer


@pytest.mark.parametrize("call", ["init", "define_metric", "log", "Histogram", "finish"])
@pytest.mark.parametrize("error", [RuntimeError("no network"), SystemExit(1)], ids=["error", "exit"])
def test_whatever_fails_in_wandb_is_one_warning(
    call: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", Fails(call, error))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(name=name))
    with pytest.warns(UserWarning) as warned:
        written = opened(settings(tmp_path, wandb=config.WandbConfig()), outcome=None)
        falling(written, rate=1)
        written.write_distribution(1.0, np.ones(3))
        written.finish("done")
    assert [str(w.message).partition(":")[0] for w in warned] == ["wandb shows no more of this run, which goes on"]
    meta = layout.read_meta(written.folder)
    assert meta["status"] == "done" and meta["evaluations"] == 5


def test_wandb_is_asked_before_anything_is_written_and_not_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = Fails("", RuntimeError())
    seen: list[bool] = []
    stand_in.init = lambda **given: seen.append(any(tmp_path.iterdir())) or stand_in.start(**given)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: SimpleNamespace(name=name))
    for name in ("WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    opened(settings(tmp_path, wandb=config.WandbConfig(mode="online")))
    assert seen == [False]
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_DIR", "elsewhere")
    opened(settings(tmp_path, wandb=config.WandbConfig(mode="online"), seed=4))
    plain, told = (given for name, given in stand_in.calls if name == "start")
    assert plain["mode"] == "online" and Path(plain["dir"]).parent == tmp_path / "toy" / "rais"
    assert told["mode"] == "disabled" and told["dir"] == "elsewhere"
    assert [given for name, given in stand_in.calls if name == "Settings"] == [{"init_timeout": 10.0}] * 2


def test_wandb_that_is_not_installed_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'rais-sgd\[wandb\]', or logger=local"):
        opened(settings(tmp_path, wandb=config.WandbConfig()))
    assert not any(tmp_path.iterdir())


def test_what_was_not_synced_outlives_a_repetition(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    written = opened(cfg)
    kept = written.folder / "wandb" / "offline-run-1" / "run-1.wandb"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"not synced")
    written.finish("interrupted")
    opened(cfg)
    assert kept.read_bytes() == b"not synced"


def read_wandb(path: Path) -> tuple[list[dict], dict]:
    """History and summary of wandb's own file, once it is whole: wandb ends it a moment after `finish` returns."""
    for _ in range(600):
        history, summary, has_ended = parse_wandb(path.read_bytes())
        if has_ended:
            return history, summary
        time.sleep(0.1)
    raise AssertionError(f"{path} has no end after a minute")


def parse_wandb(content: bytes) -> tuple[list[dict], dict, bool]:
    """A seven-byte header, then protobuf records in LevelDB's log format, the last of which is the exit."""
    from wandb.proto import wandb_internal_pb2

    position, message = 7, b""
    history, summary, has_ended = [], {}, False
    while position + 7 <= len(content):
        left_in_block = 32768 - position % 32768
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if left_in_block < 7 or kind == 0:
            position += left_in_block
            continue
        message += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4) and position <= len(content):  # a whole record, or the last piece of one
            entry = wandb_internal_pb2.Record()
            entry.ParseFromString(message)
            message = b""
            if entry.HasField("history"):
                items = entry.history.item
                history.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
            for item in entry.summary.update:
                summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
            has_ended |= entry.HasField("exit")
    assert content[:4] in (b"", b":W&B")
    return history, summary, has_ended
