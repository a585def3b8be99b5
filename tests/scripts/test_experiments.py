"""Every file of conf/experiment, in miniature: each of its arms trains to a complete record by the real entry point.

The grid is read from the file, so a new experiment is covered as soon as it is there. Random images of the right shape
and number of classes stand for the data, and a run is a handful of steps, some of them after RAIS has learned its p.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

import reproduce
import train
from rais.paper import data
from rais.paper import settings as config
from rais.paper.records import find, layout
from rais.paper.records import read as load

CONF = Path(__file__).resolve().parents[2] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
IMAGES = {  # channels, size, classes
    "digits": (1, 28, 10),
    "mnist": (1, 28, 10),
    "rot_mnist": (1, 28, 10),
    "svhn": (3, 32, 10),
    "cifar10": (3, 32, 10),
    "cifar100": (3, 32, 100),
}
QUICK = ("curves", "two_by_two", "spaced", "ablation")  # the others are run by make test-slow
LIGHT = "lenet5"  # any other model has a smaller batch


def random_data(name: str, *, n_train: int, **_: object) -> data.Dataset:
    channels, size, classes = IMAGES[name]
    g = torch.Generator().manual_seed(0)

    def split(n: int) -> data.Split:
        images = torch.randint(256, (n, channels, size, size), generator=g, dtype=torch.uint8)
        return data.Split(images, torch.randint(classes, (n,), generator=g))

    return data.Dataset(name, split(n_train), split(8), classes)


def miniature(cfg: config.Config) -> list[str]:
    """Overrides that make `cfg` a run of ten light or five heavy steps, the last of them after RAIS has learned p."""
    m, per_epoch = (cfg.batch_size, 4) if cfg.model.name == LIGHT else (4, 2)
    small = [f"batch_size={m}", f"data.n_train={per_epoch * m}", "epochs=2.5", "evaluations=1", "gain.every=2"]
    return small + ([f"sampler.visits={m}"] if hasattr(cfg.sampler, "visits") else [])


def one_of_each_arm(experiment: str, runs: Path) -> list[reproduce.Run]:
    """The first run of every task, arm and variant in the grid; variants that differ by a number alone are one.

    All of the grid composes.
    """
    first: dict[tuple[str, str, str], reproduce.Run] = {}
    for run in reproduce.expand({"experiment": experiment}, [0], str(runs), "minutes"):
        arm, _, variant = run.arm.partition("@")
        first.setdefault((run.task, arm, re.sub(r"[\d.]+", "#", variant)), run)
    return list(first.values())


def trained(overrides: Sequence[str]) -> Path:
    """The folder of the record of a run with these overrides, in miniature."""
    whole = config.from_hydra(compose("config", list(overrides)))
    composed = compose("config", [*overrides, *miniature(whole), "device=cpu", "threads=1"])
    assert train.run(composed) in layout.COMPLETE
    folder = find.find_complete(config.from_hydra(composed))
    assert folder is not None
    return folder


def test_there_are_experiments() -> None:
    assert {"curves", "spaced", "ablation", "headroom", "pilots"} <= set(EXPERIMENTS)


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in EXPERIMENTS]
)
def test_every_arm_of_the_experiment_trains(experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "load", random_data)
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for run in one_of_each_arm(experiment, tmp_path):
            if run.config.gain.mode == "replay":
                trained([*(word for word in run.overrides if not word.startswith("variant=")), "sampler=rais"])
            _, curve, _ = load.read_run(trained(run.overrides))
            losses = curve[curve["metric"] == "train_loss"]
            assert losses["iteration"].tolist()[0] == 0 and len(losses) >= 2
            if run.config.sampler.name == "rais":
                assert curve.loc[curve["metric"] == "set_center", "value"].notna().any(), "p was never learned"


PROFILES = sorted(path.stem for path in (CONF / "profile").glob("*.yaml"))


@pytest.mark.parametrize(
    "profile", [pytest.param(name, marks=() if name == "quick" else pytest.mark.slow) for name in PROFILES]
)
def test_every_run_of_a_profile_fits_its_data_and_has_a_name_that_no_other_run_has(profile: str) -> None:
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        runs = planned(profile)
    found: dict[str, str] = {}
    for run in runs:
        run.config.check_against(run.config.data.describe())
        run_id = config.run_id(run.config)
        assert found.setdefault(run.name, run_id) == run_id, run.name


@pytest.mark.slow
def test_profiles_keep_to_their_time() -> None:
    """Minutes of one core: quick within 15 on two cores, full within 24 hours and 2 for AdamW's table."""
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        quick, full = ({run.name: run.minutes for run in planned(name)} for name in ("quick", "full"))
    adamw = {name: minutes for name, minutes in full.items() if "_adamw/" in name}
    assert sum(quick.values()) <= 2 * 15 and 0 < sum(adamw.values()) <= 2 * 60
    assert sum(full.values()) - sum(adamw.values()) <= 24 * 60


def test_a_stage_has_seeds_and_lists_that_go_before_those_of_the_experiment() -> None:
    stage = {"experiment": "smoothing", "overrides": ["task=cifar10_small", "sampler.delta=0,0.1"], "seeds": [7]}
    config.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        runs = reproduce.expand(stage, [0, 1], "elsewhere", "minutes")
    assert [run.name for run in runs] == ["cifar10_small/smoothed_0/seed7", "cifar10_small/smoothed_0.1/seed7"]


def planned(profile: str) -> list[reproduce.Run]:
    content = reproduce.read_profile(profile)
    return [
        run for stage in content["stages"] for run in reproduce.expand(stage, content["seeds"], "elsewhere", "minutes")
    ]
