"""Norm of each example's loss gradient with respect to the model's outputs, for any loss.

One backward through the loss alone, which ends at the outputs, gives the gradients of all examples. It is what the
samplers observe where `softmax_cross_entropy_norm` does not apply: other losses, tokens, pixels.

| symbol     | code name | shape            | unit                       |
|------------|-----------|------------------|----------------------------|
| f_i        | losses    | (m,)             | loss                       |
| z_i        | outputs   | (m, ...)         | any                        |
| ∂f_i/∂z_i  | gradient  | (m, ...)         | loss per unit of an output |
| v_i        | result    | (m,)             | loss per unit of an output |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

if TYPE_CHECKING:
    from jaxtyping import Float

_BLOCK = 2**22  # numbers converted to float64 at once: it bounds the copy where outputs are logits of many tokens
_SCALE = 2.0**14  # keeps gradients down to 4e-12 in float16, which ends at 6e-8


def output_norm(losses: Float[Tensor, " m"], outputs: Float[Tensor, "m ..."]) -> Float[Tensor, " m"]:
    """‖∂f_i/∂z_i‖₂ of each example, f_i = losses[i], z_i = outputs[i].

    The graph is kept, so the training step's own backward can follow. Loss i must depend on output i alone: for a
    loss that compares examples (contrastive losses) the result is the norm of the gradient of the SUM of the losses
    in z_i. For a softmax cross-entropy in float32, examples with 1 − p_y below 6e-8 are up to √2 too small;
    `softmax_cross_entropy_norm` is right there too.

        >>> outputs = torch.tensor([[3.0, 4.0], [0.0, 1.0]], requires_grad=True)
        >>> output_norm(outputs.square().sum(1) / 2, outputs)
        tensor([5., 1.])

    Args:
        losses: (m,), neither summed nor averaged over the examples, before any importance weight. A sequence or an
            image is one example: sum or average its tokens or pixels first, as the training loss does.
        outputs: (m, ...), the tensor the losses were computed from.

    Returns:
        (m,) norms on the device of the outputs; float64 for float64 outputs, otherwise float32.

    Raises:
        ValueError: losses that are a mean or a sum, or one per token; outputs or losses without a graph; losses that
            do not depend on the outputs.
        TypeError: losses or outputs are no tensors.

    Source: poster, "norm of the loss layer's gradient with respect to its inputs" [seen].
    """
    _check(losses, outputs)
    return norm_at(losses, outputs, outputs.dtype)


def norm_at(losses: Tensor, where: Tensor | GradientEdge, dtype: torch.dtype) -> Tensor:
    """`output_norm` at a place of the graph that has this dtype, unchecked."""
    if dtype == torch.float16:  # both, since looking for an overflow would make a GPU wait
        scaled = _row_norms(_gradient(losses, where, _SCALE)) / _SCALE
        norm = torch.where(scaled.isfinite(), scaled, _row_norms(_gradient(losses, where, 1.0)))
    else:
        norm = _row_norms(_gradient(losses, where, 1.0))
    return norm.to(torch.promote_types(dtype, torch.float32))


def _gradient(losses: Tensor, where: Tensor | GradientEdge, scale: float) -> Tensor:
    (gradient,) = torch.autograd.grad(
        losses, where, torch.full_like(losses, scale), retain_graph=True, allow_unused=True
    )
    if gradient is None:
        raise ValueError(
            "the losses do not depend on these outputs; pass the tensor itself that the losses were computed from, "
            "not a copy or a slice made beside it"
        )
    return gradient.detach()


def _row_norms(gradient: Tensor) -> Tensor:
    """Norms (m,) in float64, where no square of a float32 number vanishes or overflows."""
    rows = gradient.unsqueeze(-1).flatten(1)
    blocks = rows.split(max(1, _BLOCK // max(1, rows.shape[1])))
    return torch.cat([torch.linalg.vector_norm(block, dim=1, dtype=torch.float64) for block in blocks])


def _check(losses: Tensor, outputs: Tensor) -> None:
    for name, value in (("losses", losses), ("outputs", outputs)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}; pass its tensor, such as out.logits")
    if losses.dim() == 0:
        raise ValueError(
            "the losses are one number, a mean or sum over the batch: compute them with reduction='none' and pass one "
            "loss per example"
        )
    if outputs.dim() == 0 or losses.shape != outputs.shape[:1]:
        cure = "the examples must be dimension 0 of both"
        if losses.dim() > 1:
            cure = "sum or average the tokens or pixels of each example first, by losses.flatten(1).sum(1) or .mean(1)"
        elif outputs.dim() > 1 and len(outputs) and losses.numel() % len(outputs) == 0:
            cure = f"if they are one per token, make them one per example by losses.view({len(outputs)}, -1).sum(1)"
        raise ValueError(
            f"losses must have shape (m,) for outputs (m, ...), got {tuple(losses.shape)} and "
            f"{tuple(outputs.shape)}; {cure}"
        )
    for name, tensor in (("outputs", outputs), ("losses", losses)):
        if not tensor.requires_grad:
            raise ValueError(
                f"the {name} have no graph: compute them outside torch.no_grad() and without detach(), from parameters "
                "or outputs that require gradients"
            )
