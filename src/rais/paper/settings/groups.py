"""The settings of a run's parts: a class for each choice, ranges beside its fields, `build` beside its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, List, Optional  # noqa: UP035  OmegaConf reads these forms on Python 3.10

import torch
from torch import Tensor, nn

from rais import gain, rng, sampling
from rais.paper import data, models
from rais.paper.data.augment import Augment
from rais.paper.settings.fields import (
    COUNT,
    COUNTS,
    POSITIVE,
    SHARE,
    SHARE_ABOVE_ZERO,
    SHARE_BELOW_ONE,
    Range,
    Settings,
    one_of,
    or_null,
    setting,
)
from rais.sampling.features import NAMES
from rais.sampling.side import Side

PHIS = ("half_batch", "exact", "consecutive")


@dataclass
class DataConfig(Settings):
    """`path` takes the place of RAIS_DATA; `n_train` takes the first training examples only."""

    group = "data"
    name: str = setting(within=one_of(*sorted(data.DATA_SETS)))
    path: Optional[str] = setting(None, scientific=False)  # noqa: UP045
    n_train: Optional[int] = setting(None, within=or_null(COUNT, "all"))  # noqa: UP045

    def describe(self) -> data.Description:
        """What can be known without decoding anything. Raises ValueError where there are fewer examples."""
        return data.describe(self.name, path=self.path, n_train=self.n_train)

    def build(self, device: torch.device) -> data.Dataset:
        return data.load(self.name, path=self.path, n_train=self.n_train, device=device)


@dataclass
class ModelConfig(Settings):
    """Fields beside `name` are options of that model."""

    group = "model"
    name: str = setting(within=one_of(*sorted(models.MODELS)))

    def build(self, *, channels: int, classes: int, size: int, seed: int) -> nn.Module:
        return models.build(**asdict(self), channels=channels, classes=classes, size=size, seed=seed)

    def on_paper(self, *, channels: int, classes: int, size: int) -> nn.Module:
        """The model without numbers. Raises ValueError where it does not take such images."""
        return models.on_paper(**asdict(self), channels=channels, classes=classes, size=size)


@dataclass
class LeNet5Config(ModelConfig):
    name: str = setting("lenet5", fixed=True)
    dropout: float = setting(0.0, within=SHARE_BELOW_ONE, absent_at_default=True)
    batch_norm: bool = setting(False, absent_at_default=True)


@dataclass
class Z2CNNConfig(ModelConfig):
    name: str = setting("z2cnn", fixed=True)
    dropout: float = setting(within=SHARE_BELOW_ONE)
    batch_norm: bool = setting()


@dataclass
class PreActResNetConfig(ModelConfig):
    name: str = setting("preact_resnet", fixed=True)
    widths: List[int] = setting([64, 128, 256, 512], within=COUNTS, absent_at_default=True)  # noqa: UP006
    blocks: int = setting(2, within=COUNT, absent_at_default=True)


@dataclass
class SmallCNNConfig(ModelConfig):
    name: str = setting("small_cnn", fixed=True)
    maps: List[int] = setting([32, 64, 128], within=COUNTS, absent_at_default=True)  # noqa: UP006
    hidden: int = setting(256, within=COUNT, absent_at_default=True)


@dataclass
class ScheduleConfig(Settings):
    """lr_sched(t̂), see gain/pace.py, times `multiple`."""

    group = "schedule"
    name: str = setting()
    multiple: float = setting(1.0, within=POSITIVE, absent_at_default=True)


@dataclass
class InverseSqrtConfig(ScheduleConfig):
    name: str = setting("inverse_sqrt", fixed=True)
    scale: float = setting(within=POSITIVE)
    offset: float = setting(within=POSITIVE)

    def build(self, per_epoch: float) -> gain.InverseSqrt:
        return gain.InverseSqrt(self.multiple * self.scale, self.offset)


@dataclass
class ExponentialConfig(ScheduleConfig):
    name: str = setting("exponential", fixed=True)
    lr: float = setting(within=POSITIVE)
    decay: float = setting(within=SHARE_ABOVE_ZERO)

    def build(self, per_epoch: float) -> gain.Exponential:
        return gain.Exponential(self.multiple * self.lr, self.decay, epoch=per_epoch)


@dataclass
class SamplerConfig(Settings):
    """`multiplier` is the gain mode that belongs to the method; `gain.mode` follows it unless it is set."""

    group = "sampler"
    name: str = setting()
    multiplier: str = setting(scientific=False)

    @property
    def arm(self) -> str:
        """The method's name in records."""
        return self.name

    def check_budget(self, n: int, m: int, epochs: float) -> None:
        """Raise ValueError where the method would not come to work within `epochs` of n examples."""


@dataclass
class UniformConfig(SamplerConfig):
    name: str = setting("uniform", fixed=True)
    multiplier: str = setting("off", fixed=True, scientific=False)
    replacement: bool = setting(False, absent_at_default=True)

    @property
    def arm(self) -> str:
        return "uniform_with_replacement" if self.replacement else "uniform"

    def build(self, n: int, m: int, generator: torch.Generator, **_: Any) -> sampling.Uniform:
        return sampling.Uniform(n, m, generator=generator, replacement=self.replacement)


@dataclass
class OracleConfig(SamplerConfig):
    name: str = setting("oracle", fixed=True)
    multiplier: str = setting("exact", fixed=True, scientific=False)

    def build(self, n: int, m: int, generator: torch.Generator, *, measure: Callable, **_: Any) -> sampling.Oracle:
        return sampling.Oracle(n, m, measure=measure, generator=generator)


@dataclass
class SmoothedConfig(SamplerConfig):
    name: str = setting("smoothed", fixed=True)
    multiplier: str = setting("adaptive", fixed=True, scientific=False)
    delta: float = setting(within=SHARE)

    @property
    def arm(self) -> str:
        return f"smoothed_{self.delta:g}"

    def build(self, n: int, m: int, generator: torch.Generator, **_: Any) -> sampling.Smoothed:
        return sampling.Smoothed(n, m, delta=self.delta, generator=generator)


@dataclass
class RAISConfig(SamplerConfig):
    """See sampling/rais.py."""

    name: str = setting("rais", fixed=True)
    multiplier: str = setting("adaptive", fixed=True, scientific=False)
    visits: Optional[int] = setting(None, within=or_null(COUNT, "n/2, at most 20 000"))  # noqa: UP045
    refresh: int = setting(within=COUNT)
    features: List[str] = setting(  # noqa: UP006
        list(NAMES),
        within=Range(
            lambda x: "constant" in x and set(x) <= set(NAMES) and len(set(x)) == len(x),
            f"a list of constant and others, each once, of {', '.join(NAMES)}",
        ),
    )
    draws: str = setting("independent", within=one_of("independent", "spaced"), absent_at_default=True)

    @property
    def arm(self) -> str:
        return "rais" if self.draws == "independent" else f"rais_{self.draws}"

    def build(
        self, n: int, m: int, generator: torch.Generator, *, side: Side | None = None, kind: Any = None, **_: Any
    ) -> sampling.RAIS:
        """`kind` takes the place of sampling.RAIS in the ablation."""
        return (kind or sampling.RAIS)(
            n,
            m,
            visits=self.visits,
            features=tuple(self.features),
            refresh=self.refresh,
            side=side,
            draws=self.draws,
            generator=generator,
        )

    def check_budget(self, n: int, m: int, epochs: float) -> None:
        visits = max(m, min(sampling.rais.VISITS, n // 2)) if self.visits is None else self.visits
        if visits < m:
            raise ValueError(
                f"sampler.visits={visits} is less than a minibatch: it must be at least {m}, the batch_size"
            )
        first = n + -(-visits // sampling.rais.SOLVES_PER_WINDOW)
        if first >= epochs * n:
            raise ValueError(
                f"epochs={epochs:g} is too short for sampler=rais: the uncertainty set is first learned after {first} "
                f"examples, an epoch is {n}; give epochs > {first / n:.3g}, or fewer sampler.visits than {visits}"
            )


@dataclass
class GainConfig(Settings):
    """`record` (replay only): a run's folder, or a pattern that matches exactly one."""

    group = "gain"
    mode: str = setting(within=one_of("adaptive", "root", "off", "replay", "exact"))
    phi: str = setting(within=one_of(*PHIS))
    alpha: float = setting(within=SHARE_ABOVE_ZERO)
    every: int = setting(within=COUNT)
    record: Optional[str] = setting(None)  # noqa: UP045

    @property
    def is_estimated(self) -> bool:
        return self.mode in ("adaptive", "root")

    def build(
        self,
        sampler: sampling.Sampler,
        phi: Callable[[], gain.Phi],
        replayed: Callable[[], tuple[Sequence[int], Sequence[float]]],
        kind: type[gain.Adaptive] = gain.Adaptive,
    ) -> gain.GainRatio:
        """The gain ratio of this mode; `kind` takes the place of gain.Adaptive in the ablation, and for √r."""
        makers: dict[str, Callable[[], gain.GainRatio]] = {
            "off": lambda: gain.Off(device=sampler.device),
            "exact": lambda: gain.Exact(sampler),
            "replay": lambda: gain.Replay(*replayed(), device=sampler.device),
            "adaptive": lambda: kind(phi(), alpha=self.alpha),
            "root": lambda: kind(phi(), alpha=self.alpha),
        }
        return makers[self.mode]()

    def build_phi(self, name: str, model: nn.Module, loss: Callable, m: int) -> gain.Phi:
        """The φ estimator `name`, `self.phi` or another."""
        settings = {"m": m, "alpha": self.alpha}
        makers: dict[str, Callable[[], gain.Phi]] = {
            "half_batch": lambda: gain.HalfBatch(model.parameters(), every=self.every, **settings),
            "parts": lambda: gain.FromParts(model.parameters(), every=self.every, **settings),
            "exact": lambda: gain.ExactScale(model.parameters(), every=self.every, model=model, loss=loss, **settings),
            "consecutive": lambda: gain.Consecutive(model.parameters(), **settings),
        }
        return makers[name]()


def phis_of(model: nn.Module) -> tuple[str, ...]:
    """The φ estimators that a model can have: with batch normalisation there are no exact norms."""
    has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    return tuple(name for name in PHIS if not (has_batch_norm and name == "exact"))


@dataclass
class AugmentConfig(Settings):
    """See data/augment.py: `crop` pixels of padding, `flip` left and right, `rotate` degrees either way."""

    group = "augment"
    crop: int = setting(0, within=Range(lambda x: x >= 0, "an integer ≥ 0"), absent_at_default=True)
    flip: bool = setting(False, absent_at_default=True)
    rotate: float = setting(0.0, within=Range(lambda x: 0 <= x <= 180, "in [0, 180] degrees"), absent_at_default=True)

    def build(self, seed: int, device: torch.device) -> tuple[Callable[[Tensor, Tensor | None], Tensor], Side | None]:
        """The augmentation of a batch, and the feature that its crops give to RAIS."""
        if self == AugmentConfig():
            return lambda x, side: x, None
        augment = Augment(**asdict(self), generator=partial(rng.generator, seed, device=device))
        return augment, Side(augment.sizes, augment.shares) if self.crop else None


@dataclass
class WandbConfig(Settings):
    group = "wandb"
    mode: str = setting("offline", within=one_of("offline", "online", "disabled"))
    project: str = setting("rais")
