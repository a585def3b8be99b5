"""Records: on disk at every evaluation, valid however a run ends, found again by what the run is."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from rais.paper import settings as config
from rais.paper.records import find, layout
from rais.paper.records import write as record
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
    meta = layout.read_meta(written.folder)
    assert meta["status"] == "running" and meta["finished"] is None


def test_folder_and_meta(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    written = opened(cfg)
    written.finish("done")
    assert written.folder == tmp_path / "toy" / "rais" / f"seed3-{config.run_id(cfg)}"
    meta = layout.read_meta(written.folder)
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
    assert find.find_complete(cfg) is None
    written = opened(cfg)
    assert find.find_complete(cfg) is None, "a run that is killed half-way is not complete"
    written.finish(status)
    assert (find.find_complete(cfg) == written.folder) is complete
    assert find.find_complete(dataclasses.replace(cfg, seed=4)) is None


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
    headline, varied = opened(settings(tmp_path)), opened(settings(tmp_path, label="visits_100"))
    assert varied.folder == tmp_path / "toy" / "rais@visits_100" / headline.folder.name
    assert (headline.meta["variant"], varied.meta["variant"]) == ("", "visits_100")
    assert headline.meta["run_id"] == varied.meta["run_id"]
    varied.finish("done")
    assert find.find_complete(settings(tmp_path)) is None
    assert find.find_complete(settings(tmp_path, label="visits_100")) == varied.folder


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
    assert find.find_replayed(cfg) == source.folder
    ends, ratios = find.read_multipliers(source.folder)
    assert ends == [10, 20, 25] and ratios == pytest.approx([1, 2, 4])
    replay = opened(cfg, replayed=source.meta["run_id"])
    replay.finish("done")
    assert find.find_complete(cfg) == replay.folder


def test_replay_without_a_usable_source(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="matches nothing.*record it first"):
        find.find_replayed(replaying(tmp_path))
    assert find.find_complete(replaying(tmp_path)) is None
    unfinished = opened(settings(tmp_path))
    with pytest.raises(FileNotFoundError, match="status running"):
        find.find_replayed(replaying(tmp_path))
    unfinished.finish("done")
    with pytest.raises(layout.RecordError, match="0 evaluations"):
        find.read_multipliers(unfinished.folder)
    opened(settings(tmp_path, sampler=config.RAISConfig(visits=200, refresh=2))).finish("done")
    with pytest.raises(FileNotFoundError, match="matches 2 runs"):
        find.find_replayed(replaying(tmp_path))


def test_a_record_whose_meta_is_lost_is_not_replaced(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    written = opened(cfg)
    written.write(AXES, {"train_loss": 1.0})
    (written.folder / "meta.json").write_text('{"status": "do')
    assert find.find_complete(cfg) is None
    with pytest.raises(layout.RecordError, match=r"meta\.json cannot be read .*delete the folder"):
        opened(cfg)
    assert len(rows(written.folder)) == 1


def test_a_record_with_another_number_of_evaluations_than_its_meta_says_is_not_whole(tmp_path: Path) -> None:
    written = opened(settings(tmp_path))
    written.write(AXES, {"train_loss": 1.0})
    written.finish("done")
    meta = layout.read_meta(written.folder)
    layout.check_whole(written.folder, meta)
    with pytest.raises(layout.RecordError, match=r"has 1 evaluations, meta\.json says 2: delete"):
        layout.check_whole(written.folder, {**meta, "evaluations": 2})


def test_a_damaged_run_is_neither_complete_nor_replaced(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    written = opened(cfg)
    for iteration in (0, 10):
        written.write({**AXES, "iteration": iteration}, {"train_loss": 1.0})
    written.finish("done")
    assert layout.read_meta(written.folder)["evaluations"] == 2 and find.find_complete(cfg) == written.folder
    path = written.folder / "record.csv"
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:-1]))
    assert find.find_complete(cfg) is None
    with pytest.raises(layout.RecordError, match="is not the record that was finished.*delete the folder and run"):
        opened(cfg)
    path.unlink()
    assert find.find_complete(cfg) is None
    path.write_text(whole)
    with pytest.raises(layout.RecordError, match="holds a run that is done: delete the folder to run it again"):
        opened(cfg)


def test_a_run_takes_as_long_as_it_takes_although_its_clock_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = opened(settings(tmp_path))
    monkeypatch.setattr(record, "_now", lambda: "1999-12-31T23:59:59+00:00")
    monkeypatch.setattr(record.time, "time", lambda: 0.0)
    monkeypatch.setattr(record.time, "monotonic", lambda: written.began + 7.25)
    written.finish("done")
    assert layout.read_meta(written.folder)["duration_seconds"] == 7.2


def test_a_resumed_record_goes_on_where_its_checkpoint_was_written(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    first = opened(cfg)
    first.write(AXES, {"train_loss": 2.0})
    first.write_norms(0.5, [7], [0.1], [1.0])
    first.began -= 100  # seconds ago
    state = first.state_dict()
    before = {name: (first.folder / name).read_bytes() for name in ("record.csv", "norms.csv")}
    first.write({**AXES, "iteration": 20}, {"train_loss": 1.0})
    first.write_norms(1.0, [7], [0.1], [1.0])
    again = opened(cfg, resumed=state)
    assert {name: (first.folder / name).read_bytes() for name in before} == before
    again.resume_at(10)
    third = opened(cfg, resumed=state)
    third.resume_at(10)
    third.finish("done")
    meta = layout.read_meta(first.folder)
    assert meta["resumed"] == [10, 10] and meta["evaluations"] == 1 and meta["started"] == first.meta["started"]
    assert meta["duration_seconds"] >= 100, "the time before the checkpoint counts"
    assert find.is_complete(first.folder)


def test_a_record_that_was_changed_beside_its_checkpoint_is_refused(tmp_path: Path) -> None:
    first = opened(settings(tmp_path))
    first.write(AXES, {"train_loss": 2.0})
    state = first.state_dict()
    path = first.folder / "record.csv"
    for damage in (path.read_bytes()[:-5], path.read_bytes().replace(b"2.0", b"1.0")):
        path.write_bytes(damage)
        with pytest.raises(layout.RecordError, match="not the file that checkpoint.pt was written beside: delete"):
            opened(settings(tmp_path), resumed=state)
        assert path.read_bytes() == damage


def test_a_diverged_run_is_not_replayed(tmp_path: Path) -> None:
    source = opened(settings(tmp_path))
    for iteration in (0, 10):
        source.write({**AXES, "iteration": iteration}, {"train_loss": 1.0})
    source.finish("diverged", "the loss of a minibatch is not finite")
    with pytest.raises(FileNotFoundError, match="is a run with status diverged: a replay needs one that is done"):
        find.find_replayed(replaying(tmp_path))
    assert find.find_complete(replaying(tmp_path)) is None


def test_a_run_is_not_resumed_on_other_data(tmp_path: Path) -> None:
    cfg = settings(tmp_path)
    first = opened(cfg, fingerprint="one")
    first.write(AXES, {"train_loss": 0.5})
    state = first.state_dict()
    assert layout.read_meta(first.folder)["data_fingerprint"] == "one"
    with pytest.raises(layout.RecordError, match="was written with other data than there are now: delete it to start"):
        opened(cfg, fingerprint="other", resumed=state)
    assert opened(cfg, fingerprint="one", resumed=state).evaluations == 1
