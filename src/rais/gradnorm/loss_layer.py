"""Norm of the gradient of a softmax cross-entropy with respect to its logits, in place of the norm over all parameters.

It needs the logits only, so every training step has it for the price of a few small operations. Differences
of nearly equal numbers are avoided throughout, because the well-learned examples are those whose norms decide
the sampling. Other losses go through `output_norm`.

| symbol      | code name | shape  | unit                     |
|-------------|-----------|--------|--------------------------|
| z_i         | logits    | (b, C) | nats                     |
| y_i         | target    | (b,)   | class index              |
| softmax(z)  | p         | (b, C) | probability              |
| p, but 0 at y | others  | (b, C) | probability              |
| u_k t_k     | q         | (b, C) | class weight times target probability, smoothed |
| v_i         | result    | (b,)   | nats per unit of a logit |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rais import compiled
from rais.gradnorm import loops

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


def softmax_cross_entropy_norm(
    logits: Float[Tensor, "b C"],
    target: Int64[Tensor, " b"] | Float[Tensor, "b C"],
    *,
    weight: Float[Tensor, " C"] | None = None,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
) -> Float[Tensor, " b"]:
    """‖∇_{z_i} f_i‖₂ of each example for f = F.cross_entropy(logits, target, reduction="none") with the same arguments.

    Plain, it is ‖softmax(z_i) − y_i‖₂. It belongs to the loss of one example, so it is the same whether the
    training loss is a sum or a mean. At the label the gradient is −Σ_{k≠y} p_k, which is summed instead of computed
    as p_y − 1: relative accuracy then holds down to the smallest normal number of float32 (about 1e-38), where
    1 − p_y would be 0 from 6e-8 on.

        >>> logits = torch.tensor([[0.0, 0.0], [40.0, 0.0]])
        >>> softmax_cross_entropy_norm(logits, torch.tensor([0, -100]))
        tensor([0.7071, 0.0000])

    Args:
        logits: (b, C) floating point, C ≥ 2; they may require gradients, the result does not.
        target: (b,) int64 in [0, C) or `ignore_index`, or (b, C) class probabilities; on the same device.
        weight: (C,) class weights, as in F.cross_entropy; not the importance weights of a draw.
        label_smoothing: in [0, 1], as in F.cross_entropy.
        ignore_index: the label whose examples have loss 0, and so norm 0.

    Returns:
        (b,) norms on the device of the logits; float64 for float64 logits, otherwise float32.

    Raises:
        ValueError: wrong shape; one logit an example; a label outside [0, C) (on the CPU; elsewhere it is torch's
            own assertion, since looking at values would make the device wait); label_smoothing out of range;
            `ignore_index` together with class probabilities.
        TypeError: wrong dtype.

    Source: poster, "norm of the loss layer's gradient" [seen]; form without
    cancellation [derived, docs/derivations.md: loss-layer norm].
    """
    _check(logits, target, weight, label_smoothing, ignore_index)
    if target.dim() == 1 and weight is None and label_smoothing == 0 and compiled.serves(logits.device):
        norms, wrong = loops.label_norms(compiled.array(logits), target.numpy(), ignore_index)
        if wrong:
            raise _wrong_labels(target[target != ignore_index], logits, ignore_index)
        return torch.from_numpy(norms)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    # In float64 no square of a float32 probability vanishes.
    p = torch.softmax(logits.detach(), 1, dtype=torch.float64)
    if target.dim() == 2:
        return _norm_of_probabilities(p, target.detach().double(), weight, label_smoothing).to(dtype)
    ignored = target == ignore_index
    index = target.masked_fill(ignored, 0).unsqueeze(1)
    try:
        if label_smoothing == 0:
            others = p.scatter_(1, index, 0)
            norm = torch.hypot(torch.linalg.vector_norm(others, dim=1), others.sum(1))
            norm = norm if weight is None else norm * weight.detach().double()[index[:, 0]].abs()
        else:
            norm = _norm_of_probabilities(p, torch.zeros_like(p).scatter_(1, index, 1), weight, label_smoothing)
    except (RuntimeError, IndexError) as error:
        if target.device.type != "cpu":
            raise
        raise _wrong_labels(index, logits, ignore_index) from error
    return norm.masked_fill_(ignored, 0).to(dtype)


def _wrong_labels(target: Tensor, logits: Tensor, ignore_index: int) -> ValueError:
    low, high = (extreme.item() for extreme in target.aminmax())
    return ValueError(
        f"labels from {low} to {high}: they must be in [0, {logits.shape[1]}), or ignore_index={ignore_index}"
    )


def _norm_of_probabilities(p: Tensor, t: Tensor, weight: Tensor | None, label_smoothing: float) -> Tensor:
    """‖p Σ_k q_k − q‖₂ (b,), the gradient of −Σ_k q_k log p_k, q = weight·((1 − ε) t + ε/C).
    [derived, docs/derivations.md: loss-layer norm]

    Component k is p_k Σ_{j≠k} q_j − q_k Σ_{j≠k} p_j, which keeps its accuracy where p and q nearly agree on one class.
    """
    q = t * (1 - label_smoothing) + label_smoothing / p.shape[1]
    if weight is not None:
        q = q * weight.detach().double()
    norm: Tensor = torch.linalg.vector_norm(p * _sum_of_others(q) - q * _sum_of_others(p), dim=1)
    return norm


def _sum_of_others(x: Tensor) -> Tensor:
    """Σ_{j≠k} x_j (b, C): as a difference from the sum, but added up where x_k is most of it."""
    top = x.argmax(1, keepdim=True)
    others = x.scatter(1, top, 0).sum(1, keepdim=True)
    return (x.sum(1, keepdim=True) - x).scatter_(1, top, others)


def _check(logits: Tensor, target: Tensor, weight: Tensor | None, label_smoothing: float, ignore_index: int) -> None:
    if logits.dim() != 2 or target.shape not in (logits.shape[:1], logits.shape):
        raise ValueError(
            f"logits must have shape (b, C) and target (b,) or (b, C), {_shapes(logits, target)}; one "
            "example gets a batch dimension by x[None], for other shapes use output_norm(losses, logits) with one loss "
            "per example"
        )
    if logits.shape[1] < 2:
        raise ValueError(
            f"a softmax over one class is constant, {_shapes(logits, target)}; for "
            "binary_cross_entropy_with_logits or a regression use output_norm(losses, logits)"
        )
    if not logits.is_floating_point() or (target.dim() == 1 and target.dtype != torch.int64):
        raise TypeError(
            f"logits must be floating point and labels int64, got {logits.dtype} and {target.dtype}; "
            "convert with logits.float() and labels.long()"
        )
    if target.dim() == 2 and not target.is_floating_point():
        raise TypeError(
            f"target of shape (b, C) must be floating-point class probabilities, got {target.dtype}; convert by "
            "target.float(), or use output_norm(losses, logits) if an example may have several labels"
        )
    if target.dim() == 2 and ignore_index != -100:
        raise ValueError(f"ignore_index={ignore_index} has no meaning for class probabilities; leave it out")
    if weight is not None and weight.shape != logits.shape[1:]:
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}: {logits.shape[1]} classes need ({logits.shape[1]},); "
            "importance weights do not belong here"
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing={label_smoothing} is out of range: it must be in [0, 1]")


def _shapes(logits: Tensor, target: Tensor) -> str:
    return f"got logits {tuple(logits.shape)} and target {tuple(target.shape)}"
