"""Gradients as a loop leaves them: whether they are finite, and whether a loss scale is still in them."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rais.sampling.base import LARGEST_NORM


def are_finite(gradients: list[Tensor], norm: Tensor | None) -> bool:
    """Whether all gradients are finite, and the norms (m,), where there are any, ones that a sampler takes. Waits for
    the device."""
    if norm is not None and not bool(norm.max() <= LARGEST_NORM):  # a NaN is the largest, and no number
        return False
    # Finite gradients may have a norm beyond their dtype, in half precision above all.
    return (
        not gradients
        or math.isfinite(nn.utils.get_total_norm(gradients))
        or all(bool(torch.isfinite(x.coalesce().values() if x.is_sparse else x).all()) for x in gradients)
    )


def unscale(scaler: Any, optimizer: Optimizer) -> None:
    """scaler.unscale_, unless the loop has called it already."""
    try:
        scaler.unscale_(optimizer)
    except RuntimeError as error:
        if "already been called" not in str(error):
            raise


def refuse_missing(gradients: list[Tensor]) -> None:
    """Refuse a step without any gradient.

    Raises:
        RuntimeError: it names the cure.
    """
    if not gradients:
        raise RuntimeError(
            "step() finds no gradient in the optimizer's parameters: leave zero_grad() to the engine, and give the "
            "optimizer the parameters of the model that the losses come from"
        )
