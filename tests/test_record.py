"""Records: on disk at every evaluation, valid however a run ends, found again by what the run is."""

from __future__ import annotations

import csv
import dataclasses
import json
import struct
from pathlib import Path

import pytest
import torch

from rais import config, record
from toy import settings

AXES = {"iteration": 10, "examples": 320, "epoch": 0.5, "epochs_equivalent": 0.75, "seconds": 1.25}


def opened(cfg: config.Config, **arguments) -> record.Record:
    return record.Record(cfg, n=640, device=torch.device("cpu"), **arguments)


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "record.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_evaluation_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    written = opened(settings(tmp_path))
    written.write(AXES, {"train_loss": 0.1 + 0.2, "test_error": 0.25})
    assert rows(written.folder) == [
        {**{key: str(value) for key, value in AXES.items()}, "metric": "train_loss", "value": "0.30000000000000004"},
        {**{key: str(value) for key, value in AXES.items()}, "metric": "test_error", "value": "0.25"},
    ]
    meta = record.read_meta(written.folder)
    assert meta["status"] == "running" and meta["finished"] is None


def test_folder_and_meta(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    written = opened(cfg)
    written.finish("done")
    assert written.folder == tmp_path / "toy" / "rais" / f"seed3-{config.run_id(cfg)}"
    meta = record.read_meta(written.folder)
    assert meta["config"]["sampler"]["visits"] == 100 and meta["n"] == 640
    assert meta["versions"]["torch"] == torch.__version__.split("+")[0]
    assert meta["hardware"]["threads"] == torch.get_num_threads()
    assert meta["command"].startswith("python ")
    assert meta["duration_seconds"] >= 0 and meta["finished"] >= meta["started"]


@pytest.mark.parametrize(
    "status, complete", [("done", True), ("diverged", True), ("interrupted", False), ("failed", False)]
)
def test_only_what_ended_by_itself_is_complete(status: str, complete: bool, tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    assert record.find_complete(cfg) is None
    written = opened(cfg)
    assert record.find_complete(cfg) is None, "a run that is killed half-way is not complete"
    written.finish(status)
    assert (record.find_complete(cfg) == written.folder) is complete
    assert record.find_complete(dataclasses.replace(cfg, seed=4)) is None


def test_what_a_killed_run_left_is_replaced(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    killed = opened(cfg)
    killed.write(AXES, {"train_loss": 1.0})
    with (killed.folder / "record.csv").open("a") as file:
        file.write("20,640,1.0,1.")
    again = opened(cfg)
    assert again.folder == killed.folder and rows(again.folder) == []


def test_runs_that_cannot_be_written(tmp_path: Path) -> None:
    in_the_way = tmp_path / "runs"
    in_the_way.write_text("a file")
    with pytest.raises(OSError, match=r"cannot be written .* set `runs`"):
        opened(settings(in_the_way))


def test_norms_have_one_header(tmp_path: Path) -> None:
    written = opened(settings(tmp_path))
    written.write_norms(0.5, [7, 8], [0.1, 0.2], [1.0, 2.0])
    written.write_norms(1.0, [7], [0.3], [3.0])
    assert (written.folder / "norms.csv").read_text().splitlines() == [
        "epoch,example,loss_layer,exact",
        "0.5,7,0.1,1.0",
        "0.5,8,0.2,2.0",
        "1.0,7,0.3,3.0",
    ]


def replaying(tmp_path: Path, pattern: str = "seed3-*") -> config.Config:
    gain = config.GainConfig(mode="replay", phi="half_batch", alpha=0.01, every=16)
    gain.record = str(tmp_path / "toy" / "rais" / pattern)
    return settings(tmp_path, sampler=config.UniformConfig(), gain=gain)


def test_replay_finds_its_source_and_its_multipliers(tmp_path: Path) -> None:
    source = opened(settings(tmp_path))
    for iteration, t_hat in ((0, 0.0), (10, 10.0), (20, 30.0), (25, 50.0)):
        axes = {**AXES, "iteration": iteration, "epochs_equivalent": t_hat * 32 / 640}
        source.write(axes, {"train_loss": 1.0, "gain_ratio": 99.0})
    source.finish("done")
    cfg = replaying(tmp_path)
    assert record.find_replayed(cfg) == source.folder
    ends, ratios = record.read_multipliers(source.folder)
    assert ends == [10, 20, 25] and ratios == pytest.approx([1, 2, 4])
    replay = opened(cfg, replayed=source.meta["run_id"])
    replay.finish("done")
    assert record.find_complete(cfg) == replay.folder


def test_replay_without_a_usable_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="matches nothing.*record it first"):
        record.find_replayed(replaying(tmp_path))
    assert record.find_complete(replaying(tmp_path)) is None
    unfinished = opened(settings(tmp_path))
    with pytest.raises(FileNotFoundError, match="status running"):
        record.find_replayed(replaying(tmp_path))
    unfinished.finish("done")
    with pytest.raises(ValueError, match="0 evaluations"):
        record.read_multipliers(unfinished.folder)
    opened(settings(tmp_path, sampler=config.RAISConfig(visits=200, refresh=2))).finish("done")
    with pytest.raises(FileNotFoundError, match="matches 2 runs"):
        record.find_replayed(replaying(tmp_path))


def test_meta_that_is_no_json(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    written = opened(cfg)
    (written.folder / "meta.json").write_text('{"status": "do')
    with pytest.raises(ValueError, match=r"meta\.json is no valid JSON .*delete the folder"):
        record.find_complete(cfg)


def test_wandb_offline_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was logged is read back from the file that offline mode leaves; no account is involved."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    written = opened(settings(tmp_path, wandb=config.WandbConfig(mode="offline", project="toy")))
    written.write(AXES, {"train_loss": 0.125})
    written.finish("done")
    (log,) = written.folder.glob("wandb/offline-run-*/run-*.wandb")
    history, summary = read_wandb(log)
    assert history[0]["by_epoch/train_loss"] == history[0]["by_seconds/train_loss"] == 0.125
    assert history[0]["epochs_equivalent"] == 0.75
    assert summary["status"] == "done"
    assert json.loads((written.folder / "meta.json").read_text())["status"] == "done"


def read_wandb(path: Path) -> tuple[list[dict], dict]:
    """History and summary of wandb's own file: a seven-byte header, then protobuf records in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    position, message = 7, b""
    history, summary = [], {}
    while position + 7 <= len(content):
        left_in_block = 32768 - position % 32768
        _, length, kind = struct.unpack_from("<IHB", content, position)
        if left_in_block < 7 or kind == 0:
            position += left_in_block
            continue
        message += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last piece of one
            entry = wandb_internal_pb2.Record()
            entry.ParseFromString(message)
            message = b""
            if entry.HasField("history"):
                items = entry.history.item
                history.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
            for item in entry.summary.update:
                summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
    return history, summary
