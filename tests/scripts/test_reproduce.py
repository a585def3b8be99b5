"""The plan of `make reproduce`: what is trained, left out, skipped and resumed, and what the exit code says.

A small configuration of two fake tasks stands for conf/, a script of ten lines for scripts/train.py. The
committed profiles are expanded from the real conf/.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import initialize_config_dir
from omegaconf import DictConfig

import reproduce
import side_by_side
from rais.paper.records import lock
from side_by_side import Slot, core_slots

CONF = {
    "config.yaml": """
        defaults: [_self_, {experiment: null}]
        task: ???
        seed: 0
        runs: ???
        data: {name: "${task}"}
        method: uniform
        gain: {mode: "off", record: null}
    """,
    "experiment/curves.yaml": """
        # @package _global_
        task: near
        hydra: {sweeper: {params: {method: "uniform,rais", seed: "0,1,2,3,4"}}}
    """,
    "experiment/controls.yaml": """
        # @package _global_
        task: near
        hydra: {sweeper: {params: {method: "uniform", gain.mode: "off,replay"}}}
    """,
    "experiment/elsewhere.yaml": """
        # @package _global_
        task: far
        hydra: {sweeper: {params: {method: "rais"}}}
    """,
    "profile/tiny.yaml": """
        seeds: [0, 1]
        stages:
          - {experiment: controls, minutes: 2}
          - {experiment: curves, minutes: 1.5, gpu_minutes: 120}
          - {experiment: elsewhere, overrides: [data.name=moon], minutes: 4}
    """,
}
# Writes the record that reproduce looks for, unless it is told to fail; a replay needs its source's record.
TRAIN = """
    import json, os, pathlib, sys
    o = dict(a.split("=", 1) for a in sys.argv[1:])
    arm = o["method"] + ("_replay" if o.get("gain.mode") == "replay" else "")
    runs = pathlib.Path(o["runs"])
    (runs / "started").open("a").write(f"{arm}{o['seed']} ")
    if arm + o["seed"] == os.environ.get("FAILS"): sys.exit("out of luck")
    if "replay" in arm: assert (pathlib.Path(o["gain.record"]) / "meta.json").exists()
    folder = runs / f"near/{arm}/{o['seed']}"; folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"status": "diverged" if arm == "rais" else "done"}))
"""
PLOT = """
    import pathlib, sys
    out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
    (out / "tables").mkdir(parents=True, exist_ok=True); (out / "figures").mkdir(exist_ok=True)
    (out / "figures/curves.png").touch()
    (out / "tables/speedup.csv").write_text(
        "task,arm,n_seeds,examples_speedup,examples_low,examples_high,seconds_speedup,seconds_low,seconds_high\\n"
        "near,uniform,2,1.0,0.9,1.1,1.0,0.9,1.1\\nnear,rais,2,2.5,2.25,2.75,,,\\n")
"""


def write(path: Path, text: str) -> None:
    lines = text.strip("\n").splitlines()
    indent = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(line[indent:] for line in lines) + "\n")


def folder_of(cfg: DictConfig) -> Path:
    return Path(cfg.runs) / cfg.task / cfg.arm / str(cfg.seed)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository in miniature that reproduce is pointed at; the data of its task `far` cannot be had."""
    for name, text in CONF.items():
        write(tmp_path / "conf" / name, text)
    write(tmp_path / "scripts/train.py", TRAIN)
    write(tmp_path / "scripts/plot.py", PLOT)

    def from_hydra(cfg: Any) -> Any:
        arm = cfg.method + ("_replay" if cfg.gain.mode == "replay" else "")
        return SimpleNamespace(
            task=cfg.task,
            seed=cfg.seed,
            runs=cfg.runs,
            arm=arm,
            gain=SimpleNamespace(mode=cfg.gain.mode, record=None),
            data=SimpleNamespace(name=cfg.data.name),
        )

    def load(name: str) -> None:
        if name == "moon":
            raise reproduce.data.DataUnavailable("moon cannot be had: set RAIS_DATA")

    def find_complete(cfg: Any) -> Path | None:
        return folder_of(cfg) if (folder_of(cfg) / "meta.json").exists() else None

    monkeypatch.setattr(reproduce, "ROOT", tmp_path)
    monkeypatch.setattr(reproduce, "CONF", tmp_path / "conf")
    monkeypatch.setattr(reproduce.config, "from_hydra", from_hydra)
    monkeypatch.setattr(reproduce, "gpus", lambda: [])
    monkeypatch.setattr(reproduce.data, "load", load)
    monkeypatch.setattr(reproduce.find, "find_complete", find_complete)
    monkeypatch.setattr(reproduce.find, "folder_of", folder_of)
    monkeypatch.setattr(reproduce.layout, "read_meta", lambda folder: json.loads((folder / "meta.json").read_text()))
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def plan_of(repository: Path, measured: str = "minutes") -> reproduce.Plan:
    with initialize_config_dir(str(repository / "conf"), version_base="1.3"):
        return reproduce.make_plan(reproduce.read_profile("tiny"), "runs", measured)


def started(repository: Path) -> list[str]:
    path = repository / "runs" / "started"
    return sorted(path.read_text().split()) if path.exists() else []


def finish(repository: Path, arm: str, seed: int, task: str = "near") -> None:
    write(repository / "runs" / task / arm / str(seed) / "meta.json", json.dumps({"status": "done"}))


def test_plan_expands_every_grid_once_over_the_seeds_of_the_profile(repository: Path) -> None:
    plan = plan_of(repository)
    assert [run.name for run in plan.runs] == [
        "near/uniform/seed0",
        "near/uniform_replay/seed0",
        "near/uniform/seed1",
        "near/uniform_replay/seed1",
        "near/rais/seed0",
        "near/rais/seed1",
        "far/rais/seed0",
        "far/rais/seed1",
    ]
    assert [run.minutes for run in plan.runs] == [2, 2, 2, 2, 1.5, 1.5, 4, 4]


def test_replay_names_the_run_of_its_task_and_seed(repository: Path) -> None:
    replays = {run.name: run for run in plan_of(repository).runs if run.replays}
    assert {name: run.replays for name, run in replays.items()} == {
        "near/uniform_replay/seed0": "near/rais/seed0",
        "near/uniform_replay/seed1": "near/rais/seed1",
    }
    assert "gain.record=runs/near/rais/1" in replays["near/uniform_replay/seed1"].overrides


def test_plan_skips_a_task_whose_data_cannot_be_had(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(repository)
    assert plan.skipped == {"far": "moon cannot be had: set RAIS_DATA"}
    assert {run.task for run in plan.missing} == {"near"}
    assert plan.states["far/rais/seed0"] == "skipped"
    reproduce.print_plan(plan, core_slots(1))
    assert "skipped: far: moon cannot be had: set RAIS_DATA" in capsys.readouterr().out


def test_plan_leaves_out_what_is_complete(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(repository, "rais", 1)
    plan = plan_of(repository)
    assert "near/rais/seed1" not in [run.name for run in plan.missing] and len(plan.missing) == 5
    reproduce.print_plan(plan, core_slots(1))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["near", "rais", "seed", "1", "complete"] in lines
    assert ["near", "rais", "seed", "0", "to", "train", "1", "x", "1.5", "min"] in lines


def test_unknown_profile_names_the_valid_ones(repository: Path) -> None:
    with pytest.raises(SystemExit, match="no profile 'huge': choose one of tiny"):
        reproduce.read_profile("huge")


@pytest.mark.parametrize("jobs", ["0", "100000"])
def test_jobs_beyond_the_cores_are_refused(jobs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for found in ([], ["0", "1"]):
        monkeypatch.setattr(reproduce, "gpus", lambda found=found: found)
        with pytest.raises(SystemExit, match=f"--jobs {jobs} .*the cores here"):
            reproduce.main(["--jobs", jobs])


def test_places_are_all_cores_or_one_to_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reproduce, side_by_side):
        monkeypatch.setattr(module, "cores", lambda: [0, 1, 2, 3])
    assert [set(slot.cores) for slot in reproduce.places([], None)] == [{0}, {1}, {2}, {3}]
    assert [set(slot.cores) for slot in reproduce.places([], 2)] == [{0}, {1}]
    assert [slot.gpu for slot in reproduce.places(["4", "6"], None)] == ["4", "6"]
    assert [slot.gpu for slot in reproduce.places(["4", "6"], 2)] == ["4", "6", "4", "6"]


@pytest.mark.parametrize(
    "count, named, found",
    [(0, None, []), (2, None, ["0", "1"]), (2, "5,3", ["5", "3"]), (1, "GPU-ab,GPU-cd", ["GPU-ab"]), (0, "", [])],
)
def test_gpus_keep_the_names_that_the_environment_gives_them(
    count: int, named: str | None, found: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce.torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert reproduce.gpus() == found


def test_expected_time_of_each_task_says_what_was_not_measured(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce.print_plan(plan_of(repository), core_slots(1))
    lines = capsys.readouterr().out.splitlines()
    assert "expected: near: 11 min" in lines and "expected: all: 11 min" in lines
    plan = plan_of(repository, "gpu_minutes")
    reproduce.print_plan(plan, [Slot(frozenset({0}), "0"), Slot(frozenset({0}), "1")])
    printed = capsys.readouterr().out
    assert "at most 2 side by side on GPU 0, 1\n" in printed
    # Of the six runs on `near`, only rais has a measured time, 120 minutes, and its two seeds run side by side.
    assert "expected: near: at least 2.0 h, 4 runs not measured" in printed.splitlines()
    assert reproduce.duration([None, None], 1) == "not measured"


def test_runs_go_to_the_gpus(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "gpus", lambda: ["3", "8"])
    write(
        repository / "scripts/train.py",
        "import os, pathlib\npathlib.Path('seen').open('a').write(os.environ['CUDA_VISIBLE_DEVICES'] + ' ')",
    )
    assert reproduce.main(["--profile", "tiny", "--runs", "runs"]) == 1, "these runs leave no records"
    assert set((repository / "seen").read_text().split()) == {"3", "8"}


def test_one_name_for_two_runs_that_differ_is_refused(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(repository / "conf/profile/tiny.yaml", "seeds: [0]\nstages: [{experiment: curves}, {experiment: controls}]")
    monkeypatch.setattr(
        reproduce.find, "folder_of", lambda cfg: Path(cfg.runs) / cfg.task / cfg.arm / f"{cfg.seed}-{cfg.data.name}"
    )
    assert plan_of(repository).runs
    write(
        repository / "conf/profile/tiny.yaml",
        "seeds: [0]\nstages: [{experiment: curves}, {experiment: controls, overrides: [data.name=other]}]",
    )
    with pytest.raises(SystemExit, match="near/uniform/seed0 is the name of two runs that differ.*data.name=other"):
        plan_of(repository)


def test_reproduce_trains_draws_and_reports_with_a_task_skipped(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(
        repository / "results/tables/speedup.csv",
        "task,arm,n_seeds,examples_speedup,examples_low,examples_high,seconds_speedup,seconds_low,seconds_high\n"
        "near,rais,5,2.7,2.6,2.8,2.4,2.3,2.5",
    )
    assert reproduce.main(["--profile", "tiny", "--runs", "runs"]) == 0
    assert started(repository) == sorted(
        ["uniform0", "uniform1", "rais0", "rais1", "uniform_replay0", "uniform_replay1"]
    )
    printed = capfd.readouterr().out
    assert "near/rais/seed0 diverged in" in printed, "a diverged run is a result"
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    assert "near rais examples 2.50× (2.25 to 2.75) (n=2) 2.70× (2.60 to 2.80) (n=5)" in lines
    assert "near rais seconds – (n=2) 2.40× (2.30 to 2.50) (n=5)" in lines
    assert "near uniform examples 1 (n=2) –" in lines
    assert (repository / "results/reproduction/figures/curves.png").exists()


def test_data_are_not_asked_for_where_every_run_is_complete(repository: Path) -> None:
    for seed in (0, 1):
        finish(repository, "rais", seed, task="far")
    plan = plan_of(repository)
    assert plan.skipped == {} and plan.states["far/rais/seed0"] == "complete"


def test_only_the_runs_of_the_plan_are_drawn(repository: Path) -> None:
    finish(repository, "rais", 77)
    finish(repository, "rais", 0, task="far")
    assert reproduce.main(["--profile", "tiny", "--runs", "runs"]) == 0
    records = repository / "results/reproduction/records"
    drawn = {path.parent.relative_to(records).as_posix() for path in records.rglob("meta.json")}
    arms = ("uniform", "rais", "uniform_replay")
    assert drawn == {f"near/{arm}/{seed}" for arm in arms for seed in (0, 1)} | {"far/rais/0"}


def test_second_time_nothing_is_trained(repository: Path) -> None:
    assert reproduce.main(["--profile", "tiny", "--runs", "runs"]) == 0
    first = started(repository)
    assert reproduce.main(["--profile", "tiny", "--runs", "runs"]) == 0
    assert started(repository) == first


def test_failing_run_is_listed_and_made_good_by_the_same_command(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAILS", "rais1")
    assert reproduce.main(["--profile", "tiny", "--runs", "runs"]) == 1
    error = capfd.readouterr().err
    assert "FAILED: near/rais/seed1" in error and "FAILED: near/uniform_replay/seed1" in error
    assert "FAILED: near/rais/seed0" not in error
    assert "out of luck" in (repository / "runs/logs/near-rais-seed1.log").read_text()
    monkeypatch.delenv("FAILS")
    assert reproduce.main(["--profile", "tiny", "--runs", "runs"]) == 0
    assert started(repository).count("rais0") == 1 and started(repository).count("rais1") == 2


def test_figures_that_fail_are_an_error(repository: Path) -> None:
    write(repository / "scripts/plot.py", "raise SystemExit(3)")
    assert reproduce.main(["--profile", "tiny", "--runs", "runs"]) == 1


def test_interrupt_says_how_to_go_on(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "run_all", interrupted)
    assert reproduce.main(["--profile", "tiny", "--runs", "runs"]) == 130
    assert "the same command goes on" in capfd.readouterr().err


@pytest.mark.slow
def test_committed_profiles_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their experiments compose, every replay has its source in the same plan, and full trains all that quick does."""
    monkeypatch.setattr(reproduce.data, "load", lambda name: None)
    monkeypatch.setattr(reproduce.find, "find_complete", lambda cfg: None)
    reproduce.config.register()
    planned = {}
    with initialize_config_dir(str(reproduce.CONF), version_base="1.3"):
        for name, seeds in (("quick", [0, 1, 2]), ("full", [0, 1, 2, 3, 4]), ("paper", [0, 1, 2, 3, 4])):
            profile = reproduce.read_profile(name)
            assert profile["seeds"] == seeds
            keys = {"experiment", "overrides", "seeds", "minutes", "gpu_minutes"}
            assert all(set(stage) <= keys and stage.get("minutes", 1) > 0 for stage in profile["stages"])
            plan = reproduce.make_plan(profile, str(tmp_path))
            planned[name] = {run.name for run in plan.runs}
            assert all((run.config.gain.mode == "replay") == (run.replays is not None) for run in plan.runs)
    arms = ("uniform", "rais", "rais_multiplier_off", "uniform_rais_multiplier")
    assert {f"digits/{arm}/seed0" for arm in arms} | {"mnist/uniform/seed0", "mnist/rais/seed0"} <= planned["quick"]
    assert planned["quick"] < planned["full"]


@pytest.mark.slow
def test_a_hangup_ends_the_runs_in_order_and_leaves_nobody_behind(tmp_path: Path) -> None:
    script = Path(reproduce.__file__)
    arguments = [sys.executable, str(script), "--runs", str(tmp_path), "--jobs", "2"]
    with subprocess.Popen(arguments, cwd=script.parents[1], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 240
        while len(begun := [*tmp_path.glob("*/*/*/record.csv")]) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(signal.SIGHUP)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 130 and b"the same command goes on from here" in errors
    assert len(begun) == 2
    for record in begun:
        assert json.loads((record.parent / "meta.json").read_text(encoding="utf-8"))["status"] == "interrupted"
        with lock.held(record.parent):  # Nobody else holds it: no orphan goes on.
            pass
