"""Records: on disk at every evaluation, valid however a run ends, found again by what the run is."""

from __future__ import annotations

import csv
import dataclasses
import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rais.paper.records import write as record
from rais.paper.settings import schema as config
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


def test_a_variant_has_a_folder_of_its_own_and_the_same_run_id(tmp_path: Path) -> None:
    headline, varied = opened(settings(tmp_path)), opened(settings(tmp_path, variant="visits_100"))
    assert varied.folder == tmp_path / "toy" / "rais@visits_100" / headline.folder.name
    assert (headline.meta["variant"], varied.meta["variant"]) == ("", "visits_100")
    assert headline.meta["run_id"] == varied.meta["run_id"]
    varied.finish("done")
    assert record.find_complete(settings(tmp_path)) is None
    assert record.find_complete(settings(tmp_path, variant="visits_100")) == varied.folder


def test_examples_are_compact_and_replaced_as_a_whole(tmp_path: Path) -> None:
    written = opened(settings(tmp_path))
    images = np.arange(8, dtype=np.uint8).reshape(2, 1, 2, 2)
    for drawn in ([1, 2, 3], [4, 5, 6]):
        written.write_examples({"drawn": np.array(drawn), "norms": np.array([[0.1, 0.2]]), "images": images})
    with np.load(written.folder / "examples.npz", allow_pickle=False) as file:
        arrays = dict(file)
    assert arrays["drawn"].tolist() == [4, 5, 6] and arrays["images"].tolist() == images.tolist()
    assert {name: array.dtype for name, array in arrays.items()} == {
        "drawn": np.int32,
        "norms": np.float32,
        "images": np.uint8,
    }
    assert sorted(path.name for path in written.folder.iterdir()) == ["examples.npz", "meta.json", "record.csv"]


def test_a_failed_replacement_leaves_the_last_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = opened(settings(tmp_path))
    written.write_examples({"drawn": np.array([1])})

    def half_a_file(file, **_) -> None:
        file.write(b"PK")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", half_a_file)
    with pytest.raises(OSError, match="disk full"):
        written.write_examples({"drawn": np.array([2])})
    with np.load(written.folder / "examples.npz") as file:
        assert file["drawn"].tolist() == [1]


def test_distributions_are_for_the_mirror_alone(tmp_path: Path) -> None:
    written = opened(settings(tmp_path))
    assert not written.shows_distributions
    written.write_distribution(1.0, np.ones(3))
    assert rows(written.folder) == []


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
    uniform = opened(settings(tmp_path, sampler=config.UniformConfig(), gain=config.GainConfig("off", "exact", 0.1, 1)))
    falling(uniform, rate=1)
    uniform.finish("done")
    written = opened(settings(tmp_path, wandb=offline, variant="visits_100"))
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


def test_a_picture_that_cannot_be_drawn_does_not_spoil_the_run(
    tmp_path: Path, offline: config.WandbConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = opened(settings(tmp_path, wandb=offline))
    falling(written, rate=2, end=1)
    monkeypatch.setattr("rais.paper.figures.save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.warns(UserWarning, match="no speed-up and no figure of this run: OSError.*disk full"):
        written.finish("done")
    assert record.read_meta(written.folder)["status"] == "done"


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
