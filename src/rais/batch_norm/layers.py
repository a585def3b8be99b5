"""The weighted layers: statistics of a minibatch with every example counted by its importance weight.

A layer without weights is torch's own. The plain formula comes first, as `reference`; the layers compute the same in
fewer passes over x.

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

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rais.gradnorm import register_formula
from rais.gradnorm.shared import shares_statistics


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


class Statistics(NamedTuple):
    """`mean` and `variance` (C,) of a weighted minibatch, in float32 or wider, the number N () of places that its
    weights stand for, and the `share` (m,) of each example in it."""

    mean: Tensor
    variance: Tensor
    number: Tensor
    share: Tensor


class _Normalised(torch.autograd.Function):
    """γ (x − μ)/√(σ² + ε) + β of x (m, C, ...), where μ and σ² (C,) are the statistics of x by `share`.

    The gradient through μ and σ² is that of batch normalisation with share_i/L in place of 1/(m L): for g = ∂/∂y and
    x̂ = (x − μ)/√(σ² + ε), ∂/∂x_il = γ/√(σ² + ε) · (g_il − share_i/L · (Σ g + x̂_il Σ g x̂)) [derived,
    docs/derivations.md: weighted statistics]. torch's kernels for constant statistics give the output, the first term
    and both sums; `over_ranks` adds up those of several ranks.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        share: Tensor,
        mean: Tensor,
        variance: Tensor,
        scale: Tensor,
        shift: Tensor,
        eps: float,
        over_ranks: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        ctx.save_for_backward(x, share, mean, variance, scale)
        ctx.eps, ctx.over_ranks = eps, over_ranks
        normalised: Tensor = torch.native_batch_norm(x, scale, shift, mean, variance, False, 0.0, eps)[0]
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, share, mean, variance, scale = ctx.saved_tensors
        slope = (variance + ctx.eps).rsqrt_()
        constant, by_scale, by_shift = torch.ops.aten.native_batch_norm_backward(
            grad, x, scale, mean, variance, mean, slope, False, ctx.eps, [True, True, True]
        )
        sum_x, sum_1 = by_scale, by_shift  # Σ g x̂, Σ g
        if ctx.over_ranks is not None:
            sum_x, sum_1 = ctx.over_ranks(torch.stack([by_scale, by_shift]))
        part = (share / -x[0, 0].numel())[:, None] * (scale * slope)
        by_x = part * (slope * sum_x)
        by_one = torch.addcmul(part * sum_1, by_x, mean, value=-1)
        through = torch.addcmul(_per_channel(by_one, x), x.to(by_x.dtype), _per_channel(by_x, x))
        return constant.add_(through), None, None, None, by_scale, by_shift, None, None


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

    _over_ranks: Callable[[Tensor], Tensor] | None = None  # a sum over the ranks that share the statistics
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
                f"{len(importance.share)} weights: the examples must be dimension 0 of its input (use LayerNorm or "
                "GroupNorm where they are not), and micro-batches come from engine.part(draw, i, k)"
            )
        with torch.no_grad():
            statistics = self._statistics(x if x.dim() > 2 else x.unsqueeze(2), importance)
            if self.training and self.track_running_stats and not is_recomputation:
                self._track(statistics)
        return self._normalise(x, statistics)

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

    def _statistics(self, x: Tensor, importance: Importance) -> Statistics:
        """Those of x (m, C, ...), which has one dimension of positions at least; on a GPU from the mean and variance of
        each example [derived, docs/derivations.md: weighted statistics]."""
        share = importance.share.to(torch.promote_types(x.dtype, torch.float32))
        column, places, wide = share[:, None], tuple(range(2, x.dim())), x.to(share.dtype)
        if x.is_cuda:  # one kernel; on a CPU it is slower than two passes
            own_variance, own_mean = torch.var_mean(wide, places, correction=0)
            mean = (column * own_mean).sum(0)
            offset = own_mean - mean
            variance = (column * torch.addcmul(own_variance, offset, offset)).sum(0)
        else:
            mean = (column * wide.mean(places)).sum(0)
            variance = (column * (wide - _per_channel(mean, x)).square_().mean(places)).sum(0)
        return Statistics(mean, variance, importance.total * x[0, 0].numel(), share)

    def _normalise(self, x: Tensor, statistics: Statistics) -> Tensor:
        mean, variance, _, share = statistics
        # A view: torch 2.6 calls no hook of a parameter that the function below saves itself and a checkpoint packs.
        scale = torch.ones_like(mean) if self.weight is None else self.weight.to(mean.dtype).view_as(mean)
        shift = torch.zeros_like(mean) if self.bias is None else self.bias.to(mean.dtype)
        normalised: Tensor = _Normalised.apply(x, share, mean, variance, scale, shift, self.eps, self._over_ranks)
        return normalised

    def _track(self, statistics: Statistics) -> None:
        assert self.running_mean is not None and self.running_var is not None  # since it tracks
        assert self.num_batches_tracked is not None
        mean, variance, number, _ = statistics
        dtype = self.running_mean.dtype
        self.num_batches_tracked.add_(1)
        rate = 1.0 / self.num_batches_tracked.to(dtype) if self.momentum is None else self.momentum
        number = number.to(mean.dtype).clamp_min(2)
        self.running_mean.lerp_(mean.to(dtype), rate)
        self.running_var.lerp_((variance * (number / (number - 1))).to(dtype), rate)


class WeightedBatchNorm1d(WeightedBatchNorm, nn.BatchNorm1d):
    """nn.BatchNorm1d, of x (m, C) or (m, C, L), that weighs the examples of a minibatch; see WeightedBatchNorm.

    >>> from rais.batch_norm import Weighted
    >>> Weighted(WeightedBatchNorm1d(1, eps=0))(torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 4.0]))
    tensor([[-2.0000],
            [ 0.5000]], grad_fn=<_NormalisedBackward>)
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


register_formula(WeightedBatchNorm1d, like=nn.BatchNorm1d)
register_formula(WeightedBatchNorm2d, like=nn.BatchNorm2d)
register_formula(WeightedBatchNorm3d, like=nn.BatchNorm3d)
