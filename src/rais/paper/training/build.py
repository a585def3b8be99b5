"""From settings to the objects of a run: the only place where a name in the configuration meets a class.

Each table maps a name to a function of what is already built. A new sampler, schedule or estimator is one line here
beside its own file.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rais import gain, rng, sampling
from rais.gain import pace as schedule
from rais.gradnorm import norms_and_gradient
from rais.loop.outliers import OutlierCap
from rais.paper import data, models
from rais.paper.data.augment import Augment
from rais.paper.records.find import read_multipliers
from rais.paper.settings.schema import Config
from rais.paper.training.diagnose import SideBySide
from rais.paper.training.evaluate import fixed_subset
from rais.sampling.side import Side

LOSS = partial(cross_entropy, reduction="none")
MEASURE_CHUNK = 500


@dataclass
class Parts:
    """What the loop works with, all on `device`."""

    data: data.Dataset
    test_while_training: data.Split
    model: nn.Module
    sampler: sampling.Sampler
    gain: gain.Adaptive | gain.Off
    schedule: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    measure: sampling.oracle.Measure
    augment: Callable[[Tensor, Tensor | None], Tensor]
    outliers: OutlierCap | None
    device: torch.device


def build(cfg: Config, dataset: data.Dataset, replayed: Path | None = None) -> Parts:
    """All parts of the run `cfg` on the data set's device. `replayed` is the folder of the run to be replayed, in
    replay mode."""
    device = dataset.train.labels.device
    channels, _, size = dataset.train.images.shape[1:]
    model = models.build(**asdict(cfg.model), channels=channels, classes=dataset.classes, size=size, seed=cfg.seed)
    model = model.to(device, memory_format=torch.channels_last)
    measure = partial(_measure, model, dataset)
    augment, side = build_augment(cfg, device)
    sampler = build_sampler(cfg, len(dataset.train), rng.generator(cfg.seed, "sampling", device), measure, side)
    return Parts(
        data=dataset,
        test_while_training=fixed_subset(dataset.test, cfg.test_while_training),
        model=model,
        sampler=sampler,
        gain=build_gain(cfg, model, sampler, replayed),
        schedule=build_schedule(cfg, sampler.n / sampler.m),
        optimizer=torch.optim.SGD(
            model.parameters(),
            lr=torch.zeros((), device=device),
            momentum=cfg.momentum,
            weight_decay=cfg.weight_decay,
            fused=True,
        ),
        measure=measure,
        augment=augment,
        outliers=OutlierCap(cfg.outliers, alpha=cfg.gain.alpha, device=device) if cfg.outliers else None,
        device=device,
    )


def device_of(cfg: Config) -> torch.device:
    """The device named by `cfg.device`; `auto` is the GPU where there is one.

    Raises:
        ValueError: cuda was asked for and there is none.
    """
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no GPU: use device=cpu or device=auto")
    has_gpu = cfg.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if has_gpu else "cpu")


def build_augment(cfg: Config, device: torch.device) -> tuple[Callable[[Tensor, Tensor | None], Tensor], Side | None]:
    """The augmentation of a batch, and the feature that its crops give to RAIS; nothing and None without."""
    a = cfg.augment
    if a is None:
        return lambda x, side: x, None
    generator = partial(rng.generator, cfg.seed, device=device)
    augment = Augment(crop=a.crop, flip=a.flip, rotate=a.rotate, generator=generator)
    return augment, Side(augment.sizes, augment.shares) if a.crop else None


def build_sampler(
    cfg: Config,
    n: int,
    generator: torch.Generator,
    measure: sampling.oracle.Measure,
    side: Side | None = None,
) -> sampling.Sampler:
    s, m = cfg.sampler, cfg.batch_size
    samplers = {
        "uniform": lambda: sampling.Uniform(n, m, generator=generator),
        "oracle": lambda: sampling.Oracle(n, m, measure=measure, generator=generator),
        "smoothed": lambda: sampling.Smoothed(n, m, delta=s.delta, generator=generator),
        "rais": lambda: sampling.RAIS(
            n, m, visits=s.visits, features=tuple(s.features), refresh=s.refresh, side=side, generator=generator
        ),
    }
    return _choose("sampler", s.name, samplers)


def build_schedule(cfg: Config, per_epoch: float) -> Callable[[Tensor], Tensor]:
    s = cfg.schedule
    schedules = {
        "inverse_sqrt": lambda: schedule.InverseSqrt(s.scale, s.offset),
        "exponential": lambda: schedule.Exponential(s.lr, s.decay, epoch=per_epoch),
    }
    return _choose("schedule", s.name, schedules)


def build_gain(
    cfg: Config, model: nn.Module, sampler: sampling.Sampler, replayed: Path | None
) -> gain.Adaptive | gain.Off:
    gains = {
        "off": lambda: gain.Off(device=sampler.device),
        "exact": lambda: gain.Exact(sampler),
        "replay": lambda: gain.Replay(*read_multipliers(replayed), device=sampler.device),
        "adaptive": lambda: gain.Adaptive(build_phi(cfg, model), alpha=cfg.gain.alpha),
    }
    return _choose("gain.mode", cfg.gain.mode, gains)


def build_phi(cfg: Config, model: nn.Module) -> gain.Phi:
    """The φ estimator; in a diagnostic run all of them side by side, the chosen one in charge.

    Raises:
        ValueError: an unknown name, or `exact` for a model with batch normalisation, which has no exact norms.
    """
    g, settings = cfg.gain, {"m": cfg.batch_size, "alpha": cfg.gain.alpha}
    parameters = list(model.parameters())
    halves = gain.HalfBatch if cfg.diagnose else gain.FromParts  # the loop hands halves in; beside others they are made
    estimators = {
        "half_batch": lambda: halves(parameters, every=g.every, **settings),
        "exact": lambda: gain.ExactScale(parameters, every=g.every, model=model, loss=LOSS, **settings),
        "consecutive": lambda: gain.Consecutive(parameters, **settings),
    }
    if any(isinstance(module, nn.BatchNorm2d) for module in model.modules()):
        del estimators["exact"]
        if g.phi == "exact":
            raise ValueError("gain.phi=exact cannot be had with batch normalisation: choose half_batch or consecutive")
    if cfg.diagnose:
        return SideBySide({name: make() for name, make in estimators.items()}, active=g.phi)
    return _choose("gain.phi", g.phi, estimators)


def _choose(key: str, name: str, makers: dict[str, Callable]) -> object:
    if name not in makers:
        raise ValueError(f"{key}={name} is unknown: choose one of {', '.join(makers)}")
    return makers[name]()


def _measure(model: nn.Module, dataset: data.Dataset) -> tuple[Tensor, Tensor]:
    """Exact norms (n,) of the training set and ‖∇F‖² (), at the current parameters.

    Batch normalisation gives an example no gradient of its own, so its statistics are frozen at their running values,
    and with them dropout and augmentation: these are the norms of the model as it is evaluated [ours].
    """
    split = dataset.train
    was_training = model.training
    model.eval()
    index = torch.arange(len(split), device=split.labels.device)
    chunks = math.ceil(len(split) / MEASURE_CHUNK)
    norms, gradient = norms_and_gradient(model, LOSS, (split.batch(i) for i in index.chunk(chunks)))
    model.train(was_training)
    return norms, gain.inner(gradient, gradient)
