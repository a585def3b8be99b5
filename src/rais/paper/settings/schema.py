"""The typed schema of every setting, its valid ranges, and the identity of a run.

YAML files in conf/ fill these classes through Hydra, which refuses an unknown key; `check` refuses a value out of
range, before anything is loaded. `run_id` hashes the scientific part of a configuration: what the numbers of a run
depend on, the seed included, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import MISSING as DATACLASS_MISSING
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, List, Optional  # noqa: UP035  OmegaConf reads these forms on Python 3.10

from rais.sampling.features import NAMES

MISSING: Any = "???"


@dataclass
class DataConfig:
    """`path` stands for RAIS_DATA; `n_train` takes the first training examples only."""

    name: str = MISSING
    path: Optional[str] = None  # noqa: UP045
    n_train: Optional[int] = None  # noqa: UP045


@dataclass
class ModelConfig:
    """Fields beside `name` are options of that model. Those at their default here are no part of a run's identity, so
    that an option added later leaves the identity of earlier runs as it was."""

    name: str = MISSING


@dataclass
class LeNet5Config(ModelConfig):
    name: str = "lenet5"
    dropout: float = 0.0
    batch_norm: bool = False


@dataclass
class Z2CNNConfig(ModelConfig):
    name: str = "z2cnn"
    dropout: float = MISSING
    batch_norm: bool = MISSING


@dataclass
class PreActResNetConfig(ModelConfig):
    name: str = "preact_resnet"
    widths: List[int] = field(default_factory=lambda: [64, 128, 256, 512])  # noqa: UP006
    blocks: int = 2


@dataclass
class SmallCNNConfig(ModelConfig):
    name: str = "small_cnn"
    maps: List[int] = field(default_factory=lambda: [32, 64, 128])  # noqa: UP006
    hidden: int = 256


@dataclass
class ScheduleConfig:
    """lr_sched(t̂); see schedule.py."""

    name: str = MISSING


@dataclass
class InverseSqrtConfig(ScheduleConfig):
    name: str = "inverse_sqrt"
    scale: float = MISSING
    offset: float = MISSING


@dataclass
class ExponentialConfig(ScheduleConfig):
    name: str = "exponential"
    lr: float = MISSING
    decay: float = MISSING


@dataclass
class SamplerConfig:
    """`multiplier` is the gain mode that belongs to the method; `gain.mode` follows it unless it is set."""

    name: str = MISSING
    multiplier: str = MISSING


@dataclass
class UniformConfig(SamplerConfig):
    name: str = "uniform"
    multiplier: str = "off"


@dataclass
class OracleConfig(SamplerConfig):
    name: str = "oracle"
    multiplier: str = "exact"


@dataclass
class SmoothedConfig(SamplerConfig):
    name: str = "smoothed"
    multiplier: str = "adaptive"
    delta: float = MISSING


@dataclass
class RAISConfig(SamplerConfig):
    name: str = "rais"
    multiplier: str = "adaptive"
    visits: int = MISSING
    refresh: int = MISSING
    features: List[str] = field(default_factory=lambda: list(NAMES))  # noqa: UP006


@dataclass
class GainConfig:
    """`record` (replay only): a run's folder, or a pattern that matches exactly one."""

    mode: str = MISSING
    phi: str = MISSING
    alpha: float = MISSING
    every: int = MISSING
    record: Optional[str] = None  # noqa: UP045


@dataclass
class AugmentConfig:
    """See data/augment.py: `crop` pixels of padding, `flip` left and right, `rotate` degrees either way."""

    crop: int = 0
    flip: bool = False
    rotate: float = 0.0


@dataclass
class WandbConfig:
    mode: str = "offline"
    project: str = "rais"


@dataclass
class Config:
    """A run. `epochs` is the budget in epochs equivalent, with `evaluations` points over it; `runs` is
    where records go; `outliers` is the limit of outliers.py, null for none; `trace` keeps what figure 5 shows.

    `test_while_training` is the number of test images of every evaluation but the last, null for all.
    `variant` labels a run of a sweep over a setting, as in `visits_2000`, to tell it from the headline runs of its arm.
    """

    task: str = MISSING
    variant: Optional[str] = None  # noqa: UP045
    seed: int = MISSING
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    gain: GainConfig = field(default_factory=GainConfig)
    batch_size: int = MISSING
    epochs: float = MISSING
    weight_decay: float = MISSING
    momentum: float = MISSING
    augment: Optional[AugmentConfig] = None  # noqa: UP045
    outliers: Optional[float] = None  # noqa: UP045
    evaluations: int = MISSING
    test_while_training: Optional[int] = None  # noqa: UP045
    diagnose: bool = False
    trace: bool = False
    runs: str = MISSING
    device: str = MISSING
    threads: int = MISSING
    wandb: Optional[WandbConfig] = None  # noqa: UP045


SCHEMAS = {
    ("model", "lenet5"): LeNet5Config,
    ("model", "preact_resnet"): PreActResNetConfig,
    ("model", "small_cnn"): SmallCNNConfig,
    ("model", "z2cnn"): Z2CNNConfig,
    ("sampler", "uniform"): UniformConfig,
    ("sampler", "oracle"): OracleConfig,
    ("sampler", "smoothed"): SmoothedConfig,
    ("sampler", "rais"): RAISConfig,
    ("schedule", "inverse_sqrt"): InverseSqrtConfig,
    ("schedule", "exponential"): ExponentialConfig,
}


def register() -> None:
    """Make the schemas known to Hydra, as `schema` and `schema/<group>: <name>`."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for (group, name), node in SCHEMAS.items():
        store.store(group=f"schema/{group}", name=name, node=node)


def from_hydra(composed: Any) -> Config:
    """The checked `Config` of a composed DictConfig.

    Raises:
        ValueError: a missing value or one out of range; the message names the key and the valid values.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue

    try:
        cfg = OmegaConf.to_object(composed)
    except MissingMandatoryValue as error:
        raise ValueError(f"a setting has no value: {error}".splitlines()[0]) from error
    check(cfg)
    return cfg


def explain(error: BaseException) -> str:
    """One or two lines for a configuration that Hydra refused: its message, and the valid keys where a key is
    unknown."""
    from omegaconf.errors import OmegaConfBaseException

    lines = [
        line for line in str(error).splitlines() if line and not line.startswith(("Config search path", "\tprovider"))
    ]
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    node = getattr(cause, "object_type", None)
    if (
        getattr(cause, "key", None) is not None
        and is_dataclass(node)
        and cause.key not in (keys := [f.name for f in fields(node)])
    ):
        where = str(cause.full_key).rpartition(".")[0]
        return f"{cause.full_key} is no setting: {where or 'the top level'} has {', '.join(keys)}"
    reason = [] if cause is None else str(cause).splitlines()[:1]
    return " ".join(line.strip() for line in [*lines, *reason])


_LABEL = r"[A-Za-z0-9._-]+"
_WITHIN = (
    ("seed", lambda x: x >= 0, "an integer ≥ 0"),
    ("batch_size", lambda x: x >= 1, "an integer ≥ 1"),
    ("epochs", lambda x: x > 0, "greater than 0"),
    ("weight_decay", lambda x: x >= 0, "≥ 0"),
    ("momentum", lambda x: 0 <= x < 1, "in [0, 1)"),
    ("evaluations", lambda x: x >= 1, "an integer ≥ 1"),
    ("test_while_training", lambda x: x is None or x >= 1, "an integer ≥ 1, or null for all"),
    ("threads", lambda x: x >= 1, "an integer ≥ 1"),
    ("data.n_train", lambda x: x is None or x >= 1, "an integer ≥ 1, or null for all"),
    ("model.dropout", lambda x: 0 <= x < 1, "in [0, 1)"),
    ("schedule.scale", lambda x: x > 0, "greater than 0"),
    ("schedule.offset", lambda x: x > 0, "greater than 0"),
    ("schedule.lr", lambda x: x > 0, "greater than 0"),
    ("schedule.decay", lambda x: 0 < x <= 1, "in (0, 1]"),
    ("sampler.delta", lambda x: 0 <= x <= 1, "in [0, 1]"),
    ("sampler.visits", lambda x: x >= 1, "an integer ≥ 1"),
    ("sampler.refresh", lambda x: x >= 1, "an integer ≥ 1"),
    ("augment.crop", lambda x: x >= 0, "an integer ≥ 0"),
    ("augment.rotate", lambda x: 0 <= x <= 180, "in [0, 180] degrees"),
    ("outliers", lambda x: x is None or x > 1, "greater than 1, or null for no protection"),
    ("variant", lambda x: x is None or re.fullmatch(_LABEL, x), "of letters, digits and ._-, or null"),
    ("gain.alpha", lambda x: 0 < x <= 1, "in (0, 1]"),
    ("gain.every", lambda x: x >= 1, "an integer ≥ 1"),
)
_ONE_OF = (
    ("gain.mode", ("adaptive", "off", "replay", "exact")),
    ("gain.phi", ("half_batch", "exact", "consecutive")),
    ("device", ("auto", "cpu", "cuda")),
    ("wandb.mode", ("offline", "online", "disabled")),
)


def check(cfg: Config) -> None:
    """Raise ValueError, naming key, value and valid values, where a setting is out of range by itself or beside
    another."""
    for key, is_valid, valid in _WITHIN:
        value = _get(cfg, key, absent=None)
        if (value is not None or key in ("data.n_train", "test_while_training")) and not is_valid(value):
            raise ValueError(f"{key}={value} is out of range: it must be {valid}")
    for key, valid in _ONE_OF:
        value = _get(cfg, key, absent=valid[0])
        if value not in valid:
            raise ValueError(f"{key}={value} is unknown: choose one of {', '.join(valid)}")
    unknown = [name for name in _get(cfg, "sampler.features", absent=[]) if name not in NAMES]
    if unknown:
        raise ValueError(f"sampler.features has {', '.join(unknown)}: choose from {', '.join(NAMES)}")
    if cfg.gain.mode == "exact" and cfg.sampler.name != "oracle":
        raise ValueError(
            f"gain.mode=exact needs sampler=oracle, not {cfg.sampler.name}: choose adaptive, off or replay"
        )
    if cfg.gain.mode == "replay" and not cfg.gain.record:
        raise ValueError("gain.mode=replay needs gain.record: the folder of a recorded run")


def check_against_data(cfg: Config, n: int) -> None:
    """Raise ValueError where settings do not fit the n training examples."""
    if cfg.batch_size > n:
        raise ValueError(f"batch_size={cfg.batch_size} is larger than the n={n} training examples of {cfg.data.name}")
    visits = _get(cfg, "sampler.visits", absent=None)
    if visits is not None and n + visits > cfg.epochs * n:
        raise ValueError(
            f"sampler.visits={visits} is more than is visited: the uncertainty set is first learned after "
            f"{n} + {visits} examples, the run ends after {cfg.epochs:g} epochs of {n}; it must be at most "
            f"{max(0, int((cfg.epochs - 1) * n))}"
        )


def arm(cfg: Config) -> str:
    """The name of the method and its control, e.g. `smoothed_0.1`, `rais_multiplier_off`, `uniform_rais_multiplier`."""
    name = cfg.sampler.name
    if name == "smoothed":
        name = f"smoothed_{cfg.sampler.delta:g}"
    if cfg.gain.mode == cfg.sampler.multiplier:
        return name
    return {"off": f"{name}_multiplier_off", "replay": f"{name}_rais_multiplier"}.get(
        cfg.gain.mode, f"{name}_multiplier_{cfg.gain.mode}"
    )


def scientific(cfg: Config, replayed: str | None = None) -> dict[str, Any]:
    """The settings that the numbers of a run depend on; `replayed` is the run_id of the replayed run, in place of
    its path."""
    settings = asdict(cfg)
    for key in ("runs", "device", "threads", "wandb", "variant"):
        del settings[key]
    for key in (
        "augment",
        "outliers",
        "trace",
        "test_while_training",
    ):  # younger than the first records: absent where they are off
        if not settings[key]:
            del settings[key]
    if cfg.data.name != "npz":  # there the path says which data they are
        del settings["data"]["path"]
    for option in fields(cfg.model):
        default = option.default if option.default_factory is DATACLASS_MISSING else option.default_factory()
        if option.name != "name" and settings["model"][option.name] == default:
            del settings["model"][option.name]
    if cfg.gain.mode != "adaptive":
        settings["gain"] = {"mode": cfg.gain.mode}
    if cfg.gain.mode == "replay":
        settings["gain"]["record"] = replayed
    return settings


def run_id(cfg: Config, replayed: str | None = None) -> str:
    """Ten hexadecimal digits: the SHA-256 of the scientific settings."""
    canonical = json.dumps(scientific(cfg, replayed), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def slug(text: str) -> str:
    """`text` as a folder name."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)


def _get(cfg: Any, key: str, absent: Any) -> Any:
    for part in key.split("."):
        if not hasattr(cfg, part):
            return absent
        cfg = getattr(cfg, part)
    return cfg
