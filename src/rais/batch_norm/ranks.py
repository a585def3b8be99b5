"""The weighted form of SyncBatchNorm: statistics of the whole minibatch, of which each rank has a part."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rais.batch_norm.layers import Importance, Statistics, WeightedBatchNorm
from rais.gradnorm import register_formula


class WeightedSyncBatchNorm(WeightedBatchNorm, nn.SyncBatchNorm):
    """nn.SyncBatchNorm that weighs the examples of all ranks' parts of the minibatch; see WeightedBatchNorm.

    >>> isinstance(WeightedSyncBatchNorm(3), nn.SyncBatchNorm)
    True
    """

    def _statistics(self, x: Tensor, importance: Importance) -> Statistics:
        mean, variance, number, share = super()._statistics(x, importance)
        if not self._has_ranks():
            return Statistics(mean, variance, number, share)
        totals = self._sum_over_ranks(torch.stack([importance.total, number]).to(mean.dtype))
        part = importance.total.to(mean.dtype) / totals[0]
        whole = self._sum_over_ranks(part * mean)
        spread = self._sum_over_ranks(part * (variance + (mean - whole).square()))
        return Statistics(whole, spread, totals[1], part * share)

    def _has_ranks(self) -> bool:
        return dist.is_available() and dist.is_initialized() and dist.get_world_size(self.process_group) > 1

    def _sum_over_ranks(self, tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        dist.all_reduce(tensor, group=self.process_group)
        return tensor

    @property
    def _over_ranks(self) -> Callable[[Tensor], Tensor] | None:  # type: ignore[override]
        return self._sum_over_ranks if self._has_ranks() else None


register_formula(WeightedSyncBatchNorm, like=nn.SyncBatchNorm)
