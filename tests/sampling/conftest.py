"""A tiny problem with given gradients, one sampler of each kind on it, and a loop that feeds it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from rais.rng import generator
from rais.sampling import RAIS, Oracle, Sampler, Smoothed, Uniform


def _gradients(n: int) -> torch.Tensor:
    """(n, 4) float64 with norms from about 0.1 to 10."""
    source = torch.Generator().manual_seed(1)
    size = torch.logspace(-1, 1, n, dtype=torch.float64)[torch.randperm(n, generator=source)]
    return size[:, None] * torch.randn(n, 4, dtype=torch.float64, generator=source)


@pytest.fixture
def problem() -> SimpleNamespace:
    """`gradients` (n, 4) and `norms` (n,) of a problem of n = 7 examples."""
    gradients = _gradients(7)
    return SimpleNamespace(n=7, gradients=gradients, norms=gradients.norm(dim=1))


@pytest.fixture
def make() -> Callable[..., Sampler]:
    """make(kind, n, m, seed=0, **settings): a sampler; the oracle measures the problem's own norms."""

    def build(kind: str, n: int = 7, m: int = 3, seed: int = 0, **settings) -> Sampler:
        source = generator(seed, "sampling")
        if kind == "oracle":
            gradients = _gradients(n)
            return Oracle(
                n, m, generator=source, measure=lambda: (gradients.norm(dim=1), gradients.mean(0).square().sum())
            )
        if kind == "uniform":
            return Uniform(n, m, generator=source)
        if kind.startswith("smoothed"):
            return Smoothed(n, m, generator=source, delta=float(kind.removeprefix("smoothed_")))
        settings.setdefault("visits", 2 * m)
        settings.setdefault("refresh", 1)
        settings.setdefault("features", ("constant",) if kind == "rais_constant" else ("mean_1", "std_4", "constant"))
        return RAIS(n, m, generator=source, **settings)

    return build


@pytest.fixture
def play() -> Callable[..., list]:
    """play(sampler, steps, start=0, scale=1): draw and observe; returns the draws.

    The norm of example i at step t is a fixed function of (i, t), so two samplers that draw the same examples are told
    the same norms.
    """

    def norms_at(index: torch.Tensor, step: int) -> torch.Tensor:
        i = index.to(torch.float64)
        noise = torch.frac(torch.sin(12.9898 * i + 78.233 * step) * 43758.5453).abs()
        return (10 ** (2 * torch.frac(i * 0.618034) - 1) * (0.5 + noise)).to(torch.float32)

    def run(sampler: Sampler, steps: int, start: int = 0, scale: float = 1.0) -> list:
        draws = []
        for step in range(start, start + steps):
            draw = sampler.draw()
            draws.append(draw)
            sampler.observe(draw, scale * norms_at(draw.index, step))
        return draws

    run.norms_at = norms_at
    return run
