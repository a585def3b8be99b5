"""Compiled loops against the tensor operations that they replace, and the package without numba."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from rais import RAIS, compiled
from rais.gain import Adaptive, FromParts, Minibatch
from rais.gradnorm import softmax_cross_entropy_norm
from rais.rng import generator
from rais.sampling.base import mean_of_repeats
from rais.sampling.categorical import Categorical
from rais.sampling.draw import Draw
from rais.sampling.features import NAMES, Features

pytestmark = pytest.mark.skipif(compiled.numba is None, reason="numba is not installed: there is nothing to compare")


@pytest.fixture
def by_tensors(monkeypatch):
    """Calls a function without the compiled loops."""

    def call(function):
        with monkeypatch.context() as patch:
            patch.setattr(compiled, "serves", lambda device: False)
            return function()

    return call


@pytest.fixture
def source() -> torch.Generator:
    return generator(0, "evaluation")


@pytest.mark.parametrize("n", [1, 70, 4096, 9000])
def test_the_tree(n: int, source, by_tensors) -> None:
    weight = torch.randn(n, generator=source).exp() * (torch.rand(n, generator=source) < 0.7)
    weight[n // 2] = 1.0

    def play() -> tuple[Categorical, list[Tensor]]:
        own, tree, drawn = generator(1, "sampling"), Categorical(n), []
        tree.set_all(weight)
        for _ in range(20):
            index = tree.sample(50, own)
            drawn.append(index)
            changed = index.unique()
            tree.set(changed, weight[changed] * (1 + changed % 3))
        return tree, drawn

    (tree, drawn), (expected, as_drawn) = play(), by_tensors(play)
    assert all(torch.equal(a, b) for a, b in zip(drawn, as_drawn, strict=True))
    for name, table in expected.tables().items():
        torch.testing.assert_close(tree.tables()[name], table, rtol=1e-12, atol=0)


def test_a_draw_past_all_weights_takes_the_last_that_has_one() -> None:
    from rais.sampling import loops

    weights = torch.zeros(128).numpy()
    weights[64 + 3] = 1.0
    assert loops._child(weights, 1, 1.0) == 64 + 3  # rounding made the target as large as the sum


@pytest.mark.parametrize("side", [None, 0.25])
@pytest.mark.parametrize("names", [NAMES, ("constant", "std_8", "mean_2")])
def test_features(names, side, source, by_tensors) -> None:
    visits = [(torch.randperm(40, generator=source)[:25], torch.rand(25, generator=source) + 1) for _ in range(30)]

    def play() -> list[Tensor]:
        features, seen = Features(40, names=names, side=side), []
        for k, (index, norm) in enumerate(visits):
            seen += features.update(index, norm.double())
            if k == 10:
                list(features.turn(17))
        return [*seen, features.past, features.count, features.total, features.next_total]

    for own, expected in zip(play(), by_tensors(play), strict=True):
        torch.testing.assert_close(own, expected, rtol=2e-5, atol=2e-6)


def test_means_of_repeats(source, by_tensors) -> None:
    index, value = torch.randint(30, (100,), generator=source), torch.rand(100, generator=source)
    own = mean_of_repeats(index, value)
    expected = by_tensors(lambda: mean_of_repeats(index, value))
    assert torch.equal(own[0], expected[0].unique()) and len(expected[0]) == 100, "tensors keep the repeats"
    for ascending, where, mean in (own, expected):
        assert torch.equal(ascending[where], index)
        assert torch.equal(mean[where], own[2][own[1]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_norms_of_labels(dtype: torch.dtype, source, by_tensors) -> None:
    logits = (30 * torch.randn(50, 7, generator=source)).to(dtype)
    logits[0, 1], logits[1, 1] = float("inf"), float("nan")
    target = torch.randint(7, (50,), generator=source)
    target[3] = -100
    own = softmax_cross_entropy_norm(logits, target)
    expected = by_tensors(lambda: softmax_cross_entropy_norm(logits, target))
    assert own.dtype == expected.dtype and not own[:2].isfinite().any()
    torch.testing.assert_close(own[2:], expected[2:], rtol=1e-6, atol=0)


def test_the_gain_ratio(source, by_tensors) -> None:
    batches = []
    for k in range(60):
        norm, weight = torch.rand(8, generator=source).exp(), torch.rand(8, generator=source) + 0.5
        if k == 20:
            norm[0] = float("inf")
        batches.append(Minibatch(Draw(torch.arange(8), weight, mean_norm=1.5), norm, weight * norm))

    def play() -> Tensor:
        gain = Adaptive(FromParts([torch.zeros(2, requires_grad=True)], m=8), alpha=0.05)
        return torch.stack([gain.update(batch) for batch in batches])

    torch.testing.assert_close(play(), by_tensors(play), rtol=1e-12, atol=0)


@pytest.mark.parametrize("draws", ["independent", "spaced"])
def test_a_run_of_rais(draws: str, by_tensors) -> None:
    """Features in float32 and in float64 differ by rounding; draws agree until that decides one of them."""

    def play() -> tuple[Tensor, Tensor]:
        sampler, drawn = RAIS(400, 16, seed=0, visits=200, draws=draws), []
        for step in range(60):
            draw = sampler.draw()
            drawn.append(draw.index)
            sampler.observe(draw, 0.1 + torch.frac(draw.index * 0.37 + step * 0.11).float())
        return torch.cat(drawn), sampler.probabilities()

    (drawn, p), (as_drawn, expected) = play(), by_tensors(play)
    assert torch.equal(drawn, as_drawn)
    torch.testing.assert_close(p, expected, rtol=1e-4, atol=0)


def test_without_numba_the_package_works() -> None:
    code = """
import sys
sys.modules["numba"] = None
import torch
from rais import RAIS, compiled
from rais.gradnorm import softmax_cross_entropy_norm
assert compiled.numba is None and not compiled.serves(torch.device("cpu"))
sampler = RAIS(200, 10, seed=0)
for _ in range(40):
    draw = sampler.draw()
    sampler.observe(draw, softmax_cross_entropy_norm(torch.randn(10, 3), torch.zeros(10, dtype=torch.int64)))
print(sampler.has_learned)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr
