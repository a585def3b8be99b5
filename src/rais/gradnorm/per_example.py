"""Squared norms of per-example gradients, taken from one ordinary forward and backward.

`PerExampleNorms` listens to the layers of a model, so a training step has the norms without a second backward. It
knows only layers that have a formula in `layers`, called once; `exact` has a way for every other model.

| symbol  | code name | shape | unit                  |
|---------|-----------|-------|-----------------------|
| ‖∇f_i‖² | squared   | (b,)  | (loss per parameter)² |

Scaling: f_i is the loss of one example, ∇f_i never contains a factor 1/b or 1/n. Whether the backpropagated
loss was the sum or the mean over the batch has to be said. Squares are summed in float32 or wider.
"""

from __future__ import annotations

import copy
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from rais.gradnorm.layers import Formula, formula_of
from rais.gradnorm.shared import shares_statistics


class NoFormulaError(ValueError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; use exact_norms, which falls back to torch.func for such a model")


def trainable(module: nn.Module, recurse: bool = True) -> list[nn.Parameter]:
    return [p for p in module.parameters(recurse) if p.requires_grad]


def check_model(model: nn.Module) -> None:
    if not trainable(model):
        raise ValueError("the model has no parameter that requires a gradient; unfreeze one by requires_grad_(True)")
    for name, module in model.named_modules():
        if shares_statistics(module):
            raise ValueError(
                f"{title_of(name, module)} normalises with statistics of the batch: "
                "the examples share them, so per-example gradients do not exist; call model.eval() (with "
                "track_running_stats=True) or use GroupNorm"
            )


def title_of(name: str, module: nn.Module) -> str:
    return f"{name or 'the model'} ({type(module).__name__})"


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in its own dtype if that is float64, so that squares keep range and accuracy."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _layers(model: nn.Module) -> dict[str, tuple[nn.Module, Formula]]:
    """Every module that owns trainable parameters, by name, with its formula."""
    found: dict[str, tuple[nn.Module, Formula]] = {}
    owner: dict[nn.Parameter, str] = {}
    for name, module in model.named_modules():
        parameters = trainable(module, recurse=False)
        if not parameters:
            continue
        title = title_of(name, module)
        formula = formula_of(module)
        if formula is None:
            raise NoFormulaError(f"{title} owns parameters and has no formula for per-example gradients")
        for parameter in parameters:
            if parameter in owner:
                raise NoFormulaError(f"{title} shares a parameter with {owner[parameter]}")
            owner[parameter] = title
        found[title] = (module, formula)
    return found


class PerExampleNorms:
    """Squared norms of per-example gradients, taken from the forward and backward that run inside its block.

        with PerExampleNorms(model, reduction="mean") as norms:
            loss(model(inputs), targets).mean().backward()
        norms.squared()  # (b,)

    The ordinary gradient is accumulated in p.grad as without it. One object may be entered again at the next
    step. The first dimension of every layer's input must be the batch, and a parameter must be read by its
    own layer only (a second use elsewhere, by hand, cannot be seen from here; `exact_norms` sees it).

    Args:
        model: its trainable parameters belong to Conv2d, Linear, GroupNorm, LayerNorm, or batch
            normalisation in eval mode.
        reduction: whether the loss backpropagated is the "sum" or the "mean" over the batch of the losses
            f_i. With losses weight_i·f_i the result is weight_i²‖∇f_i‖². Gradients come from torch, so a
            factor put on the loss (a loss scale) is squared in the result.

    Raises:
        ValueError: a module without formula, called twice (recomputation by a checkpoint does not count), or
            sharing a parameter (it is named); batch normalisation with statistics of the batch; no trainable
            parameter; an argument out of range.

    Source: layer formulas of the ghost-norm literature [recalled], checked against torch.func
    [derived, docs/derivations.md: layer norms].
    """

    def __init__(self, model: nn.Module, reduction: Literal["sum", "mean"]) -> None:
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
        check_model(model)
        self._model, self._reduction = model, reduction
        self._layers = _layers(model)
        self._handles: list[Any] = []
        self._reset()

    def _reset(self) -> None:
        self.outputs: dict[str, GradientEdge] = {}
        self._squared: dict[str, list[Tensor]] = {}
        self._batch_sizes: dict[str, int] = {}
        self._with_gradient: set[str] = set()
        self._without_graph: set[str] = set()  # called under no_grad, as a reentrant checkpoint does
        self._recomputed: set[str] = set()  # first heard of in the backward: recomputed by a reentrant checkpoint

    def __enter__(self) -> PerExampleNorms:
        if self._handles:
            raise RuntimeError("this PerExampleNorms is already active; create a second one for a nested block")
        check_model(self._model)
        self._layers = _layers(self._model)
        self._reset()
        for title, (module, formula) in self._layers.items():
            hook = partial(self._after_forward, title, formula)
            self._handles.append(module.register_forward_hook(hook, prepend=True, with_kwargs=True))
            for parameter in trainable(module, recurse=False):
                self._handles.append(parameter.register_hook(partial(self._after_parameter, title)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __deepcopy__(self, memo: dict[int, Any]) -> PerExampleNorms:
        if self._handles:
            raise RuntimeError("the model is watched by PerExampleNorms, whose block cannot be copied: copy it outside")
        return PerExampleNorms(copy.deepcopy(self._model, memo), self._reduction)

    def _after_parameter(self, title: str, _: Tensor) -> None:
        self._with_gradient.add(title)

    def _after_forward(
        self,
        title: str,
        formula: Formula,
        module: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Tensor,
    ) -> Tensor:
        if not output.requires_grad:
            self._without_graph.add(title)
            return output
        in_backward = torch._C._current_graph_task_id() != -1
        if title in self.outputs:
            if in_backward and title not in self._recomputed | self._without_graph:
                return output  # a checkpoint recomputes what it needs of a call that is known
            raise NoFormulaError(f"{title} is called more than once in a forward pass")
        if output._is_view():  # as some versions of torch give for a Linear of three dimensions: hooks on it get lost
            output = output.clone()
        # Set now, the hook stays with the output as it is before an in-place operation (ReLU) changes it.
        x = (args[0] if args else kwargs["input"]).detach()
        self.outputs[title] = get_gradient_edge(output)
        if in_backward:
            self._recomputed.add(title)
        self._handles.append(output.register_hook(partial(self._after_backward, title, formula, module, x)))
        return output

    def _after_backward(self, title: str, formula: Formula, module: nn.Module, x: Tensor, grad: Tensor) -> None:
        if title in self._squared:
            raise RuntimeError("two backward passes ran inside one block; enter a new block for each")
        device = grad.device.type  # the backward may run inside the autocast of the forward
        full = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
        with torch.no_grad(), full:
            x = x.to(grad.dtype)  # what autocast gave the layer
            self._squared[title] = list(formula(module, wide(x), wide(grad)))
        self._batch_sizes[title] = len(grad)

    def squared(self) -> Tensor:
        """‖∇f_i‖² of each example, in the order of the batch: shape (b,).

        Raises:
            RuntimeError: no forward and backward ran inside the block.
            ValueError: the layers disagree about the size of the batch, or a layer's parameters were used but
                the layer was never called.
        """
        if not self._squared:
            raise RuntimeError("no gradient was seen; run both the forward and the backward inside the block")
        for title in self._with_gradient - self.outputs.keys():
            raise NoFormulaError(f"the parameters of {title} were used without calling it")
        title, b = next(iter(self._batch_sizes.items()))
        for other, size in self._batch_sizes.items():
            if size != b:
                raise NoFormulaError(f"{title} was given {b} examples and {other} {size}: the batch is not dimension 0")
        squared = torch.stack([term for terms in self._squared.values() for term in terms]).sum(0)
        return squared.mul_(b**2) if self._reduction == "mean" else squared
