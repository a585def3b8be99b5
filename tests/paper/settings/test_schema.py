"""Settings: every bad one is refused at the start by name; a run is identified by its science and nothing else."""

from __future__ import annotations

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rais.paper import models
from rais.paper import settings as config

ROOT = Path(__file__).parents[3]
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def hydra() -> Iterator[None]:
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        yield


def composed(*overrides: str) -> config.Config:
    return config.from_hydra(compose("config", list(overrides)))


@pytest.mark.parametrize(
    "overrides, arm",
    [
        (("sampler=uniform",), "uniform"),
        (("sampler=oracle",), "oracle"),
        (("sampler=smoothed", "sampler.delta=0"), "smoothed_0"),
        (("sampler=smoothed", "sampler.delta=0.001"), "smoothed_0.001"),
        (("sampler=rais",), "rais"),
        (("sampler=rais", "gain=adaptive"), "rais"),
        (("variant=rais_multiplier_off",), "rais_multiplier_off"),
        (("variant=rais_multiplier_root",), "rais_multiplier_root"),
        (("variant=rais_spaced",), "rais_spaced"),
        (("variant=uniform_with_replacement",), "uniform_with_replacement"),
        (("sampler=rais", "gain=off"), "rais_multiplier_off"),
        (("variant=uniform_rais_multiplier",), "uniform_rais_multiplier"),
        (("sampler=uniform", "gain=adaptive"), "uniform_multiplier_adaptive"),
    ],
)
def test_arm(overrides: tuple[str, ...], arm: str) -> None:
    assert config.arm(composed(*overrides)) == arm


@pytest.mark.parametrize(
    "override, names",
    [
        ("sampler.delta=1.5", r"sampler\.delta=1\.5 .* in \[0, 1\]"),
        ("sampler.delta=-0.1", r"sampler\.delta=-0\.1 .* in \[0, 1\]"),
        ("gain.alpha=0", r"gain\.alpha=0.* in \(0, 1\]"),
        ("gain.alpha=1.01", r"gain\.alpha=1\.01 .* in \(0, 1\]"),
        ("gain.every=0", r"gain\.every=0 .* ≥ 1"),
        ("gain.phi=none_such", r"gain\.phi=none_such .* half_batch, exact, consecutive"),
        ("gain.mode=none_such", r"gain\.mode=none_such .* adaptive, root, off, replay"),
        ("gain.mode=exact", "sampler=oracle"),
        ("batch_size=0", r"batch_size=0 .* ≥ 1"),
        ("epochs=0", r"epochs=0.* greater than 0"),
        ("epochs=nan", r"epochs=nan"),
        ("evaluations=-1", r"evaluations=-1 .* ≥ 1"),
        ("epochs=inf", r"epochs=inf .* finite"),
        ("weight_decay=nan", r"weight_decay=nan .* finite"),
        ("threads=10000", r"threads=10000 .* 1 to \d+, the cores"),
        ("label=..", r"label=\.\. .* of letters, digits"),
        ("label=../up", r"label=\.\./up .* of letters, digits"),
        ("label=''", "label is empty"),
        ("runs=''", "runs is empty"),
        ("data.path=''", r"data\.path is empty"),
        ("data.name=imagenet", r"data\.name=imagenet .* cifar10, .*svhn"),
        ("sampler.name=uniform", r"sampler\.name=uniform cannot be set by itself.* sampler=…"),
        ("model.name=z2cnn", r"model\.name=z2cnn cannot be set by itself"),
        ("outliers=inf", r"outliers=inf .* finite"),
        ("without=window", r"without=window .* sampler=rais, not of smoothed"),
        ("seed=-1", r"seed=-1 .* ≥ 0"),
        ("momentum=1", r"momentum=1.* in \[0, 1\)"),
        ("schedule.scale=0", r"schedule\.scale=0"),
        ("device=tpu", r"device=tpu .* auto, cpu, cuda"),
        ("data.n_train=0", r"data\.n_train=0"),
        ("model.dropout=1", r"model\.dropout=1.* in \[0, 1\)"),
        ("model.dropout=-0.1", r"model\.dropout=-0\.1 .* in \[0, 1\)"),
    ],
)
def test_out_of_range(override: str, names: str) -> None:
    with pytest.raises(ValueError, match=names):
        composed("sampler=smoothed", override)


def test_rais_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match=r"sampler\.visits=0 .* ≥ 1"):
        composed("sampler=rais", "sampler.visits=0")
    with pytest.raises(ValueError, match="median.*each once, of mean_1"):
        composed("sampler=rais", "sampler.features=[constant,median]")
    with pytest.raises(ValueError, match="each once"):
        composed("sampler=rais", "sampler.features=[constant,constant]")


@pytest.mark.parametrize(
    "overrides, says",
    [
        ("data.n_train=20", r"batch_size=32 .* n=20 .* mnist"),
        ("data.n_train=60001", "mnist has 60000 training examples"),
        ("epochs=1.01", r"epochs=1\.01 is too short .* after 62000 examples"),
        ("sampler.visits=31", r"sampler\.visits=31 .* at least 32"),
        ("evaluations=22501", r"evaluations=22501 is more than the 22500 minibatches"),
        ("epochs=1e-9 sampler=uniform", "more than the 0 minibatches"),
        ("test_while_training=10001", "more than the 10000 test images of mnist"),
        ("augment.crop=28", "augment.crop=28 leaves nothing of images of 28x28"),
        ("task=cifar10 augment.crop=99", "augment.crop=99 leaves nothing of images of 32x32"),
        ("task=cifar10 model=z2cnn", "z2cnn takes 28x28 pixels, not 32x32"),
        ("model.batch_norm=true gain.phi=exact", "choose half_batch or consecutive"),
        ("task=cifar10_2000 model.maps=[8,16]", "three numbers of maps"),
    ],
)
def test_settings_that_do_not_fit_the_data(overrides: str, says: str) -> None:
    """Known without reading any: no data are looked for."""
    with pytest.raises(ValueError, match=says):
        cfg = composed(*overrides.split())
        cfg.check_against(cfg.data.describe())


def test_settings_that_just_fit() -> None:
    for overrides in ("sampler.visits=32", "epochs=1.04", "evaluations=22500", "augment.crop=27", "data.n_train=64"):
        cfg = composed(overrides)
        cfg.check_against(cfg.data.describe())


@pytest.mark.parametrize(
    "override, says",
    [
        ("smapler=rais", "smapler is no setting: the top level has .*sampler"),
        (
            "sampler.delta=0.1",
            "sampler.delta is no setting: sampler has name, multiplier, visits, refresh",
        ),
        ("model.width=2", "model.width is no setting: model has name, dropout, batch_norm"),
        ("sampler=bandit", "sampler/bandit.* oracle rais smoothed uniform"),
        ("variant=..", r"variant/\.\.'.* rais_spaced"),
        ("task=..", r"task/\.\.'.* digits"),
        ("seed=first", "seed=first.*could not be converted to Integer"),
    ],
)
def test_what_hydra_refuses_is_explained_with_the_valid_values(override: str, says: str) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)) as raised:
        composed(override)
    explanation = config.explain(raised.value)
    assert re.search(says, explanation) and "\n" not in explanation


@pytest.mark.parametrize(
    "override, says",
    [
        ("+key=1", "^key is no setting: the top level has task, "),
        ("++key=1", "^key is no setting"),
        ("+sampler.zoom=1", "^sampler.zoom is no setting: sampler has name"),
        ("++augment.zoom=3", "^augment.zoom is no setting: augment has crop, flip, rotate"),
        ("~seed", "^seed was taken away"),
        ("~sampler", "^sampler was taken away: .* sampler=…"),
        ("~data", "^data was taken away"),
    ],
)
def test_what_hydra_lets_through_and_is_refused_here(override: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as raised:
        composed(override)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "override, says",
    [
        ("sampler=null", "a group cannot be null"),
        ("task=null", "a group cannot be null"),
        ("wandb.mode=offline", "need logger=wandb"),
    ],
)
def test_faults_that_hydra_has_no_class_for(override: str, says: str) -> None:
    with pytest.raises((ValueError, AssertionError)) as raised:
        composed(override)
    assert config.is_of_hydra(raised.value) and says in config.explain(raised.value)
    assert not config.is_of_hydra(ValueError("of a run"))


def test_crop_on_the_command_line() -> None:
    assert composed("augment.crop=2").augment == config.AugmentConfig(crop=2)


def test_bad_command_line_ends_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/train.py", "task=digits", f"runs={tmp_path}", "smapler=rais"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("rais: smapler is no setting") and ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_run_id_is_the_science_and_nothing_else() -> None:
    base = composed("sampler=rais")
    same = composed(
        "sampler=rais", "runs=elsewhere", "device=cpu", "label=mine", "logger=wandb", "data.path=/x", "target_loss=0.01"
    )
    assert config.run_id(base) == config.run_id(same)
    others = [
        "seed=1",
        "epochs=11",
        "sampler.visits=100",
        "sampler.draws=spaced",
        "gain.alpha=0.1",
        "without=window",
        "schedule.multiple=2",
        "weight_decay=0",
        "data.n_train=9",
    ]
    ids = {config.run_id(composed("sampler=rais", override)) for override in others}
    assert len(ids | {config.run_id(base)}) == len(others) + 1


def test_run_id_ignores_estimator_settings_that_have_no_effect() -> None:
    assert config.run_id(composed("sampler=uniform")) == config.run_id(composed("sampler=uniform", "gain.alpha=0.5"))


def test_own_data_are_identified_by_what_is_in_the_file(tmp_path: Path) -> None:
    def saved(name: str, label: int) -> str:
        x = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
        np.savez(tmp_path / name, x_train=x, y_train=[0, label], x_test=x, y_test=[0, 1])
        return config.run_id(composed("task=npz", f"data.path={tmp_path / name}"))

    one = saved("one.npz", 1)
    assert one == saved("two.npz", 1) != saved("three.npz", 0)
    assert one != saved("one.npz", 0), "the same path with another content"


def test_run_id_of_a_replay_is_that_of_its_source_not_of_its_path() -> None:
    cfg = composed("variant=uniform_rais_multiplier")
    moved = dataclasses.replace(cfg, gain=dataclasses.replace(cfg.gain, record="elsewhere/seed0-*"))
    assert config.run_id(cfg, "aaaa") == config.run_id(moved, "aaaa") != config.run_id(cfg, "bbbb")


def test_options_at_their_defaults_are_no_part_of_the_identity() -> None:
    """So that an option which is added later leaves earlier runs their identity."""
    found = config.scientific(composed())
    assert found["model"] == {"name": "lenet5"} and found["data"] == {"name": "mnist", "n_train": None}
    later = {"augment", "outliers", "without", "trace", "headroom", "test_while_training"}
    assert not later & set(found) and not {"draws", "multiplier"} & set(found["sampler"])
    assert config.scientific(composed("augment.crop=2"))["augment"] == {"crop": 2}


def test_options_of_a_model_are_part_of_the_science() -> None:
    models = [
        (),
        ("model.dropout=0.2",),
        ("model.batch_norm=true",),
        ("model=z2cnn",),
        ("model=z2cnn", "model.dropout=0.2"),
    ]
    assert len({config.run_id(composed(*overrides)) for overrides in models}) == len(models)
    assert config.scientific(composed("model.dropout=0.2"))["model"] == {"name": "lenet5", "dropout": 0.2}
    z2cnn = {"name": "z2cnn", "dropout": 0.3, "batch_norm": True}
    assert config.scientific(composed("model=z2cnn"))["model"] == z2cnn


@pytest.mark.parametrize("file", sorted(path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")))
def test_options_of_every_model_file_reach_its_model(file: str) -> None:
    cfg = composed(f"model={file}")
    models.build(**dataclasses.asdict(cfg.model), channels=1, classes=10, size=28, seed=0)


def test_defaults_of_options_are_those_of_the_model() -> None:
    """A run's identity leaves them out, so they must not mean something else in the model."""
    for file in ("lenet5", "preact_resnet18", "small_cnn", "z2cnn"):
        cfg = composed(f"model={file}").model
        parameters = inspect.signature(models.MODELS[cfg.name]).parameters
        options = {key: value for key, value in dataclasses.asdict(cfg).items() if key != "name"}
        assert options == {
            key: list(default) if isinstance(default := parameters[key].default, tuple) else default for key in options
        }


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_composes_and_names_its_command(name: str) -> None:
    first, second = (ROOT / "conf" / "experiment" / f"{name}.yaml").read_text().splitlines()[:2]
    assert first == "# @package _global_"
    assert second.startswith(f"# python scripts/train.py --multirun experiment={name}")
    assert composed(f"experiment={name}").seed == 0


def test_values_of_an_experiment_win_over_the_defaults() -> None:
    assert composed("experiment=approximation").diagnose and not composed().diagnose
    assert composed("experiment=oracle").data.n_train == 6000


def test_a_record_without_a_replay_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gain\.record is for gain=replay, and this is gain\.mode=adaptive: leave it"):
        composed("sampler=rais", "gain=adaptive", "gain.record=somewhere")


def test_alpha_is_part_of_a_run_whose_outliers_it_limits() -> None:
    def ids(*overrides: str) -> set[str]:
        return {config.run_id(composed("sampler=rais", "gain=off", f"gain.alpha={a}", *overrides)) for a in (0.01, 0.1)}

    assert len(ids()) == 1 and len(ids("outliers=10")) == 2
