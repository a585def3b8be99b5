"""What the graph of a minibatch's losses tells: which loss it is, and whether batch statistics went in unweighted.

A plain softmax cross-entropy has a norm that does not underflow, and nobody has to ask for it. Batch normalisation
in training mode is seen here even where the engine was not given the model, unless it is hidden in a compiled graph
or in a reentrant checkpoint.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rais.gradnorm import output_norm, softmax_cross_entropy_norm

BATCH_STATISTICS = ("NativeBatchNormBackward", "CudnnBatchNormBackward", "MiopenBatchNormBackward", "SyncBatchNorm")


def norm_of(losses: Tensor, out: Tensor) -> Tensor:
    """‖∂f_i/∂z_i‖ (m,) of the `losses` (m,) in the outputs (m, …).

    That of `softmax_cross_entropy_norm` where F.cross_entropy(out, labels, reduction="none") made them, else that of
    `output_norm`, which see for the errors.
    """
    node: Any = losses.grad_fn
    if out.dim() == 2 and node is not None and node.name().startswith("NllLossBackward"):
        inner = node.next_functions[0][0]
        if node._saved_weight is None and inner is not None and inner.name().startswith("LogSoftmaxBackward"):
            source, position = inner.next_functions[0]
            own = source is out.grad_fn and position == out.output_nr
            if own or (out.grad_fn is None and getattr(source, "variable", None) is out):
                return softmax_cross_entropy_norm(
                    out.detach(), node._saved_target, ignore_index=signed(node._saved_ignore_index)
                )
    return output_norm(losses, out)


def signed(saved: int) -> int:
    """An int64 that autograd hands out as unsigned: −100 comes as 2⁶⁴ − 100."""
    return saved - 2**64 if saved >= 2**63 else saved


def refuse_unweighted(losses: Tensor) -> None:
    """Refuse a model whose batch statistics count every example alike, which would bias the gradient.

    Raises:
        RuntimeError: batch normalisation in training mode, other than this package's, is in the graph.
    """
    if has_unweighted_statistics(losses):
        raise RuntimeError(
            "the model has batch normalisation in training mode whose statistics are not weighted: "
            "model = rais.prepare(model), and Engine(…, model=model)"
        )


def has_unweighted_statistics(losses: Tensor) -> bool:
    """Whether batch normalisation in training mode, other than this package's, is in the graph of `losses`."""
    seen: set[Any] = set()
    nodes = [losses.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().startswith(BATCH_STATISTICS) and getattr(node, "_saved_training", True):
            return True
        nodes += [below for below, _ in node.next_functions]
    return False
