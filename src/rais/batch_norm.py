"""Batch normalisation whose statistics are weighted by the importance weights of the minibatch.

Examples drawn with probabilities p are no fair sample of the training set, so plain batch statistics would be
biased towards the examples that are drawn often; they must be weighted by 1/(n p_i) [seen]. The self-normalised
form and the running variance's correction are this project's [ours]. Weights arrive through `Weighted`, for
one forward at a time.

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

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rais.gradnorm import register_formula


class Importance(NamedTuple):
    """The weights of a minibatch: `share` (m,), which sums to 1, and their sum `total` (); float64."""

    share: Tensor
    total: Tensor


class _Moments(torch.autograd.Function):
    """μ = Σ_i share_i mean_l x_il and σ² = Σ_i share_i mean_l (x_il − μ)², each (C,), of x (m, C, height, width).

    Its own backward reads x once, where autograd would go through several tensors of that size [derived].
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        share = share[:, None]
        mean = (share * x.mean((2, 3))).sum(0)
        variance = (share * (x - mean[:, None, None]).square_().mean((2, 3))).sum(0)
        ctx.save_for_backward(x, share, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_mean: Tensor, grad_variance: Tensor) -> tuple[Tensor, None]:
        x, share, mean = ctx.saved_tensors
        places = x.shape[2] * x.shape[3]
        slope = 2 * grad_variance  # ∂σ²/∂μ = 0: the deviations from the weighted mean sum to 0
        at_zero = share / places * (grad_mean - slope * mean)
        return torch.addcmul(at_zero[:, :, None, None], x, (share / places * slope)[:, :, None, None]), None


class WeightedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d that weighs the examples of a training minibatch where `importance` is set.

    Without weights, and in eval mode, it is nn.BatchNorm2d itself, and so is its state_dict. With weights
    μ = Σ_i w_i Σ_l x_il / (L Σ w), σ² likewise about μ, and gradients pass through both; an example of weight 0 is
    normalised like the others but leaves no trace in the statistics. Integer weights give what torch gives for
    the minibatch with its examples repeated. `running_var` is corrected by N/(N − 1), N = L Σ w, with N taken as
    2 where it is smaller, so that the correction is never more than twofold.

    Raises:
        ValueError: x is not four-dimensional, or has one number per channel in all, in training mode.
    """

    importance: Importance | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.importance is None or not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        if x[:, 0].numel() < 2:
            raise ValueError(f"one number per channel, input {tuple(x.shape)}, has no variance: use a larger minibatch")
        mean, variance = _Moments.apply(x, self.importance.share.to(x.dtype))
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), self.importance.total * (x.shape[2] * x.shape[3]))
        return self._normalise(x, mean, variance)

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
        self.num_batches_tracked.add_(1)
        rate = 1.0 / self.num_batches_tracked.to(mean.dtype) if self.momentum is None else self.momentum
        count = count.to(mean.dtype).clamp_min(2)
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(variance * (count / (count - 1)), rate)


register_formula(WeightedBatchNorm2d, like=nn.BatchNorm2d)


class Weighted:
    """`model` as a function of the inputs and their importance weights.

        logits = Weighted(model)(x, draw.weight)

    The layers that use the weights are looked up once, here; a model that has none is called as it is.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._norms = [module for module in model.modules() if isinstance(module, WeightedBatchNorm2d)]

    def __call__(self, x: Tensor, weight: Tensor) -> Tensor:
        """model(x) with batch statistics weighted by `weight` (m,) ≥ 0 = 1/(n p_i); no gradient goes to the weights.

        Raises:
            ValueError: the shape of `weight`; or, on the CPU, a negative or non-finite weight, or all of them 0.
                On an accelerator looking at values would stop the queue: there such weights show as a non-finite
                loss, negative ones not at all.
        """
        if not self._norms:
            return self.model(x)
        importance = _importance(x, weight)
        try:
            for norm in self._norms:
                norm.importance = importance
            return self.model(x)
        finally:
            for norm in self._norms:
                norm.importance = None


def _importance(x: Tensor, weight: Tensor) -> Importance:
    if weight.shape != (len(x),):
        raise ValueError(f"weight has shape {tuple(weight.shape)}: {len(x)} examples need shape ({len(x)},)")
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
