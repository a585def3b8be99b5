"""Exact norms of per-example gradients over all trainable parameters of a model.

`PerExampleNorms` listens to one ordinary forward and backward, so a training step has them without a second
backward; `exact_norms` and `norms_and_gradient` run their own passes. Layers without a formula in `layers`,
and parameters used more than once, are left to torch.func (2.4 times slower on LeNet-5 [measured]).

| symbol  | code name | shape                  | unit                   |
|---------|-----------|------------------------|------------------------|
| ‖∇f_i‖² | squared   | (b,)                   | (loss per parameter)²  |
| ‖∇f_i‖  | norms     | (n,)                   | loss per parameter     |
| ∇F      | gradient  | list, like parameters  | loss per parameter     |

Scaling: f_i is the loss of one example, ∇f_i never contains a factor 1/b or 1/n. Whether the backpropagated
loss was the sum or the mean over the batch has to be said; the gradient returned by `norms_and_gradient` is
that of the MEAN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from rais.gradnorm.layers import Formula, formula_of

Loss = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]
Pass = Callable[[nn.Module, Loss, Tensor, Tensor, bool], tuple[Tensor, list[Tensor]]]


class _NoFormulaError(ValueError):
    def __init__(self, reason: str) -> None:
        super().__init__(f"{reason}; use exact_norms, which falls back to torch.func for such a model")


def _trainable(module: nn.Module, recurse: bool = True) -> list[nn.Parameter]:
    return [p for p in module.parameters(recurse) if p.requires_grad]


def _check_model(model: nn.Module) -> None:
    if not _trainable(model):
        raise ValueError("the model has no parameter that requires a gradient; unfreeze one by requires_grad_(True)")
    for name, module in model.named_modules():
        is_batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_batch_norm and (module.training or module.running_mean is None):
            raise ValueError(
                f"{name or 'the model'} ({type(module).__name__}) normalises with statistics of the batch: "
                "the examples share them, so per-example gradients do not exist; call model.eval() (with "
                "track_running_stats=True) or use GroupNorm"
            )


def _layers(model: nn.Module) -> dict[str, tuple[nn.Module, Formula]]:
    """Every module that owns trainable parameters, by name, with its formula."""
    found: dict[str, tuple[nn.Module, Formula]] = {}
    owner: dict[nn.Parameter, str] = {}
    for name, module in model.named_modules():
        parameters = _trainable(module, recurse=False)
        if not parameters:
            continue
        title = f"{name or 'the model'} ({type(module).__name__})"
        formula = formula_of(module)
        if formula is None:
            raise _NoFormulaError(f"{title} owns parameters and has no formula for per-example gradients")
        for parameter in parameters:
            if parameter in owner:
                raise _NoFormulaError(f"{title} shares a parameter with {owner[parameter]}")
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
        model: its trainable parameters belong to Conv2d, Linear, GroupNorm, LayerNorm, or BatchNorm1d/2d in
            eval mode.
        reduction: whether the loss backpropagated is the "sum" or the "mean" over the batch of the losses
            f_i. With losses weight_i·f_i the result is weight_i²‖∇f_i‖². Gradients come from torch, so a
            factor put on the loss (a loss scale) is squared in the result.
        first: only the first so many examples of the batch; all of them if it is smaller.

    Raises:
        ValueError: a module without formula, called twice, or sharing a parameter (it is named); batch
            normalisation with statistics of the batch; no trainable parameter; an argument out of range.

    Source: layer formulas of the ghost-norm literature [recalled], checked against torch.func [derived].
    """

    def __init__(self, model: nn.Module, reduction: Literal["sum", "mean"], first: int | None = None) -> None:
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
        if first is not None and first < 1:
            raise ValueError(f"first must be at least 1, got {first}; leave it out for all examples")
        _check_model(model)
        self._model, self._reduction, self._first = model, reduction, first
        self._layers = _layers(model)
        self._handles: list[Any] = []
        self._reset()

    def _reset(self) -> None:
        self.outputs: dict[str, GradientEdge] = {}
        self._squared: dict[str, list[Tensor]] = {}
        self._batch_sizes: dict[str, int] = {}
        self._with_gradient: set[str] = set()

    def __enter__(self) -> PerExampleNorms:
        if self._handles:
            raise RuntimeError("this PerExampleNorms is already active; create a second one for a nested block")
        _check_model(self._model)
        self._layers = _layers(self._model)
        self._reset()
        for title, (module, formula) in self._layers.items():
            hook = partial(self._after_forward, title, formula)
            self._handles.append(module.register_forward_hook(hook, prepend=True, with_kwargs=True))
            for parameter in _trainable(module, recurse=False):
                self._handles.append(parameter.register_hook(partial(self._after_parameter, title)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _after_parameter(self, title: str, _: Tensor) -> None:
        self._with_gradient.add(title)

    def _after_forward(
        self, title: str, formula: Formula, module: nn.Module, args: tuple, kwargs: dict, output: Tensor
    ) -> Tensor:
        if not output.requires_grad:
            return output
        if title in self.outputs:
            raise _NoFormulaError(f"{title} is called more than once in a forward pass")
        if output._is_view():  # as some versions of torch give for a Linear of three dimensions: hooks on it get lost
            output = output.clone()
        # Set now, the hook stays with the output as it is before an in-place operation (ReLU) changes it.
        x = (args[0] if args else kwargs["input"]).detach()
        self.outputs[title] = get_gradient_edge(output)
        self._handles.append(output.register_hook(partial(self._after_backward, title, formula, module, x)))
        return output

    def _after_backward(self, title: str, formula: Formula, module: nn.Module, x: Tensor, grad: Tensor) -> None:
        if title in self._squared:
            raise RuntimeError("two backward passes ran inside one block; enter a new block for each")
        with torch.no_grad():
            self._squared[title] = list(formula(module, x[: self._first], grad[: self._first]))
        self._batch_sizes[title] = len(grad)

    def squared(self) -> Tensor:
        """‖∇f_i‖² of each example, in the order of the batch: shape (b,), or (first,).

        Raises:
            RuntimeError: no forward and backward ran inside the block.
            ValueError: the layers disagree about the size of the batch, or a layer's parameters were used but
                the layer was never called.
        """
        if not self._squared:
            raise RuntimeError("no gradient was seen; run both the forward and the backward inside the block")
        for title in self._with_gradient - self.outputs.keys():
            raise _NoFormulaError(f"the parameters of {title} were used without calling it")
        title, b = next(iter(self._batch_sizes.items()))
        for other, size in self._batch_sizes.items():
            if size != b:
                raise _NoFormulaError(
                    f"{title} was given {b} examples and {other} {size}: the batch is not dimension 0"
                )
        squared = torch.stack([term for terms in self._squared.values() for term in terms]).sum(0)
        return squared.mul_(b**2) if self._reduction == "mean" else squared


def exact_norms(model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, *, chunk: int = 256) -> Tensor:
    """‖∇f_i‖₂ of every example, f_i = loss(model(x_i), y_i), over the model's trainable parameters.

    One forward and backward per chunk where every layer has a formula; otherwise torch.func, which holds one
    gradient per example of a chunk. The model's mode is used as it is: dropout that is active is drawn afresh
    for each example.

    Args:
        loss: loss(logits, targets) → the losses of the examples, shape (b,), neither summed nor averaged.
        inputs: (n, ...), on the model's device.
        targets: (n, ...).
        chunk: examples at a time; lower it if memory runs out.

    Returns:
        (n,) norms, dtype and device of the parameters. p.grad is left as it was.

    Raises:
        ValueError: no examples, lengths that differ, losses not per example, batch normalisation with
            statistics of the batch, no trainable parameter.

    Source: definition of v_i = ‖∇f_i‖ in METHOD section 1 [derived].
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    _check_batch(inputs, targets)
    batches = zip(inputs.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([squared for squared, _ in _passes(model, loss, batches, with_gradient=False)]).sqrt_()


def norms_and_gradient(model: nn.Module, loss: Loss, batches: Iterable[Batch]) -> tuple[Tensor, list[Tensor]]:
    """‖∇f_i‖₂ of every example and the gradient of their MEAN loss, from the same passes.

    Args:
        loss: as in `exact_norms`.
        batches: pairs (inputs, targets), of any sizes; each is one pass.

    Returns:
        norms (n,) in the order of the batches, and ∇F as one tensor for each trainable parameter, in the
        order of model.parameters(). p.grad is left as it was.

    Raises:
        ValueError: as in `exact_norms`.
    """
    squares: list[Tensor] = []
    total: list[Tensor] = []
    for squared, gradient in _passes(model, loss, batches, with_gradient=True):
        squares.append(squared)
        total = [sum_.add_(g) for sum_, g in zip(total, gradient, strict=True)] if total else gradient
    if not squares:
        raise ValueError("there are no batches; pass at least one pair (inputs, targets)")
    norms = torch.cat(squares).sqrt_()
    return norms, [sum_.div_(len(norms)) for sum_ in total]


def _passes(
    model: nn.Module, loss: Loss, batches: Iterable[Batch], with_gradient: bool
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """For each batch the squared norms (b,) and, if asked for, the gradient of the SUM of its losses."""
    _check_model(model)
    one_pass: Pass = _hook_pass
    for inputs, targets in batches:
        _check_batch(inputs, targets)
        try:
            result = one_pass(model, loss, inputs, targets, with_gradient)
        except _NoFormulaError:
            one_pass = _func_pass
            result = one_pass(model, loss, inputs, targets, with_gradient)
        yield result


def _hook_pass(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, with_gradient: bool
) -> tuple[Tensor, list[Tensor]]:
    with torch.enable_grad(), PerExampleNorms(model, "sum") as norms:
        losses = _per_example(loss(model(inputs), targets), len(inputs))
        reads = _reads(losses)
        for title, (module, _) in norms._layers.items():
            if any(reads[id(p)] > (title in norms.outputs) for p in _trainable(module, recurse=False)):
                raise _NoFormulaError(f"a parameter of {title} is used outside of it")
        if with_gradient:
            parameters = _trainable(model)
            gradient = list(torch.autograd.grad(losses.sum(), parameters, materialize_grads=True))
        else:  # gradients of the outputs only, which spares those of the weights
            torch.autograd.grad(losses.sum(), list(norms.outputs.values()), allow_unused=True)
            gradient = []
    squared = norms.squared()
    if len(squared) != len(inputs):
        raise _NoFormulaError("the batch is not dimension 0 of what the layers are given")
    return squared, gradient


def _reads(losses: Tensor) -> Counter[int]:
    """How often the graph behind the losses reads each leaf, by its id."""
    if losses.grad_fn is None:
        raise ValueError("the losses do not depend on the parameters; the model or the loss detaches its result")
    reads: Counter[int] = Counter()
    seen, stack = {losses.grad_fn}, [losses.grad_fn]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is None:
                continue
            if hasattr(node, "variable"):
                reads[id(node.variable)] += 1
            elif node not in seen:
                seen.add(node)
                stack.append(node)
    return reads


def _func_pass(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, with_gradient: bool
) -> tuple[Tensor, list[Tensor]]:
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def loss_of_one(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, parameters, (x.unsqueeze(0),))
        return _per_example(loss(logits, y.unsqueeze(0)), 1).squeeze(0)

    each = torch.func.vmap(torch.func.grad(loss_of_one), in_dims=(None, 0, 0), randomness="different")
    gradients = each(parameters, inputs, targets).values()
    squared = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)
    return squared, [g.sum(0) for g in gradients] if with_gradient else []


def _per_example(losses: Tensor, b: int) -> Tensor:
    if losses.shape != (b,):
        raise ValueError(
            f"the loss must return one value per example, shape ({b},), got {tuple(losses.shape)}; "
            "pass reduction='none' to torch's losses"
        )
    return losses


def _check_batch(inputs: Tensor, targets: Tensor) -> None:
    if len(inputs) == 0:
        raise ValueError("there are no examples; pass at least one")
    if len(inputs) != len(targets):
        raise ValueError(f"{len(inputs)} inputs but {len(targets)} targets; every input needs its own target")
