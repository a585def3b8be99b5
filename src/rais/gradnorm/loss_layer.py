"""Norm of the gradient of a loss layer with respect to its inputs, in place of the norm over all parameters.

It needs the logits only, so every training step has it for the price of a few small operations. Differences
of nearly equal numbers are avoided throughout, because the well-learned examples are those whose norms decide
the sampling.

| symbol      | code name | shape  | unit                     |
|-------------|-----------|--------|--------------------------|
| z_i         | logits    | (b, C) | nats                     |
| y_i         | labels    | (b,)   | class index              |
| softmax(z)  | others    | (b, C) | probability, 0 at label  |
| 1 − p_y     | wrong     | (b, 1) | probability              |
| v_i         | result    | (b,)   | nats per unit of a logit |
"""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_cross_entropy_norm(logits: Tensor, labels: Tensor) -> Tensor:
    """‖softmax(z_i) − y_i‖₂ of each example: the norm of its cross-entropy's gradient in its own logits.

    It belongs to the loss of one example, so it is the same whether the training loss is a sum or a mean. At
    the label the gradient is −Σ_{k≠y} p_k, which is summed instead of computed as p_y − 1: relative accuracy
    then holds down to the smallest normal number of the dtype (about 1e-38 in float32), where 1 − p_y would be 0
    from 6e-8 on.

    Args:
        logits: (b, C) floating point; they may require gradients, the result does not.
        labels: (b,) int64 in [0, C), on the same device. Only their dtype and shape are checked: looking at
            the values would make a GPU wait.

    Returns:
        (b,) norms in [0, √2], dtype and device of the logits.

    Raises:
        ValueError: wrong shape.
        TypeError: wrong dtype.

    Source: poster, "norm of the loss layer's gradient" [seen]; form without cancellation [derived].
    """
    if logits.dim() != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            "logits must have shape (b, C) and labels (b,), "
            f"got {tuple(logits.shape)} and {tuple(labels.shape)}; "
            "one-hot labels become indices by labels.argmax(1), one example gets a batch dimension by x[None]"
        )
    if not logits.is_floating_point() or labels.dtype != torch.int64:
        raise TypeError(
            f"logits must be floating point and labels int64, got {logits.dtype} and {labels.dtype}; "
            "convert with logits.float() and labels.long()"
        )
    # In float64 no square of a float32 probability vanishes.
    others = torch.softmax(logits.detach(), 1, dtype=torch.float64).scatter_(1, labels.unsqueeze(1), 0)
    return torch.hypot(torch.linalg.vector_norm(others, dim=1), others.sum(1)).to(logits.dtype)
