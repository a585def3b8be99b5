"""Settings: every bad one is refused at the start by name; a run is identified by its science and nothing else."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rais.paper import models
from rais.paper.settings import schema as config

ROOT = Path(__file__).parents[3]
RECORDED = sorted((ROOT / "results" / "records" / "mnist" / "rais").glob("*/meta.json"))
EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


def composed(*overrides: str) -> config.Config:
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
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
        (("arm=rais_multiplier_off",), "rais_multiplier_off"),
        (("sampler=rais", "gain=off"), "rais_multiplier_off"),
        (("arm=uniform_rais_multiplier",), "uniform_rais_multiplier"),
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
        ("gain.mode=none_such", r"gain\.mode=none_such .* adaptive, off, replay"),
        ("gain.mode=exact", "sampler=oracle"),
        ("batch_size=0", r"batch_size=0 .* ≥ 1"),
        ("epochs=0", r"epochs=0.* greater than 0"),
        ("epochs=nan", r"epochs=nan"),
        ("evaluations=-1", r"evaluations=-1"),
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
    with pytest.raises(ValueError, match="median.*choose from mean_1"):
        composed("sampler=rais", "sampler.features=[constant,median]")


def test_settings_that_do_not_fit_the_data() -> None:
    with pytest.raises(ValueError, match="batch_size=32 .* n=20"):
        config.check_against_data(composed("sampler=uniform"), 20)
    with pytest.raises(ValueError, match=r"sampler\.visits=20000 .* at most 1100"):
        config.check_against_data(composed("sampler=rais"), 100)
    config.check_against_data(composed("sampler=rais", "sampler.visits=1100"), 100)


@pytest.mark.parametrize(
    "override, says",
    [
        ("smapler=rais", "smapler is no setting: the top level has .*sampler"),
        ("sampler.delta=0.1", "sampler.delta is no setting: sampler has name, multiplier, visits, refresh, features"),
        ("model.width=2", "model.width is no setting: model has name, dropout, batch_norm"),
        ("sampler=bandit", "sampler/bandit.* oracle rais smoothed uniform"),
        ("data=imagenet", "data/imagenet.* digits mnist"),
        ("seed=first", "seed=first.*could not be converted to Integer"),
    ],
)
def test_what_hydra_refuses_is_explained_with_the_valid_values(override: str, says: str) -> None:
    with pytest.raises((HydraException, OmegaConfBaseException)) as raised:
        composed(override)
    explanation = config.explain(raised.value)
    assert re.search(says, explanation) and "\n" not in explanation


def test_bad_command_line_ends_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "scripts/train.py", "task=digits", f"runs={tmp_path}", "smapler=rais"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith("rais: smapler is no setting") and ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_run_id_is_the_science_and_nothing_else() -> None:
    base = composed("sampler=rais")
    same = composed("sampler=rais", "runs=elsewhere", "device=cpu", "threads=2", "logger=wandb", "data.path=/x")
    assert config.run_id(base) == config.run_id(same)
    others = ["seed=1", "epochs=11", "sampler.visits=100", "gain.alpha=0.1", "weight_decay=0", "data.n_train=9"]
    ids = {config.run_id(composed("sampler=rais", override)) for override in others}
    assert len(ids | {config.run_id(base)}) == len(others) + 1


def test_run_id_ignores_estimator_settings_that_have_no_effect() -> None:
    assert config.run_id(composed("sampler=uniform")) == config.run_id(composed("sampler=uniform", "gain.alpha=0.5"))


def test_path_of_own_data_is_part_of_the_run_id() -> None:
    one, two = (config.run_id(composed("task=mnist", "data=npz", f"data.path={name}.npz")) for name in ("one", "two"))
    assert one != two


def test_run_id_of_a_replay_is_that_of_its_source_not_of_its_path() -> None:
    cfg = composed("arm=uniform_rais_multiplier")
    moved = dataclasses.replace(cfg, gain=dataclasses.replace(cfg.gain, record="elsewhere/seed0-*"))
    assert config.run_id(cfg, "aaaa") == config.run_id(moved, "aaaa") != config.run_id(cfg, "bbbb")


def test_options_that_models_got_later_leave_recorded_runs_their_identity() -> None:
    recorded = [json.loads(path.read_text(encoding="utf-8")) for path in RECORDED]
    assert recorded
    for meta in recorded:
        cfg = composed("sampler=rais", f"seed={meta['seed']}", "epochs=10")
        assert cfg.model == config.LeNet5Config()
        assert config.run_id(cfg) == meta["run_id"]


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
    assert composed("experiment=fig2_approximation").diagnose and not composed().diagnose
    assert composed("experiment=fig1_oracle").data.n_train == 6000
