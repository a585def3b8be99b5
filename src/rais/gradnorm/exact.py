"""Exact norms of per-example gradients over all trainable parameters of a model, of any kind.

Three ways, tried in this order: `PerExampleNorms` listens to one forward and backward of the whole batch; layers
without a formula, and parameters used more than once, are left to torch.func (2.4 times slower on LeNet-5
[measured]); what torch.func cannot do (GRU, sparse embeddings, checkpoints) is done one example at a time.

| symbol  | code name | shape                  | unit                   |
|---------|-----------|------------------------|------------------------|
| ‖∇f_i‖² | squared   | (b,)                   | (loss per parameter)²  |
| ‖∇f_i‖  | norms     | (n,)                   | loss per parameter     |
| ∇F      | gradient  | list, like parameters  | loss per parameter     |

Scaling: f_i is the loss of one example, ∇f_i never contains a factor 1/b or 1/n. The gradient returned by
`norms_and_gradient` is that of the MEAN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rais.gradnorm.per_example import NoFormulaError, PerExampleNorms, check_model, title_of, trainable, wide

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped

Loss = Callable[[Tensor, Tensor], Tensor]
Batch = tuple[Tensor, Tensor]
Pass = Callable[[nn.Module, Loss, Tensor, Tensor, bool], tuple[Tensor, list[Tensor]]]


def exact_norms(
    model: nn.Module, loss: Loss, inputs: Shaped[Tensor, "n ..."], targets: Shaped[Tensor, "n ..."], *, chunk: int = 256
) -> Float[Tensor, " n"]:
    """‖∇f_i‖₂ of every example, f_i = loss(model(x_i), y_i), over the model's trainable parameters.

    One forward and backward per chunk where every layer has a formula; otherwise torch.func, which holds one
    gradient per example of a chunk; for what that cannot do, one example at a time. The model's mode is used as it
    is: dropout that is active is drawn afresh for each example. The model sees copies of the inputs, which it may
    change in place. Under autocast, and in half precision, gradients are as accurate as there and squares are summed
    in float32.

        >>> model = nn.Linear(2, 1, bias=False)
        >>> exact_norms(model, lambda z, y: (z[:, 0] - y) * 2, torch.tensor([[3.0, 4.0]]), torch.zeros(1))
        tensor([10.])

    Args:
        loss: loss(logits, targets) → the losses of the examples, shape (b,), neither summed nor averaged.
        inputs: (n, ...), on the model's device.
        targets: (n, ...).
        chunk: examples at a time; lower it if memory runs out.

    Returns:
        (n,) norms on the device of the parameters; float32, or float64 for float64 models. p.grad is left as it was.

    Raises:
        ValueError: no examples, lengths that differ, losses not per example, batch normalisation with
            statistics of the batch, no trainable parameter, a checkpoint with use_reentrant=True (its module is named).

    Source: v_i = ‖∇f_i‖, the norms that the oracle draws by [seen; derived, docs/derivations.md: layer norms].
    """
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    _check_batch(inputs, targets)
    batches = zip(inputs.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([squared for squared, _ in _passes(model, loss, batches, with_gradient=False)]).sqrt_()


def norms_and_gradient(
    model: nn.Module, loss: Loss, batches: Iterable[Batch]
) -> tuple[Float[Tensor, " n"], list[Tensor]]:
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
    check_model(model)
    ways: list[Pass] = [_hook_pass, _func_pass, _loop_pass]
    for inputs, targets in batches:
        _check_batch(inputs, targets)
        while True:
            # A copy each time, since the model may change its input in place.
            copies = inputs.clone(), targets.clone()
            try:
                result = ways[0](model, loss, *copies, with_gradient)
                break
            except NoFormulaError:
                ways.remove(_hook_pass)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError:  # of torch.func; if it is the model's own, the last way raises it again
                if ways[0] is not _func_pass:
                    raise
                ways.remove(_func_pass)
        yield result


def _hook_pass(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, with_gradient: bool
) -> tuple[Tensor, list[Tensor]]:
    with torch.enable_grad(), PerExampleNorms(model, "sum") as norms:
        losses = _per_example(loss(model(inputs), targets), len(inputs))
        reads = _reads(losses, model)
        for title, (module, _) in norms._layers.items():
            if any(reads[id(p)] > (title in norms.outputs) for p in trainable(module, recurse=False)):
                raise NoFormulaError(f"a parameter of {title} is used outside of it")
        if with_gradient:
            parameters = trainable(model)
            found = torch.autograd.grad(losses.sum(), parameters, materialize_grads=True)
            gradient = [g.detach() for g in found]  # torch 2.6 lets the zeros that it fills in require a gradient
        else:  # gradients of the outputs only, which spares those of the weights
            torch.autograd.grad(losses.sum(), list(norms.outputs.values()), allow_unused=True)
            gradient = []
    squared = norms.squared()
    if len(squared) != len(inputs):
        raise NoFormulaError("the batch is not dimension 0 of what the layers are given")
    return squared, gradient


def _reads(losses: Tensor, model: nn.Module) -> Counter[int]:
    """How often the graph behind the losses reads each leaf, by its id; a reading of its autocast copy counts.

    Raises:
        ValueError: no graph, or a reentrant checkpoint in it, which only .backward() can enter.
    """
    if losses.grad_fn is None:
        raise ValueError("the losses do not depend on the parameters; the model or the loss detaches its result")
    reads: Counter[int] = Counter()
    copies: dict[torch.autograd.graph.Node, Tensor] = {}
    edges: Counter[torch.autograd.graph.Node] = Counter({losses.grad_fn: 1})
    stack, is_reentrant = [losses.grad_fn], False
    while stack:
        parent = stack.pop()
        is_reentrant |= parent.name() == "CheckpointFunctionBackward"
        for node, _ in parent.next_functions:
            if node is None:
                continue
            if hasattr(node, "variable"):
                reads[id(node.variable)] += 1
                if parent.name() == "ToCopyBackward0":
                    copies[parent] = node.variable
            else:
                edges[node] += 1
                if edges[node] == 1:
                    stack.append(node)
    for node, leaf in copies.items():
        reads[id(leaf)] += edges[node] - 1
    if is_reentrant:
        unread = [
            title_of(name, module)
            for name, module in model.named_modules()
            if any(not reads[id(p)] for p in trainable(module, recurse=False))
        ]
        raise ValueError(
            f"{', '.join(unread) or 'the model'} runs under torch.utils.checkpoint with use_reentrant=True, which "
            "hides its parameters from the graph; call checkpoint(..., use_reentrant=False)"
        )
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
    squared = torch.stack([wide(g).flatten(1).square().sum(1) for g in gradients]).sum(0)
    return squared, [g.sum(0) for g in gradients] if with_gradient else []


def _loop_pass(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, with_gradient: bool
) -> tuple[Tensor, list[Tensor]]:
    """One forward and backward per example."""
    parameters = trainable(model)
    squares: list[Tensor] = []
    total = [torch.zeros_like(p) for p in parameters] if with_gradient else []
    for x, y in zip(inputs.split(1), targets.split(1), strict=True):
        with torch.enable_grad():
            losses = _per_example(loss(model(x), y), 1)
        if not squares:
            _reads(losses, model)
        gradient = torch.autograd.grad(losses, parameters, torch.ones_like(losses), allow_unused=True)
        dense = [g.to_dense() if g is not None and g.is_sparse else g for g in gradient]
        squares.append(torch.stack([wide(g).square().sum() for g in dense if g is not None]).sum())
        for sum_, g in zip(total, dense, strict=False):
            if g is not None:
                sum_.add_(g)
    return torch.stack(squares), total


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
