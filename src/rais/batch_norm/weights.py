"""How the weights of a minibatch reach the layers: for one forward, and for all that its backward recomputes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rais.batch_norm.layers import Importance, WeightedBatchNorm
from rais.batch_norm.prepare import titles, unweighted
from rais.gradnorm.shared import shares_statistics

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


class Weighted:
    """`model` as a function of the inputs and their importance weights.

        >>> from rais.batch_norm import WeightedBatchNorm1d
        >>> weighted = Weighted(nn.Sequential(nn.Linear(4, 3), WeightedBatchNorm1d(3)))
        >>> weighted(torch.randn(8, 4), torch.ones(8)).shape
        torch.Size([8, 3])

    The layers that use the weights are looked up once, here; a model that has none is called as it is.

    Raises:
        ValueError: a layer normalises with statistics of the batch and takes no weights (it is named), now or at a
            later call.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._norms = [module for module in model.modules() if isinstance(module, WeightedBatchNorm)]
        self._others = list(unweighted(model))
        for name, module in model.named_modules():
            if isinstance(module, WeightedBatchNorm):
                module._name = name
        self._refuse_unweighted()

    def __call__(self, x: Shaped[Tensor, "m ..."], weight: Float[Tensor, " m"]) -> Any:
        """model(x) with batch statistics weighted by `weight` (m,) ≥ 0 = 1/(n p_i); no gradient goes to the weights.

        Raises:
            ValueError: the shape of `weight`; or, on the CPU, a negative or non-finite weight, or all of them 0.
                On an accelerator looking at values would stop the queue: there such weights show as a non-finite
                loss, negative ones not at all.
        """
        if self._norms and weight.shape != (len(x),):
            raise ValueError(f"weight has shape {tuple(weight.shape)}: {len(x)} examples need shape ({len(x)},)")
        self._refuse_unweighted()
        if not self._norms:
            return self.model(x)
        importance = _importance(weight)
        with self._opened(importance):
            outputs = self.model(x)
        self._recall_for(outputs, importance)
        return outputs

    @contextmanager
    def weights(self, weight: Tensor) -> Iterator[None]:
        """As the function `weights`, for this model."""
        self._refuse_unweighted()
        if not self._norms:
            yield
            return
        importance = _importance(weight)
        handle = self.model.register_forward_hook(lambda model, args, outputs: self._recall_for(outputs, importance))
        try:
            with self._opened(importance):
                yield
        finally:
            handle.remove()

    @contextmanager
    def _opened(self, importance: Importance) -> Iterator[None]:
        before = [norm.importance for norm in self._norms]
        try:
            for norm in self._norms:
                norm.importance = importance
            yield
        finally:
            for norm, outer in zip(self._norms, before, strict=True):
                norm.importance = outer

    def _recall_for(self, outputs: Any, importance: Importance) -> None:
        """Let the layers have their weights again while a backward goes through these outputs."""

        def start(*_: Any) -> None:
            self._set_for_backward(importance)
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._set_for_backward(None))

        leaves = [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]
        for node in {leaf.grad_fn for leaf in leaves if leaf.grad_fn is not None}:
            node.register_prehook(start)

    def _set_for_backward(self, importance: Importance | None) -> None:
        for norm in self._norms:
            norm._of_backward = importance

    def _refuse_unweighted(self) -> None:
        unweighted = [(name, module) for name, module in self._others if shares_statistics(module)]
        if unweighted:
            raise ValueError(
                f"{titles(unweighted)} would normalise with unweighted statistics of the batch; convert the model by "
                "rais.prepare(model), or put the layer into eval mode"
            )


@contextmanager
def weights(model: nn.Module, weight: Tensor) -> Iterator[None]:
    """Within the block, batch statistics of `model` are weighted by `weight` (m,) ≥ 0, one for each of its examples.

        >>> from rais import prepare
        >>> model = prepare(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
        >>> with weights(model, torch.ones(8)):
        ...     logits = model(torch.randn(8, 4))

    The backward may follow inside or after the block. What it recomputes (activation checkpointing) sees the weights
    of its own forward, also where several parts of a minibatch went forward first; after the block only if the whole
    model was called in it, not one of its layers alone, which is refused by name. `Weighted(model).weights` is the
    same and looks up the layers once.

    Raises:
        ValueError: as `Weighted`; `weight` is no vector.
    """
    with Weighted(model).weights(weight):
        yield


def _importance(weight: Tensor) -> Importance:
    if weight.dim() != 1:
        raise ValueError(f"weight has shape {tuple(weight.shape)}: m examples need shape (m,)")
    weight = weight.detach()
    if weight.device.type == "cpu":
        low, high = (extreme.item() for extreme in weight.aminmax())
        if not (low >= 0 and 0 < high < float("inf")):
            raise ValueError(
                f"importance weights from {low:g} to {high:g}: they must be finite and ≥ 0, and one of them "
                "above 0; pass draw.weight"
            )
    weight = weight.double()  # so that shares sum to 1 to the precision of any model
    total = weight.sum()
    return Importance(weight / total, total)
