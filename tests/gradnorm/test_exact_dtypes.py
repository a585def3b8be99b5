"""Exact norms in half precision and under autocast, against a loop of torch's own gradients in the same dtype."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rais.gradnorm import PerExampleNorms, exact_norms

B = 5
HALF = [torch.bfloat16, torch.float16]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), labels, reduction="none")


class Scale(nn.Module):
    """Owns a parameter and has no formula, so that torch.func has to do it."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(0.5, 1.5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2), nn.BatchNorm2d(4).eval(),
        nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 5),
    )  # fmt: skip


def tokens() -> nn.Module:
    return nn.Sequential(nn.Flatten(2), nn.Linear(64, 16), nn.Tanh(), nn.Flatten(), nn.Linear(48, 5))


def without_formula() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5), Scale())


MODELS: list[Callable[[], nn.Module]] = [convolutions, tokens, without_formula]


def make(build: Callable[[], nn.Module], dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return build().to(dtype)


def data(dtype: torch.dtype, b: int = B) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(b, 3, 8, 8, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), torch.arange(b) % 5


def by_loop(model: nn.Module, inputs: Tensor, labels: Tensor, autocast: torch.dtype | None = None) -> Tensor:
    norms = []
    for x, y in zip(inputs.split(1), labels.split(1), strict=True):
        with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
            loss = cross_entropy(model(x), y).sum()
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norms.append(torch.cat([g.double().flatten() for g in gradients]).norm())
    return torch.stack(norms)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("build", MODELS)
def test_every_dtype(build: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    model, (inputs, labels) = make(build, dtype), data(dtype)
    expected = by_loop(model, inputs, labels)
    actual = exact_norms(model, cross_entropy, inputs, labels)
    assert actual.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(actual.double(), expected, rtol=TOLERANCE[dtype], atol=0)
    if build is not without_formula:
        with PerExampleNorms(model, "mean") as norms:
            cross_entropy(model(inputs), labels).mean().backward()
        torch.testing.assert_close(norms.squared().sqrt().double(), expected, rtol=TOLERANCE[dtype], atol=0)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("build", MODELS)
def test_autocast(build: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    model, (inputs, labels) = make(build, torch.float32), data(torch.float32)
    expected = by_loop(model, inputs, labels, dtype)
    with torch.autocast("cpu", dtype):
        actual = exact_norms(model, cross_entropy, inputs, labels)
    torch.testing.assert_close(actual.double(), expected, rtol=TOLERANCE[dtype], atol=0)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("backward_inside", [False, True])
@pytest.mark.parametrize("build", [convolutions, tokens])
def test_listening_under_autocast(build: Callable[[], nn.Module], dtype: torch.dtype, backward_inside: bool) -> None:
    model, (inputs, labels) = make(build, torch.float32), data(torch.float32)
    expected = by_loop(model, inputs, labels, dtype)
    plain = copy.deepcopy(model)
    with torch.autocast("cpu", dtype):
        loss = cross_entropy(plain(inputs), labels).mean()
    loss.backward()
    with PerExampleNorms(model, "mean") as norms:
        with torch.autocast("cpu", dtype):
            loss = cross_entropy(model(inputs), labels).mean()
            if backward_inside:
                loss.backward()
        if not backward_inside:
            loss.backward()
    torch.testing.assert_close(norms.squared().sqrt().double(), expected, rtol=TOLERANCE[dtype], atol=0)
    if not backward_inside:
        for p, q in zip(plain.parameters(), model.parameters(), strict=True):
            assert torch.equal(p.grad, q.grad)


def test_float16_squares_neither_vanish_nor_overflow() -> None:
    torch.manual_seed(0)
    model = nn.Linear(20, 5).half()
    model.bias.data[0] = 9.0
    inputs, labels = torch.randn(4, 20).half(), torch.zeros(4, dtype=torch.long)
    for x in (inputs, 200 * inputs):
        expected = by_loop(model, x, labels)
        torch.testing.assert_close(exact_norms(model, cross_entropy, x, labels).double(), expected, rtol=2e-3, atol=0)
        with PerExampleNorms(model, "mean") as norms:
            cross_entropy(model(x), labels).mean().backward()
        torch.testing.assert_close(norms.squared().sqrt().double(), expected, rtol=2e-3, atol=0)


@pytest.mark.parametrize("dtype", HALF)
def test_a_weight_used_twice_by_hand_under_autocast(dtype: torch.dtype) -> None:
    """Autocast casts the weight once for both uses, so the graph reads the parameter itself only once."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.inner(x).tanh(), self.inner.weight)

    model, inputs, labels = make(Tied, torch.float32), torch.randn(4, 5), torch.arange(4)
    with torch.autocast("cpu", dtype):
        actual = exact_norms(model, cross_entropy, inputs, labels)
    torch.testing.assert_close(actual.double(), by_loop(model, inputs, labels, dtype), rtol=TOLERANCE[dtype], atol=0)
