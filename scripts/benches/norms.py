"""Exact per-example gradient norms of a whole minibatch, against the libraries that offer them.

The floor is the forward and backward that training needs anyway. Every contender gives the same numbers, which is
checked before anything is timed.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benches.timing import Row, in_turns
from rais import rng
from rais.gradnorm import PerExampleNorms
from rais.paper import models

FLOOR, FASTER = 1.3, 1 / 1.5
PLAIN = "forward + backward"
MODELS = {"lenet5": (1, 28), "small_cnn": (3, 32)}


@dataclass(frozen=True)
class Case:
    """One model and minibatch size, and every way to its norms by name: ours, PLAIN as the floor, the rivals."""

    name: str
    m: int
    contenders: dict[str, Callable[[], Tensor | None]]


def cases(quick: bool) -> Iterator[Case]:
    """All cases, their contenders' numbers checked; in miniature the smallest ones, without rivals."""
    for name, (channels, size) in MODELS.items():
        for m in (32,) if quick else (32, 128, 1000):
            g = rng.generator(0, "evaluation")
            x, y = torch.rand(m, channels, size, size, generator=g), torch.randint(10, (m,), generator=g)
            make = partial(models.build, name=name, channels=channels, classes=10, size=size, seed=0)
            contenders = {"ours": _ours(make(), x, y), PLAIN: _plain(make(), x, y)}
            if not quick:
                contenders |= _rivals(make, x, y)
            _check(contenders)
            yield Case(f"{name}, m = {m}", m, contenders)


def rows(quick: bool) -> Iterator[Row]:
    """Ours against each rival, by model and minibatch size."""
    for case in cases(quick):
        seconds = in_turns(case.contenders, rounds=3 if quick else max(4, 1500 // case.m))
        rivals = [name for name in case.contenders if name not in ("ours", PLAIN)]
        best = min(rivals, key=lambda name: float(np.median(seconds[name]))) if rivals else None
        yield Row("exact norms", case.name, seconds["ours"], PLAIN, seconds[PLAIN], FLOOR)
        for name in rivals:
            yield Row("exact norms", case.name, seconds["ours"], name, seconds[name], FASTER if name == best else None)


def _check(contenders: dict[str, Callable[[], Tensor | None]]) -> None:
    truth = contenders["ours"]()
    for name, function in contenders.items():
        squared = function()
        if squared is not None and not torch.allclose(squared, truth, rtol=1e-3):
            raise AssertionError(f"{name} gives other norms than ours")


def _ours(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with PerExampleNorms(model, reduction="mean") as norms:
            cross_entropy(model(x), y).backward()
        model.zero_grad(set_to_none=True)
        return norms.squared()

    return run


def _plain(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    def run() -> None:
        cross_entropy(model(x), y).backward()
        model.zero_grad(set_to_none=True)

    return run


def _rivals(make: Callable[[], nn.Module], x: Tensor, y: Tensor) -> dict[str, Callable[[], Tensor]]:
    found: dict[str, Callable[[], Tensor]] = {"torch.func vmap(grad)": _vmap(make(), x, y)}
    warnings.filterwarnings("ignore", module="opacus|backpack|torch")
    if importlib.util.find_spec("opacus"):
        found |= {"opacus ghost norms": _ghost(make(), x, y), "opacus hooks": _hooks(make(), x, y)}
    if importlib.util.find_spec("backpack"):
        found["BackPACK BatchL2Grad"] = _backpack(make(), x, y)
    return found


def _vmap(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), y[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    return lambda: torch.stack([g.flatten(1).square().sum(1) for g in each(parameters, x, y).values()]).sum(0)


def _ghost(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        model, max_grad_norm=1.0, use_ghost_clipping=True, loss_reduction="mean"
    )

    def run() -> Tensor:
        cross_entropy(wrapped(x), y).backward()
        norms = wrapped.get_norm_sample()
        wrapped.zero_grad(set_to_none=True)
        return norms.square()

    return run


def _hooks(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    from opacus import GradSampleModule

    wrapped = GradSampleModule(model, loss_reduction="mean")

    def run() -> Tensor:
        cross_entropy(wrapped(x), y).backward()
        squared = torch.stack([p.grad_sample.flatten(1).square().sum(1) for p in wrapped.parameters()]).sum(0)
        wrapped.zero_grad(set_to_none=True)
        for p in wrapped.parameters():
            p.grad_sample = None
        return squared

    return run


def _backpack(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    from backpack import backpack, extend
    from backpack.extensions import BatchL2Grad

    extended, loss = extend(_in_sequence(model)), extend(nn.CrossEntropyLoss())

    def run() -> Tensor:
        with backpack(BatchL2Grad()):
            loss(extended(x), y).backward()
        squared = torch.stack([p.batch_l2 for p in extended.parameters()]).sum(0) * len(x) ** 2
        extended.zero_grad(set_to_none=True)
        return squared

    return run


def _in_sequence(model: nn.Module) -> nn.Sequential:
    """The same layers as a chain of modules, the only form that BackPACK takes."""
    steps: list[nn.Module] = []
    for layer in model.children():
        if isinstance(layer, nn.Conv2d):
            steps += [layer, nn.ReLU(), nn.MaxPool2d(2)]
        elif isinstance(layer, nn.Linear):
            steps += (
                [layer, nn.ReLU()] if any(isinstance(s, nn.Linear) for s in steps) else [nn.Flatten(), layer, nn.ReLU()]
            )
    return nn.Sequential(*steps[:-1])
