"""scripts/train.py under signals: a kill after an evaluation changes no record, an end before it leaves none."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

import train
from rais.paper import settings as config

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "task=digits",
    "data.n_train=256",
    "sampler.visits=256",
    "epochs=6",
    "evaluations=12",
    "test_while_training=64",
)


def command(runs: Path, *overrides: str) -> list[str]:
    return [sys.executable, "scripts/train.py", *SETTINGS, f"runs={runs}", *overrides]


def ended(runs: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(runs, *overrides), cwd=ROOT, capture_output=True, text=True, check=False)


def folder_in(runs: Path) -> Path:
    (found,) = runs.glob("digits/*/seed*")
    return found


def timeless(runs: Path) -> list[str]:
    """The lines of the record without those and the column that hold seconds."""
    lines = (folder_in(runs) / "record.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines if "_seconds," not in line and ",phase_" not in line]
    return [",".join([*row[:4], *row[5:]]) for row in rows]


def wait_for_checkpoint(process: subprocess.Popen, runs: Path, after: float) -> bool:
    """Whether this process wrote a checkpoint after that time; False where it ended before."""
    while process.poll() is None:
        for path in runs.glob("digits/*/*/checkpoint.pt"):
            if path.stat().st_mtime >= after:
                return True
        time.sleep(0.01)
    return False


def kill_once(runs: Path, number: int, pause: float) -> bool:
    """Start the run and send it that signal `pause` seconds after a checkpoint; False where it was done before."""
    began = time.time()
    with subprocess.Popen(command(runs), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        if not wait_for_checkpoint(process, runs, began):
            return False
        time.sleep(pause)
        process.send_signal(number)
    return process.returncode != 0


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 20])
def test_a_killed_run_ends_with_the_record_of_one_that_was_not(kills: int, tmp_path: Path) -> None:
    assert ended(tmp_path / "whole").returncode == 0
    runs, draw = tmp_path / "killed", random.Random(kills)
    landed = sum(kill_once(runs, signal.SIGKILL, draw.uniform(0, 0.2)) for _ in range(kills))
    assert landed, "every kill came after the end: nothing was tried"
    last = ended(runs)
    assert last.returncode == 0, last.stderr
    assert timeless(runs) == timeless(tmp_path / "whole")
    meta = json.loads((folder_in(runs) / "meta.json").read_text())
    assert meta["status"] == "done" and len(meta["resumed"]) >= 1
    assert sorted(path.name for path in folder_in(runs).iterdir()) == ["meta.json", "record.csv"]
    assert ended(runs).stdout.startswith("complete: ")


@pytest.mark.slow
def test_a_second_process_says_who_holds_the_run_and_a_hangup_ends_the_first_in_order(tmp_path: Path) -> None:
    long = "epochs=100000"
    said = tmp_path / "said.txt"
    with (
        said.open("w") as file,
        subprocess.Popen(command(tmp_path, long), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=file) as first,
    ):
        try:
            assert wait_for_checkpoint(first, tmp_path, 0)
            second = ended(tmp_path, long)
        finally:
            first.send_signal(signal.SIGHUP)
    assert second.returncode == 1
    (line,) = [line for line in second.stderr.splitlines() if not line.startswith("rais: the record will not say")]
    assert line.startswith(f"rais: process {first.pid} on ") and "holds the run" in line
    assert first.returncode == 130, said.read_text()
    assert json.loads((folder_in(tmp_path) / "meta.json").read_text())["status"] == "interrupted"
    assert (folder_in(tmp_path) / "checkpoint.pt").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_run_that_ends_while_it_is_set_up_leaves_no_record(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(train, "Loop", fails)
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("config", [*SETTINGS, "threads=1", f"runs={tmp_path}"])
    with pytest.raises(error):
        train.run(composed)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
