"""Commands side by side: no two on one core, none before what it waits for, none outliving an interrupt."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import side_by_side
from side_by_side import Job, Slot, core_slots, cores, expected_minutes, gpu_slots, run_all


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
    assert run_all(jobs, core_slots(len(cores())), done_if_written(tmp_path)) == {"source": "done", "replay": "done"}
    assert when(tmp_path / "source")[1] <= when(tmp_path / "replay")[0]


def test_one_worker_runs_one_at_a_time(tmp_path: Path) -> None:
    jobs = [job(name, tmp_path, stamped(tmp_path / name)) for name in "ab"]
    run_all(jobs, core_slots(1), done_if_written(tmp_path))
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
    assert run_all(jobs, core_slots(2), done_if_written(tmp_path)) == {"a": "done", "b": "done"}
    assert time.monotonic() - began < 15


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no pinning on this system")
def test_each_has_one_core_and_one_thread_and_its_own_log(tmp_path: Path) -> None:
    code = "import os, time; time.sleep(0.3)\nprint(*os.sched_getaffinity(0), os.environ['OMP_NUM_THREADS'])"
    workers = min(2, len(cores()))
    jobs = [job(name, tmp_path, code) for name in ("a", "b")[:workers]]
    run_all(jobs, core_slots(workers), lambda ended: "done")
    printed = [j.log.read_text().split() for j in jobs]
    assert sorted(int(core) for core, *_ in printed) == cores()[:workers]
    assert [rest for _, *rest in printed] == [["1"]] * workers


def test_a_failing_job_stops_only_what_waits_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [
        job("source", tmp_path, "raise SystemExit('no luck')"),
        job("replay", tmp_path, stamped(tmp_path / "replay"), after="source"),
        job("other", tmp_path, stamped(tmp_path / "other")),
    ]
    assert run_all(jobs, core_slots(1), done_if_written(tmp_path)) == {"source": None, "replay": None, "other": "done"}
    assert not (tmp_path / "replay").exists()
    printed = capsys.readouterr().out
    assert f"source FAILED, see {jobs[0].log}" in printed and "replay: not started, source failed" in printed
    assert "no luck" in jobs[0].log.read_text()


def test_a_source_that_is_complete_already_is_not_waited_for(tmp_path: Path) -> None:
    replay = job("replay", tmp_path, stamped(tmp_path / "replay"), after="source of an earlier day")
    assert run_all([replay], core_slots(1), done_if_written(tmp_path)) == {"replay": "done"}


def test_an_interrupt_is_passed_on_and_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background shell hands on an ignored SIGINT
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
        run_all(
            [job("a", tmp_path, code), job("b", tmp_path, stamped(tmp_path / "b"))], core_slots(1), lambda ended: "done"
        )
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
        run_all([job("deaf", tmp_path, code), job("first", tmp_path, first)], core_slots(2), outcome)
    assert time.monotonic() - began < 20


def test_expected_minutes_share_the_sum_but_last_as_long_as_the_longest() -> None:
    minutes = [1.0, 2.0, 3.0, 6.0]
    assert expected_minutes(minutes, 1) == pytest.approx(12.0)
    assert expected_minutes(minutes, 2) == pytest.approx(6.0)
    assert expected_minutes(minutes[:3], 2) == pytest.approx(3.0)
    assert expected_minutes(minutes, 4) == pytest.approx(6.0)
    assert expected_minutes([], 2) == 0.0
    assert expected_minutes([1.0, None], 2) is None


def test_minutes_left_are_those_at_the_pace_so_far_or_not_given() -> None:
    assert side_by_side._left(10.0, taken=6.0, expected=3.0) == ", about 20 min left"
    assert side_by_side._left(None, taken=6.0, expected=3.0) == ""
    assert side_by_side._left(10.0, taken=0.0, expected=0.0) == ""


def test_gpu_slots_spread_over_the_gpus_first_and_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "cores", lambda: [0, 1, 2, 3, 4])
    slots = gpu_slots(["2", "5"], 2)
    assert [slot.gpu for slot in slots] == ["2", "5", "2", "5"]
    assert [set(slot.cores) for slot in slots] == [{0, 4}, {1}, {2}, {3}]
    assert [len(slot.cores) for slot in gpu_slots([str(k) for k in range(6)], 1)] == [1] * 5 + [5]


def test_each_gpu_has_one_job_at_a_time_and_a_job_sees_its_own_only(tmp_path: Path) -> None:
    """Two stand-ins for GPUs: what a job sees of them is an environment variable."""
    code = (
        "import os, pathlib, sys, time\n"
        "held = pathlib.Path(sys.argv[1], os.environ['CUDA_VISIBLE_DEVICES'])\n"
        "held.mkdir()\n"
        "time.sleep(0.2)\n"
        "held.rmdir()\n"
        "print(os.environ['CUDA_VISIBLE_DEVICES'])"
    )
    jobs = [
        Job(str(k), (sys.executable, "-c", code, str(tmp_path)), tmp_path / "logs" / f"{k}.log", None) for k in range(5)
    ]
    run_all(jobs, [Slot(frozenset(cores()), "3"), Slot(frozenset(cores()), "7")], lambda ended: "done")
    printed = [ended.log.read_text().strip() for ended in jobs]
    assert set(printed) == {"3", "7"}, "two at a time on one GPU would end in FileExistsError"
