"""Sweeps: every job runs whatever becomes of the others, and what failed is written down at once and listed at the end.

Small sweeps of the real entry point under each launcher that runs on one machine, and every way for a job to end, one
by one. `seed=-1` is the setting that is refused.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

import sweeps
from rais.paper import settings as config

ROOT = Path(__file__).resolve().parents[2]
# Seen by pytest only: sweeps.py filters it out for those who sweep.
pytestmark = pytest.mark.filterwarnings("ignore:\\s*'hydra/launcher/:UserWarning")
TINY = ("task=digits", "data.n_train=64", "epochs=1", "evaluations=1")


def command(runs: Path, *overrides: str) -> list[str]:
    return [sys.executable, "scripts/train.py", "--multirun", *TINY, f"runs={runs}", *overrides]


def sweep(runs: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(runs, *overrides), cwd=ROOT, capture_output=True, text=True, check=False)


def records(runs: Path) -> dict[str, dict]:
    """The meta.json of every run by task, arm and seed."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in runs.glob("*/*/*/meta.json")]
    return {f"{meta['task']}/{meta['arm']}/{meta['seed']}": meta for meta in found}


GRID = {f"digits/{arm}/{seed}" for arm in ("uniform", "smoothed_0.1") for seed in (0, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["side_by_side", "submitit_local"])
def test_launcher_runs_a_sweep_of_complete_runs(launcher: str, tmp_path: Path) -> None:
    ended = sweep(tmp_path, f"hydra/launcher={launcher}", "sampler=uniform,smoothed", "seed=0,1")
    assert ended.returncode == 0, ended.stderr
    assert "sweep of 4: 4 done, 0 diverged, 0 failed" in ended.stdout
    assert "Warning" not in ended.stderr
    made = records(tmp_path)
    assert set(made) == GRID and {meta["status"] for meta in made.values()} == {"done"}
    words = made["digits/smoothed_0.1/1"]["command"].split()
    assert words[:2] == ["python", "scripts/train.py"], "the command of the run, not that of the launcher's worker"
    assert set(words[2:]) == {*TINY, f"runs={tmp_path}", "sampler=smoothed", "seed=1"}
    assert {meta["hardware"]["threads"] for meta in made.values()} == {1}
    assert not list(tmp_path.glob("sweeps/*/*/")), "a folder at this depth would be read as a run"


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [("basic",), ("side_by_side", "hydra.launcher.n_jobs=1")], ids=lambda words: words[0]
)
def test_a_failing_job_is_listed_and_the_others_run(launcher: tuple[str, ...], tmp_path: Path) -> None:
    name, *settings = launcher
    ended = sweep(tmp_path, f"hydra/launcher={name}", *settings, "sampler=uniform", "seed=0,-1,1,2")
    assert ended.returncode == 1
    assert set(records(tmp_path)) == {f"digits/uniform/{seed}" for seed in (0, 1, 2)}
    assert "sweep of 4: 3 done, 0 diverged, 1 failed" in ended.stdout
    last = ended.stderr.splitlines()[-1]
    assert re.fullmatch(r"failed: .*seed=-1.*: seed=-1 is out of range: it must be an integer ≥ 0", last)
    (folder,) = tmp_path.glob("sweeps/*")
    entries = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("job*.json")}
    assert {name: entry["status"] for name, entry in entries.items()} == {
        **{f"job{k}.json": "done" for k in (0, 2, 3)},
        "job1.json": "failed",
    }
    assert "seed=-1" in entries["job1.json"]["overrides"] and "ValueError" in entries["job1.json"]["traceback"]


def test_an_unknown_key_ends_a_sweep_before_its_first_job(tmp_path: Path) -> None:
    ended = sweep(tmp_path, "sampler=uniform", "seed=0,1", "sampler.delta=0.1")
    assert ended.returncode == 1 and ended.stderr.startswith("rais: sampler.delta is no setting")
    assert not records(tmp_path)


def owner_of(runs: Path, seed: int) -> int:
    """The process that trains that seed, once its first checkpoint is there."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for path in runs.glob(f"digits/*/seed{seed}-*/checkpoint.pt"):
            return json.loads((path.parent / "run.lock").read_text())["pid"]
        time.sleep(0.05)
    raise AssertionError("no checkpoint in two minutes")


LONG = ("sampler=uniform", "seed=0,1", "epochs=150")


@pytest.mark.slow
def test_a_killed_worker_is_listed_and_the_others_finish(tmp_path: Path) -> None:
    arguments = command(tmp_path, *LONG, "hydra/launcher=side_by_side")
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        os.kill(owner_of(tmp_path, 0), signal.SIGKILL)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 1 and "sweep of 2: 1 done, 0 diverged, 1 failed" in out
    assert re.search(r"^failed: .*seed=0.*: its process ended without a result", err, re.MULTILINE)
    assert records(tmp_path)["digits/uniform/1"]["status"] == "done"


@pytest.mark.slow
def test_a_killed_submitit_worker_is_listed_and_the_next_call_takes_its_run_over(tmp_path: Path) -> None:
    arguments = command(tmp_path, *LONG, "hydra/launcher=submitit_local")
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        os.kill(owner_of(tmp_path, 0), signal.SIGKILL)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 1 and re.search(r"^failed: .*seed=0.*: its process ended without", err, re.MULTILINE)
    again = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    made = records(tmp_path)
    assert {meta["status"] for meta in made.values()} == {"done"}
    assert len(made["digits/uniform/0"]["resumed"]) == 1


def is_training(runs: Path) -> bool:
    """Whether some run has made its first evaluation."""
    return any("train_loss" in path.read_text(encoding="utf-8") for path in runs.glob("digits/*/*/record.csv"))


@pytest.mark.slow
def test_ctrl_c_ends_the_whole_sweep(tmp_path: Path) -> None:
    arguments = command(tmp_path, "sampler=uniform", "seed=0,1,2", "epochs=100000")
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 120
        while not is_training(tmp_path) and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert {name: meta["status"] for name, meta in records(tmp_path).items()} == {"digits/uniform/0": "interrupted"}


@pytest.fixture(params=["MULTIRUN"])
def job(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """The configuration of a whole sweep, with job number 3 of it under way."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        overrides = [f"hydra.mode={request.param}", "hydra.job.num=3", "hydra.job.id=3", f"hydra.sweep.dir={tmp_path}"]
        composed = compose("config", [*overrides, "task=digits", "seed=7"], return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    return composed


def entry(folder: Path) -> dict:
    (path,) = folder.iterdir()
    assert path.name == "job3.json"
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "error, reason",
    [
        (MemoryError("Unable to allocate 3 GiB\nfor an array"), "MemoryError: Unable to allocate 3 GiB"),
        (RuntimeError("CUDA out of memory"), "RuntimeError: CUDA out of memory"),
        (AssertionError(), "AssertionError:"),
        (SystemExit("rais: MNIST cannot be had"), "MNIST cannot be had"),
    ],
)
def test_whatever_a_job_raises_is_written_down(
    error: BaseException, reason: str, job: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_: DictConfig) -> str:
        raise error

    sweeps.guard(run, job)
    written = entry(tmp_path)
    assert (written["status"], written["reason"]) == ("failed", reason)
    assert type(error).__name__ in written["traceback"]
    line = f"failed: task=digits seed=7: {reason}"
    assert line in capsys.readouterr().err.splitlines()
    with pytest.raises(SystemExit) as ended:
        sweeps.Report().on_multirun_end(job)
    assert ended.value.code == 1
    assert line in capsys.readouterr().err.splitlines()


def test_a_diverged_run_is_listed_and_no_failure(
    job: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps.guard(lambda composed: "diverged", job)
    assert entry(tmp_path)["status"] == "diverged"
    sweeps.Report().on_multirun_end(job)
    printed = capsys.readouterr()
    assert "sweep of 1: 0 done, 1 diverged, 0 failed" in printed.out and printed.err == ""
    assert "diverged: task=digits seed=7" in printed.out.splitlines()


def test_an_interrupt_is_passed_on(job: DictConfig, tmp_path: Path) -> None:
    def run(_: DictConfig) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweeps.guard(run, job)
    assert entry(tmp_path)["status"] == "started"


def test_a_job_that_left_no_result_is_listed_as_dead(
    job: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweeps.begin(tmp_path, 3, ["task=digits", "seed=7"])
    with pytest.raises(SystemExit) as ended:
        sweeps.Report().on_multirun_end(job)
    assert ended.value.code == 1
    assert "failed: task=digits seed=7: its process ended without a result" in capsys.readouterr().err


def test_a_sweep_that_its_launcher_gave_up_is_reported(
    job: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps.Report, "under_way", None)
    assert not sweeps.was_broken_by(RuntimeError("a worker was killed"))
    monkeypatch.setattr(sweeps.Report, "under_way", job)
    sweeps.begin(tmp_path, 3, ["task=digits", "seed=7"])
    assert sweeps.was_broken_by(RuntimeError("a worker was killed"))
    printed = capsys.readouterr().err
    assert "the launcher ended the sweep: RuntimeError: a worker was killed" in printed and "seed=7: its" in printed


def test_a_hangup_ends_a_run_unless_it_is_ignored() -> None:
    code = (
        "import os, signal, sys, sweeps\n"
        "signal.signal(signal.SIGHUP, getattr(signal, sys.argv[1]))\n"
        "sweeps.end_on_signals()\n"
        "try: os.kill(os.getpid(), signal.SIGHUP); print('goes on')\n"
        "except KeyboardInterrupt: print('ends')\n"
    )
    for before, what in (("SIG_DFL", "ends"), ("SIG_IGN", "goes on")):
        command = [sys.executable, "-c", code, before]
        ended = subprocess.run(command, cwd=ROOT / "scripts", capture_output=True, text=True, check=True)
        assert ended.stdout.strip() == what


@pytest.mark.parametrize("job", ["RUN"], indirect=True)
@pytest.mark.parametrize("error", [RuntimeError("as it is"), SystemExit("as it is"), KeyboardInterrupt()])
def test_a_single_run_raises_what_it_raises(error: BaseException, job: DictConfig, tmp_path: Path) -> None:
    def run(_: DictConfig) -> str:
        raise error

    with pytest.raises(type(error)) as raised:
        sweeps.guard(run, job)
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []


def test_jobs_are_listed_by_number(job: DictConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in (10, 9, 2):
        sweeps.write(
            tmp_path,
            {"job": number, "overrides": [f"seed={number}"], "status": "diverged", "reason": "", "traceback": ""},
        )
    sweeps.Report().on_multirun_end(job)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("diverged")] == [
        f"diverged: seed={number}" for number in (2, 9, 10)
    ]


def launching(name: str) -> DictConfig:
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("config", [f"hydra/launcher={name}"], return_hydra_config=True)


@pytest.mark.parametrize("name", ["submitit_local", "submitit_slurm"])
def test_a_launcher_that_is_not_installed_names_the_cure(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    composed = launching(name)
    monkeypatch.setitem(sys.modules, composed.hydra.launcher._target_.rpartition(".")[0], None)
    with pytest.raises(SystemExit, match=rf"hydra/launcher={name} .*pip install 'rais-sgd\[sweep\]'"):
        sweeps.Report().on_multirun_start(launching(name))


@pytest.mark.parametrize("name", ["basic", "side_by_side", "submitit_local", "submitit_slurm"])
def test_workers_of_an_installed_launcher_find_this_script(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "already there")
    sweeps.Report().on_multirun_start(launching(name))
    assert os.environ["PYTHONPATH"].split(os.pathsep) == [str(ROOT / "scripts"), "already there"]


def test_slurm_settings_are_those_of_its_plugin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The launcher is made from conf/ and hands every setting to a stand-in for submitit's executor."""
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    given: dict = {}

    class Executor:
        def __init__(self, folder: str, cluster: str, **settings: object) -> None:
            given.update(settings, folder=folder, cluster=cluster)

        def update_parameters(self, **settings: object) -> None:
            given.update(settings)

        def map_array(self, *_: object) -> list:
            return []

    stand_in = ModuleType("submitit")
    stand_in.AutoExecutor = Executor
    monkeypatch.setitem(sys.modules, "submitit", stand_in)
    composed = launching("submitit_slurm")
    composed.runs = str(tmp_path)
    composed.hydra.launcher.partition = "gpu"
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=HydraContext(None, None), task_function=print, config=composed
    )
    launcher.launch([["seed=0"]], initial_job_idx=0)
    assert given["cluster"] == "slurm" and given["slurm_partition"] == "gpu" and given["gpus_per_node"] == 1
    assert Path(given["folder"]).parent == tmp_path / "sweeps"
