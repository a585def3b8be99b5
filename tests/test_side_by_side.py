"""Commands side by side: no two on one core, none before what it waits for, none outliving an interrupt."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import side_by_side
from side_by_side import Job, cores, expected_minutes, run_all


def job(name: str, folder: Path, code: str, *, minutes: float = 0.01, after: str | None = None) -> Job:
    return Job(name, (sys.executable, "-c", code), folder / "logs" / f"{name}.log", minutes, after)


def stamped(path: Path) -> str:
    """Code that writes when it began and ended, to be compared with the others'."""
    return (
        "import pathlib, time\n"
        "begun = time.monotonic(); time.sleep(0.3)\n"
        f"pathlib.Path({str(path)!r}).write_text(f'{{begun}} {{time.monotonic()}}')"
    )


def when(path: Path) -> tuple[float, float]:
    begun, ended = path.read_text().split()
    return float(begun), float(ended)


def done_if_written(folder: Path) -> Callable[[Job], str | None]:
    return lambda ended: "done" if (folder / ended.name).exists() else None


def test_a_job_begins_after_the_one_it_waits_for_wherever_it_stands(tmp_path: Path) -> None:
    jobs = [
        job("replay", tmp_path, stamped(tmp_path / "replay"), after="source"),
        job("source", tmp_path, stamped(tmp_path / "source")),
    ]
    assert run_all(jobs, len(cores()), done_if_written(tmp_path)) == {"source": "done", "replay": "done"}
    assert when(tmp_path / "source")[1] <= when(tmp_path / "replay")[0]


def test_one_worker_runs_one_at_a_time(tmp_path: Path) -> None:
    jobs = [job(name, tmp_path, stamped(tmp_path / name)) for name in "ab"]
    run_all(jobs, 1, done_if_written(tmp_path))
    assert when(tmp_path / "a")[1] <= when(tmp_path / "b")[0]


@pytest.mark.skipif(len(cores()) < 2, reason="needs two cores")
def test_two_workers_run_side_by_side(tmp_path: Path) -> None:
    waits = (
        "import pathlib, sys, time\nme, other = map(pathlib.Path, sys.argv[1:])\nme.touch()\n"
        "end = time.monotonic() + 20\nwhile not other.exists() and time.monotonic() < end: time.sleep(0.01)\n"
        "sys.exit(not other.exists())"
    )
    paths = {"a": tmp_path / "a", "b": tmp_path / "b"}
    commands = {"a": (paths["a"], paths["b"]), "b": (paths["b"], paths["a"])}
    jobs = [
        Job(n, (sys.executable, "-c", waits, *map(str, commands[n])), tmp_path / f"{n}.log", 0.01) for n in commands
    ]
    began = time.monotonic()
    assert run_all(jobs, 2, done_if_written(tmp_path)) == {"a": "done", "b": "done"}
    assert time.monotonic() - began < 15


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no pinning on this system")
def test_each_has_one_core_and_one_thread_and_its_own_log(tmp_path: Path) -> None:
    code = "import os, time; time.sleep(0.3)\nprint(*os.sched_getaffinity(0), os.environ['OMP_NUM_THREADS'])"
    workers = min(2, len(cores()))
    jobs = [job(name, tmp_path, code) for name in ("a", "b")[:workers]]
    run_all(jobs, workers, lambda ended: "done")
    printed = [j.log.read_text().split() for j in jobs]
    assert sorted(int(core) for core, *_ in printed) == cores()[:workers]
    assert [rest for _, *rest in printed] == [["1"]] * workers


def test_a_failing_job_stops_only_what_waits_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        job("source", tmp_path, "raise SystemExit('no luck')"),
        job("replay", tmp_path, stamped(tmp_path / "replay"), after="source"),
        job("other", tmp_path, stamped(tmp_path / "other")),
    ]
    assert run_all(jobs, 1, done_if_written(tmp_path)) == {"source": None, "replay": None, "other": "done"}
    assert not (tmp_path / "replay").exists()
    printed = capsys.readouterr().out
    assert f"source FAILED, see {jobs[0].log}" in printed and "replay: not started, source failed" in printed
    assert "no luck" in jobs[0].log.read_text()


def test_a_source_that_is_complete_already_is_not_waited_for(tmp_path: Path) -> None:
    replay = job("replay", tmp_path, stamped(tmp_path / "replay"), after="source of an earlier day")
    assert run_all([replay], 1, done_if_written(tmp_path)) == {"replay": "done"}


def test_an_interrupt_is_passed_on_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import pathlib, time\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "try:\n    (folder / 'begun').touch(); time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.3); (folder / 'tidy').touch()"
    )
    waited = time.sleep

    def sleep_until_begun_then_interrupt(seconds: float) -> None:
        waited(seconds)
        if (tmp_path / "begun").exists():
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(side_by_side.time, "sleep", sleep_until_begun_then_interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_all([job("a", tmp_path, code), job("b", tmp_path, stamped(tmp_path / "b"))], 1, lambda ended: "done")
    assert (tmp_path / "tidy").exists()
    assert not (tmp_path / "b").exists()


def test_a_command_deaf_to_the_interrupt_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import pathlib, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path / 'begun')!r}).touch(); time.sleep(60)"
    )
    monkeypatch.setattr(side_by_side, "PATIENCE", 0.2)

    def outcome(ended: Job) -> str:
        raise KeyboardInterrupt

    first = f"import pathlib, time\nwhile not pathlib.Path({str(tmp_path / 'begun')!r}).exists(): time.sleep(0.01)"
    if len(cores()) < 2:
        pytest.skip("needs two cores")
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_all([job("deaf", tmp_path, code), job("first", tmp_path, first)], 2, outcome)
    assert time.monotonic() - began < 20


def test_expected_minutes_share_the_sum_but_last_as_long_as_the_longest(tmp_path: Path) -> None:
    jobs = [job(str(k), tmp_path, "", minutes=m) for k, m in enumerate((1.0, 2.0, 3.0, 6.0))]
    assert expected_minutes(jobs, 1) == pytest.approx(12.0)
    assert expected_minutes(jobs, 2) == pytest.approx(6.0)
    assert expected_minutes(jobs[:3], 2) == pytest.approx(3.0)
    assert expected_minutes(jobs, 4) == pytest.approx(6.0)
    assert expected_minutes([], 2) == 0.0
