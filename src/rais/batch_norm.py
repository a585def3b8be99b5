"""Batch normalisation whose statistics are weighted by the importance weights of the minibatch.

Examples drawn with probabilities p are no fair sample of the training set, so plain batch statistics would be
biased towards the examples that are drawn often; they must be weighted by 1/(n p_i) [seen]. The self-normalised
form and the running variance's correction are this project's [ours]. `prepare` gives a model such layers, and
weights arrive through `Weighted` or `weights`, for one forward and all that its backward recomputes.

| symbol     | code name      | shape        | unit                                        |
|------------|----------------|--------------|---------------------------------------------|
| 1/(n p_i)  | weight         | (m,)         | 1                                           |
| w_i / Σ w  | share          | (m,)         | 1, sums to 1                                |
| Σ w        | total          | ()           | examples                                    |
| L          | places         |              | pixels of an example: height times width    |
| μ, σ²      | mean, variance | (C,)         | of the layer's input, and its square        |
| γ, β       | scale, shift   | (C,)         | of the layer's output (torch: weight, bias) |
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_leaves

from rais.gradnorm import register_formula
from rais.gradnorm.shared import may_share_statistics, shares_statistics

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped


def reference(x: Tensor, weight: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """The output that a weighted layer gives for x (m, C, ...), as the formula has it, in float64: for the tests."""
    x, share = x.double(), (weight.double() / weight.double().sum()).view(-1, *[1] * (x.dim() - 1))
    every = [dim for dim in range(x.dim()) if dim != 1]
    places = x[0, 0].numel()
    mean = (share * x).sum(every, keepdim=True) / places
    variance = (share * (x - mean) ** 2).sum(every, keepdim=True) / places
    per_channel = (-1, *[1] * (x.dim() - 2))
    return scale.view(per_channel) * (x - mean) / (variance + eps).sqrt() + shift.view(per_channel)


class Importance(NamedTuple):
    """The weights of a minibatch: `share` (m,), which sums to 1, and their sum `total` (); float64."""

    share: Tensor
    total: Tensor


class _Moments(torch.autograd.Function):
    """μ = Σ_i share_i mean_l x_il and σ² = Σ_i share_i mean_l (x_il − μ)², each (C,), of x (m, C, ...).

    In the dtype of `share`. Its own backward reads x once, where autograd would go through several tensors of that
    size [derived, docs/derivations.md: weighted statistics].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        places = tuple(range(2, x.dim()))
        share, wide = share[:, None], x.to(share.dtype)
        mean = (share * wide.mean(places)).sum(0)
        variance = (share * (wide - _per_channel(mean, x)).square_().mean(places)).sum(0)
        ctx.save_for_backward(x, share, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> tuple[Tensor, None]:
        x, share, mean = ctx.saved_tensors
        share = share / x[0, 0].numel()
        slope = 2 * grad_variance  # ∂σ²/∂μ = 0: the deviations from the weighted mean sum to 0
        at_zero = share * (grad_mean - slope * mean)
        grad = torch.addcmul(_per_channel(at_zero, x), x.to(share.dtype), _per_channel(share * slope, x))
        return grad.to(x.dtype), None


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """(C,) or (m, C), to be broadcast against x (m, C, ...)."""
    return values[(..., *[None] * (x.dim() - 2))]


class WeightedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the weighted layers have in common: torch's layer, weighing the examples where weights are set.

    Without weights, and where running statistics are used, it is torch's layer itself, and so is its state_dict. With
    weights μ = Σ_i w_i Σ_l x_il / (L Σ w), σ² likewise about μ, and gradients pass through both; an example of weight 0
    is normalised like the others but leaves no trace in the statistics. Integer weights give what torch gives for
    the minibatch with its examples repeated. `running_var` is corrected by N/(N − 1), N = L Σ w, with N taken as
    2 where it is smaller, so that the correction is never more than twofold. Recomputation in the backward, by
    activation checkpointing, uses the weights of its forward and does not count in the running statistics again.

    Raises:
        ValueError: x has the wrong dimensions, one number per channel in all, or other than m examples.
        RuntimeError: a recomputation whose weights are no longer known.
    """

    importance: Importance | None = None  # set while `weights` is open
    _of_backward: Importance | None = None  # set while the backward of a weighted forward runs
    _was_weighted = False  # whether the last forward that was no recomputation had weights
    _name = ""  # in the model

    def forward(self, x: Tensor) -> Tensor:
        is_recomputation = torch._C._current_graph_task_id() != -1
        importance = self._recall() if is_recomputation else self._remember()
        if importance is None or not shares_statistics(self):
            return super().forward(x)
        self._check_input_dim(x)  # type: ignore[no-untyped-call]  # torch's
        if x[:, 0].numel() < 2:
            raise ValueError(f"one number per channel, input {tuple(x.shape)}, has no variance: use a larger minibatch")
        if len(x) != len(importance.share):
            raise ValueError(
                f"{self._name or 'the model'} ({type(self).__name__}) is given {len(x)} examples and "
                f"{len(importance.share)} weights: the examples must be dimension 0 of its input; use LayerNorm or "
                "GroupNorm where they are not"
            )
        mean, variance, count = self._statistics(x, importance)
        if self.training and self.track_running_stats and not is_recomputation:
            self._track(mean.detach(), variance.detach(), count)
        return self._normalise(x, mean, variance)

    def _remember(self) -> Importance | None:
        self._of_backward = None  # left over where a backward ended with an error
        self._was_weighted = self.importance is not None
        return self.importance

    def _recall(self) -> Importance | None:
        importance = self.importance if self._of_backward is None else self._of_backward
        if importance is None and self._was_weighted:
            raise RuntimeError(
                f"{self._name or 'the model'} ({type(self).__name__}) is recomputed in the backward and its weights "
                "are gone: run the backward inside `with weights(model, weight):`, or call the whole model in it"
            )
        return importance

    def _statistics(self, x: Tensor, importance: Importance) -> tuple[Tensor, Tensor, Tensor]:
        """μ, σ² (C,) in float32 or wider, and N ()."""
        share = importance.share.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance = _Moments.apply(x if x.dim() > 2 else x.unsqueeze(2), share)
        return mean, variance, importance.total * x[0, 0].numel()

    def _normalise(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """γ (x − μ)/√(σ² + ε) + β, by torch's kernel for constant statistics.

        The gradient through μ and σ² enters by scale and shift, whose values are those of γ and β.
        """
        fixed_mean, fixed_variance = mean.detach(), variance.detach()
        scale = ((fixed_variance + self.eps) / (variance + self.eps)).sqrt()
        scale = scale if self.weight is None else self.weight * scale
        shift = scale * (fixed_mean - mean) * (fixed_variance + self.eps).rsqrt()
        shift = shift if self.bias is None else self.bias + shift
        return F.batch_norm(x, fixed_mean, fixed_variance, scale, shift, training=False, eps=self.eps)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None  # since it tracks
        assert self.num_batches_tracked is not None
        dtype = self.running_mean.dtype
        self.num_batches_tracked.add_(1)
        rate = 1.0 / self.num_batches_tracked.to(dtype) if self.momentum is None else self.momentum
        count = count.to(mean.dtype).clamp_min(2)
        self.running_mean.lerp_(mean.to(dtype), rate)
        self.running_var.lerp_((variance * (count / (count - 1))).to(dtype), rate)


class WeightedBatchNorm1d(WeightedBatchNorm, nn.BatchNorm1d):
    """nn.BatchNorm1d, of x (m, C) or (m, C, L), that weighs the examples of a minibatch; see WeightedBatchNorm.

    >>> Weighted(WeightedBatchNorm1d(1, eps=0))(torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 4.0]))
    tensor([[-2.0000],
            [ 0.5000]], grad_fn=<NativeBatchNormBackward0>)
    """


class WeightedBatchNorm2d(WeightedBatchNorm, nn.BatchNorm2d):
    """nn.BatchNorm2d, of x (m, C, height, width), that weighs the examples of a minibatch; see WeightedBatchNorm.

    >>> WeightedBatchNorm2d(3).state_dict().keys() == nn.BatchNorm2d(3).state_dict().keys()
    True
    """


class WeightedBatchNorm3d(WeightedBatchNorm, nn.BatchNorm3d):
    """nn.BatchNorm3d, of x (m, C, depth, height, width), that weighs the examples; see WeightedBatchNorm.

    >>> isinstance(WeightedBatchNorm3d(3), nn.BatchNorm3d)
    True
    """


class _SumOverRanks(torch.autograd.Function):
    """Σ of a tensor over the ranks of `group`; the gradient, too, is summed over them."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        tensor = tensor.clone()
        dist.all_reduce(tensor, group=group)
        return tensor

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        grad = grad.clone()
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class WeightedSyncBatchNorm(WeightedBatchNorm, nn.SyncBatchNorm):
    """nn.SyncBatchNorm that weighs the examples of all ranks' parts of the minibatch; see WeightedBatchNorm.

    >>> isinstance(WeightedSyncBatchNorm(3), nn.SyncBatchNorm)
    True
    """

    def _statistics(self, x: Tensor, importance: Importance) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance, count = super()._statistics(x, importance)
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size(self.process_group) > 1):
            return mean, variance, count
        totals = torch.stack([importance.total, count]).to(mean.dtype)
        dist.all_reduce(totals, group=self.process_group)
        part = importance.total.to(mean.dtype) / totals[0]
        whole = _SumOverRanks.apply(part * mean, self.process_group)
        spread = _SumOverRanks.apply(part * (variance + (mean - whole).square()), self.process_group)
        return whole, spread, totals[1]


register_formula(WeightedBatchNorm1d, like=nn.BatchNorm1d)
register_formula(WeightedBatchNorm2d, like=nn.BatchNorm2d)
register_formula(WeightedBatchNorm3d, like=nn.BatchNorm3d)
register_formula(WeightedSyncBatchNorm, like=nn.SyncBatchNorm)

_WEIGHTED: dict[type[nn.Module], type[WeightedBatchNorm]] = {
    nn.BatchNorm1d: WeightedBatchNorm1d,
    nn.BatchNorm2d: WeightedBatchNorm2d,
    nn.BatchNorm3d: WeightedBatchNorm3d,
    nn.SyncBatchNorm: WeightedSyncBatchNorm,
}


@cache
def _weighted_batch_norm_act() -> type[WeightedBatchNorm]:
    """timm's BatchNormAct2d, which drops and activates what it normalised, with weights. Made when it is needed."""
    from timm.layers import BatchNormAct2d

    class WeightedBatchNormAct2d(WeightedBatchNorm, BatchNormAct2d):  # type: ignore[misc]  # timm need not be there
        drop: nn.Module
        act: nn.Module

        def _normalise(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
            normalised: Tensor = self.act(self.drop(super()._normalise(x, mean, variance)))
            return normalised

    WeightedBatchNormAct2d.__qualname__ = "WeightedBatchNormAct2d"  # so that a model can be pickled
    return WeightedBatchNormAct2d


def __getattr__(name: str) -> type[WeightedBatchNorm]:
    if name == "WeightedBatchNormAct2d":
        return _weighted_batch_norm_act()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _weighted_class(layer: type[nn.Module]) -> type[WeightedBatchNorm] | None:
    if layer.__name__ == "BatchNormAct2d" and layer.__module__.startswith("timm."):
        return _weighted_batch_norm_act()
    return _WEIGHTED.get(layer)


def prepare(model: nn.Module) -> nn.Module:
    """Make every batch normalisation of `model` a weighted one, in place, and return the model.

    BatchNorm1d, 2d, 3d, SyncBatchNorm and timm's BatchNormAct2d change their class and nothing else: parameters,
    buffers, hooks and the keys of the state_dict stay, and without weights so does what they compute. A second call
    changes nothing.

        >>> model = prepare(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
        >>> logits = Weighted(model)(torch.randn(8, 4), torch.ones(8))

    Raises:
        ValueError: some layers with statistics of the batch cannot be converted (all are named; nothing was changed).
    """
    found: list[tuple[nn.Module, type[WeightedBatchNorm]]] = []
    odd: list[tuple[str, nn.Module]] = []
    for name, module in _unweighted(model):
        weighted = _weighted_class(type(module))
        if weighted is None:
            odd.append((name, module))
        else:
            found.append((module, weighted))
    if odd:
        raise ValueError(
            f"{_titles(odd)} may normalise with statistics of the batch, and no weighted form of it is known: replace "
            "it by BatchNorm or GroupNorm; a lazy layer needs one forward first"
        )
    for module, weighted in found:
        module.__class__ = weighted
    return model


def _unweighted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if may_share_statistics(module) and not isinstance(module, WeightedBatchNorm):
            yield name, module


def _titles(layers: list[tuple[str, nn.Module]]) -> str:
    return ", ".join(f"{name or 'the model'} ({type(module).__name__})" for name, module in layers)


class Weighted:
    """`model` as a function of the inputs and their importance weights.

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
        self._others = list(_unweighted(model))
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
                f"{_titles(unweighted)} would normalise with unweighted statistics of the batch; convert the model by "
                "rais.prepare(model), or put the layer into eval mode"
            )


@contextmanager
def weights(model: nn.Module, weight: Tensor) -> Iterator[None]:
    """Within the block, batch statistics of `model` are weighted by `weight` (m,) ≥ 0, one for each of its examples.

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
