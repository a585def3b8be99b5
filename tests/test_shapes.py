"""The shapes in the library's signatures: true of a call that is right, and broken by one that is wrong.

They are jaxtyping annotations that only a type checker imports, so that the library needs no jaxtyping to run. Here
each function that has them is called under a checker: once with tensors that fit, once with some that do not.
"""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

jaxtyping = pytest.importorskip("jaxtyping")
beartype = pytest.importorskip("beartype")

SOURCE = Path(__file__).resolve().parents[1] / "src"
PARTS = ("rng.py", "batch_norm/*.py", "sampling/*.py", "gradnorm/*.py", "gain/*.py", "loop/*.py")

Call = tuple[tuple[Any, ...], dict[str, Any]]


def with_shapes() -> dict[str, tuple[types.ModuleType, types.FunctionType]]:
    """Every function and method of the library with a shape in its signature, by its dotted name."""
    found = {}
    for path in sorted(path for part in PARTS for path in (SOURCE / "rais").glob(part)):
        module = importlib.import_module(".".join(path.relative_to(SOURCE).with_suffix("").parts))
        classes = [each for each in vars(module).values() if inspect.isclass(each)]
        for holder in (module, *classes):
            for function in vars(holder).values():
                hints = getattr(function, "__annotations__", {})
                if isinstance(function, types.FunctionType) and function.__module__ == module.__name__:
                    if any("[Tensor, '" in str(hint) for hint in hints.values()):
                        found[f"{module.__name__}.{function.__qualname__}".removeprefix("rais.")] = module, function
    return found


def checked(module: types.ModuleType, function: types.FunctionType) -> Callable[..., Any]:
    """`function`, which refuses arguments and results of other shapes than its signature says."""
    names = {**vars(jaxtyping), **vars(module)}
    copy = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__annotations__ = typing.get_type_hints(function, globalns=names)
    return jaxtyping.jaxtyped(typechecker=beartype.beartype)(copy)


def call(*arguments: Any, **named: Any) -> Call:
    return arguments, named


def vector(size: int, **settings: Any) -> Tensor:
    return torch.linspace(0.5, 1.5, size, **settings)


def labels(size: int) -> Tensor:
    return torch.arange(size) % 3


def losses(z: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(z, y, reduction="none")


def examples() -> dict[str, tuple[Call, Call]]:
    """By the name of a function with shapes: a call that is right, and one that is wrong in a shape alone."""
    from rais import RAIS, Engine, gain, rng
    from rais.batch_norm import Weighted
    from rais.loop.outliers import OutlierCap
    from rais.sampling import Draw
    from rais.sampling.categorical import Categorical

    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    layer = nn.Linear(3, 3)
    draw = Draw(torch.arange(4), vector(4), mean_norm=1.0)
    batch = gain.Minibatch(draw, vector(4), vector(4))
    phi = gain.FromParts(layer.parameters(), m=4)
    whole = torch.tensor(1.0)
    wide = vector(3, dtype=torch.float64)
    hand = Draw(torch.arange(4), vector(4))
    sampler, tree, source = RAIS(9, 4, seed=0), Categorical(9), rng.generator(0, "sampling")
    tree.set_all(vector(9))
    engine, other = (Engine(torch.optim.SGD(layer.parameters(), lr=0.1), RAIS(9, 4, seed=0)) for _ in range(2))
    drawn = engine.draw()
    return {
        "batch_norm.weights.Weighted.__call__": (
            call(Weighted(layer), z, vector(4)),
            call(Weighted(layer), z, vector(4)[:, None]),
        ),
        "gain.moments.exact_moments": (
            call(vector(5), vector(5), whole, 2),
            call(vector(5), vector(4), whole, 2),
        ),
        "gain.moments.minibatch_moments": (call(batch), call(None)),
        "gain.phi.FromParts.update_from_parts": (
            call(phi, [2, 2], vector(2), whole, 1.0),
            call(phi, [2, 2], vector(2), vector(1), 1.0),
        ),
        "gain.phi.full_gradient_sq": (call([2, 2], vector(2), whole), call([2, 2], whole, whole)),
        "gain.ratio.Adaptive.update": (call(gain.Adaptive(phi), batch), call(gain.Adaptive(phi), None)),
        "gradnorm.exact.exact_norms": (
            call(layer, losses, z.detach(), labels(4)),
            call(layer, losses, z.detach(), labels(3)),
        ),
        "gradnorm.exact.norms_and_gradient": (call(layer, losses, [(z.detach(), labels(4))]), call(None, losses, [])),
        "gradnorm.loss_layer.softmax_cross_entropy_norm": (call(z, labels(4)), call(z, labels(3))),
        "loop.engine.Engine.backward": (
            call(engine, drawn, losses(z, labels(4)), z),
            call(engine, drawn, losses(z, labels(4)).mean(), z),
        ),
        "loop.engine.Engine.loss": (
            call(other, drawn, losses(z, labels(4)), z),
            call(other, drawn, losses(z, labels(4)).mean(), z),
        ),
        "loop.outliers.OutlierCap.__call__": (
            call(OutlierCap(2.0), vector(4), vector(4)),
            call(OutlierCap(2.0), vector(4), vector(3)),
        ),
        "sampling.base.Sampler.observe": (call(sampler, hand, vector(4)), call(sampler, hand, vector(4)[:, None])),
        "sampling.base.Sampler.weight": (call(sampler, labels(4)), call(sampler, vector(4))),
        "sampling.base.is_first": (call(labels(4)), call(vector(4))),
        "sampling.base.mean_of_repeats": (call(labels(4), vector(4)), call(labels(4), vector(3))),
        "sampling.categorical.Categorical.sample": (call(tree, 3, source), call(tree, "3", source)),
        "sampling.categorical.Categorical.set": (
            call(tree, torch.arange(3), vector(3)),
            call(tree, torch.arange(3), vector(2)),
        ),
        "sampling.categorical.Categorical.set_all": (call(tree, vector(9)), call(tree, vector(9)[None])),
        "sampling.categorical.Categorical.weight": (call(tree, labels(4)), call(tree, vector(4))),
        "sampling.rais.RAIS.weight": (call(sampler, labels(4)), call(sampler, vector(4))),
        "sampling.robust.inverse_radius": (call(wide, wide), call(wide, vector(4, dtype=torch.float64))),
        "sampling.robust.robust_norms": (
            call(vector(6).view(2, 3), wide, wide, wide[0]),
            call(vector(8).view(2, 4), wide, wide, wide[0]),
        ),
        "sampling.uncertainty.learn": (
            call(vector(6).view(2, 3), vector(2), vector(2), wide),
            call(vector(6).view(2, 3), vector(3), vector(2), wide),
        ),
        "gradnorm.outputs.output_norm": (call(losses(z, labels(4)), z), call(losses(z, labels(4))[:3], z)),
    }


WITH_SHAPES = with_shapes()
EXAMPLES = examples()


@pytest.mark.parametrize("name", WITH_SHAPES)
def test_shapes_of_the_signature_hold_and_bite(name: str) -> None:
    assert name in EXAMPLES, f"{name} has shapes in its signature: give a right and a wrong call of it here"
    function = checked(*WITH_SHAPES[name])
    (right, named), (wrong, wrongly_named) = EXAMPLES[name]
    function(*right, **named)
    with pytest.raises(jaxtyping.TypeCheckError):
        function(*wrong, **wrongly_named)


def test_no_example_is_left_over() -> None:
    assert set(EXAMPLES) <= set(WITH_SHAPES)


def test_shapes_are_not_needed_at_run_time() -> None:
    for module, _ in WITH_SHAPES.values():
        assert not {"Float", "Shaped", "Int64"} & set(vars(module)), f"{module.__name__} imports jaxtyping to run"
