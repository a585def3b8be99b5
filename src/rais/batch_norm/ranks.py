"""The weighted form of SyncBatchNorm: statistics of the whole minibatch, of which each rank has a part."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rais.batch_norm.layers import Importance, WeightedBatchNorm
from rais.gradnorm import register_formula


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


register_formula(WeightedSyncBatchNorm, like=nn.SyncBatchNorm)
