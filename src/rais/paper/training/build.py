"""From settings to the objects of a run: each settings class builds its own object, and here they meet.

The data set tells the sizes, the sampler and the model what the gain ratio needs, and a run without one cure of RAIS's
recipe gets the classes of ablation.py.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rais import gain, rng
from rais.gradnorm import norms_and_gradient
from rais.loop.outliers import OutlierCap
from rais.paper import data
from rais.paper.records.find import read_multipliers
from rais.paper.settings.groups import phis_of
from rais.paper.settings.schema import Config
from rais.paper.training import ablation
from rais.paper.training.diagnose import SideBySide
from rais.paper.training.evaluate import fixed_subset
from rais.paper.training.parts import Parts

LOSS = partial(cross_entropy, reduction="none")
MEASURE_CHUNK = 500


def build(cfg: Config, dataset: data.Dataset, replayed: Path | None = None) -> Parts:
    """All parts of the run `cfg` on the data set's device. `replayed` is the folder of the run to be replayed, in
    replay mode."""
    device, n, m = dataset.train.labels.device, len(dataset.train), cfg.batch_size
    channels, _, size = dataset.train.images.shape[1:]
    model = cfg.model.build(channels=channels, classes=dataset.classes, size=size, seed=cfg.seed)
    model = model.to(device, memory_format=torch.channels_last)
    measure = partial(_measure, model, dataset)
    augment, side = cfg.augment.build(cfg.seed, device)
    generator = rng.generator(cfg.seed, "sampling", device)
    kind = ablation.SAMPLERS.get(cfg.without)
    sampler = cfg.sampler.build(n, m, generator, measure=measure, side=side, kind=kind)
    ratio = cfg.gain.build(
        sampler,
        phi=partial(build_phi, cfg, model),
        replayed=partial(read_multipliers, replayed),
        kind=gain.Root if cfg.gain.mode == "root" else ablation.GAINS.get(cfg.without, gain.Adaptive),
    )
    return Parts(
        data=dataset,
        test_while_training=fixed_subset(dataset.test, cfg.test_while_training),
        model=model,
        sampler=sampler,
        gain=ratio,
        schedule=cfg.schedule.build(per_epoch=n / m),
        optimizer=build_optimizer(cfg, model, device),
        measure=measure,
        augment=augment,
        outliers=OutlierCap(cfg.outliers, alpha=cfg.gain.alpha, device=device) if cfg.outliers else None,
        device=device,
    )


def build_optimizer(cfg: Config, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """Its learning rate is set by the engine before every step."""
    settings = {"lr": torch.zeros((), device=device), "weight_decay": cfg.weight_decay, "fused": True}
    if cfg.optimizer == "adamw":
        return torch.optim.AdamW(model.parameters(), **settings)
    return torch.optim.SGD(model.parameters(), momentum=cfg.momentum, **settings)


def device_of(cfg: Config) -> torch.device:
    """The device named by `cfg.device`; `auto` is the GPU where there is one.

    Raises:
        ValueError: cuda was asked for and there is none.
    """
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no GPU: use device=cpu or device=auto")
    has_gpu = cfg.device != "cpu" and torch.cuda.is_available()
    return torch.device("cuda" if has_gpu else "cpu")


def build_phi(cfg: Config, model: nn.Module) -> gain.Phi:
    """The φ estimator; in a diagnostic run all that the model can have side by side, the chosen one in charge.

    The halves of `half_batch` are worked off by the loop as parts, except beside others, which need the whole.
    """
    if cfg.diagnose:
        made = {name: cfg.gain.build_phi(name, model, LOSS, cfg.batch_size) for name in phis_of(model)}
        return SideBySide(made, active=cfg.gain.phi)
    name = "parts" if cfg.gain.phi == "half_batch" else cfg.gain.phi
    return cfg.gain.build_phi(name, model, LOSS, cfg.batch_size)


def _measure(model: nn.Module, dataset: data.Dataset) -> tuple[Tensor, Tensor]:
    """Exact norms (n,) of the training set and ‖∇F‖² (), at the current parameters.

    Batch normalisation gives no example a gradient that is free of the others. So its statistics are frozen at their
    running values, and with them dropout and augmentation: these are the norms of the model as it is evaluated [ours].
    """
    split = dataset.train
    was_training = model.training
    model.eval()
    index = torch.arange(len(split), device=split.labels.device)
    chunks = math.ceil(len(split) / MEASURE_CHUNK)
    norms, gradient = norms_and_gradient(model, LOSS, (split.batch(i) for i in index.chunk(chunks)))
    model.train(was_training)
    return norms, gain.inner(gradient, gradient)
