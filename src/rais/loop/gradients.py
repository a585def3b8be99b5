"""Gradients as a loop leaves them: whether they are finite, and whether a loss scale is still in them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


def are_finite(gradients: list[Tensor], norm: Tensor | None) -> bool:
    """Whether all gradients, and the norms (m,) where there are any, are finite. Waits for the device."""
    values = [nn.utils.get_total_norm(gradients)] if gradients else []
    values += [] if norm is None else [norm.sum()]
    if all(math.isfinite(x) for x in values):
        return True
    # Finite gradients may have a norm beyond their dtype, in half precision above all.
    tensors = gradients + ([] if norm is None else [norm])
    return all(bool(torch.isfinite(x.coalesce().values() if x.is_sparse else x).all()) for x in tensors)


def unscale(scaler: Any, optimizer: Optimizer) -> None:
    """scaler.unscale_, unless the loop has called it already."""
    try:
        scaler.unscale_(optimizer)
    except RuntimeError as error:
        if "already been called" not in str(error):
            raise
