"""One process to a run: who holds it is said in one line, and what a dead owner left is taken over."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rais.paper.records.lock import Locked, held

HOLD = """
import sys, time
from pathlib import Path
from rais.paper.records.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def holding(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_process_says_who_holds_the_run_and_a_dead_owner_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with holding(folder) as owner:
        try:
            with pytest.raises(
                Locked, match=rf"^process {owner.pid} on .* holds the run .*run since .*delete .*run.lock$"
            ):
                with held(folder):
                    raise AssertionError("two processes hold one run")
        finally:
            owner.send_signal(signal.SIGKILL)
    assert json.loads((folder / "run.lock").read_text())["pid"] == owner.pid
    with held(folder):
        assert json.loads((folder / "run.lock").read_text())["pid"] == os.getpid()
    assert not folder.exists()


def test_a_lock_of_another_machine_is_respected(tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text('{"pid": 7, "host": "elsewhere", "since": "2026-01-01T00:00:00+00:00"}\n')
    with pytest.raises(Locked, match="process 7 on elsewhere holds .* if it is gone, delete .*run.lock"):
        with held(tmp_path):
            raise AssertionError("taken over from another machine")
    assert "elsewhere" in (tmp_path / "run.lock").read_text()


@pytest.mark.parametrize("left", ["", '{"pid": 1', "[]", "\0" * 50])
def test_a_lock_that_a_power_cut_left_is_taken_over(left: str, tmp_path: Path) -> None:
    (tmp_path / "run.lock").write_text(left)
    with held(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_the_lock_is_gone_after_an_error_and_what_the_run_left_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt), held(folder):
        (folder / "record.csv").write_text("kept")
        raise KeyboardInterrupt
    assert [path.name for path in folder.iterdir()] == ["record.csv"]
    with held(folder):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(OSError, match=r"cannot be written .* set `runs`"):
        with held(tmp_path / "runs" / "run"):
            raise AssertionError("held in a file")
