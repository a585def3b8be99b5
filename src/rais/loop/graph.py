"""What the graph of a minibatch's losses tells: which loss it is, and whether batch statistics went in unweighted.

A plain softmax cross-entropy has a norm that does not underflow, and nobody has to ask for it. A model that ends in a
softmax or a sigmoid has its norms at what goes into that. Batch normalisation in training mode is seen here even where
the engine was not given the model, unless it is hidden in a compiled graph or in a reentrant checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from rais.gradnorm import output_norm, softmax_cross_entropy_norm
from rais.gradnorm.outputs import norm_at

ACTIVATIONS = ("LogSoftmaxBackward", "SoftmaxBackward", "SigmoidBackward", "LogSigmoidBackward")
BATCH_STATISTICS = ("NativeBatchNormBackward", "CudnnBatchNormBackward", "MiopenBatchNormBackward", "SyncBatchNorm")


def norm_of(losses: Tensor, out: Tensor) -> Tensor:
    """‖∂f_i/∂z_i‖ (m,) of the `losses` (m,) in the outputs z (m, …).

    z is what goes into the last softmax or sigmoid where `out` comes from one: in log-probabilities every example has
    the same norm. The norm is that of `softmax_cross_entropy_norm` where F.cross_entropy(z, labels, reduction="none")
    or its like made the losses, else that of `output_norm`, which see for the errors.
    """
    if not isinstance(out, Tensor):
        return output_norm(losses, out)
    node: Any = losses.grad_fn
    if out.dim() == 2 and node is not None and node.name().startswith("NllLossBackward"):
        inner = node.next_functions[0][0]
        if node._saved_weight is None and inner is not None and inner.name().startswith("LogSoftmaxBackward"):
            source, position = inner.next_functions[0]
            own = inner is out.grad_fn or (source is out.grad_fn and position == out.output_nr)
            if own or (out.grad_fn is None and getattr(source, "variable", None) is out):
                return softmax_cross_entropy_norm(  # log-probabilities are logits too
                    out.detach(), node._saved_target.long(), ignore_index=signed(node._saved_ignore_index)
                )
    last: Any = out.grad_fn
    if last is not None and last.name().startswith(ACTIVATIONS) and losses.shape == out.shape[:1]:
        return norm_at(losses, GradientEdge(*last.next_functions[0]), out.dtype)
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
    return any(
        node.name().startswith(BATCH_STATISTICS) and getattr(node, "_saved_training", True) and not _is_of_one(node)
        for node in nodes(losses)
    )


def _is_of_one(node: Any) -> bool:
    """Whether a batch normalisation has a batch of one: instance normalisation, its examples are among the channels."""
    metadata: Any = getattr(node, "_input_metadata", ())
    return len(metadata) > 0 and len(metadata[0].shape) > 1 and int(metadata[0].shape[0]) == 1


def refuse_donated(losses: Tensor, parameters: Sequence[Tensor]) -> None:
    """Refuse a compiled graph that is good for one backward only, where φ will need it twice.

    Raises:
        RuntimeError: it names the cure.
    """
    if not any(node.name().startswith("CompiledFunction") for node in nodes(losses)):
        return
    try:
        torch.autograd.grad(losses.sum(), parameters, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "donated" not in str(error):
            raise
        raise RuntimeError(
            "the compiled model's graph is good for one backward only, and φ needs it twice: set "
            "torch._functorch.config.donated_buffer = False before its first call, or work each draw off in two, "
            "engine.part(draw, i, 2)"
        ) from None


def refuse_reentrant(losses: Tensor) -> None:
    """Refuse a checkpoint that only .backward() can enter, where φ needs gradients beside it.

    Raises:
        RuntimeError: it names the cure.
    """
    if any(node.name() == "CheckpointFunctionBackward" for node in nodes(losses)):
        raise RuntimeError(
            "the model runs under torch.utils.checkpoint with use_reentrant=True, which hides its parameters from "
            "engine.loss(): call checkpoint(..., use_reentrant=False), or engine.backward in its place"
        )


def nodes(losses: Tensor) -> Iterator[Any]:
    """The nodes of the graph of `losses`, each once."""
    seen: set[Any] = set()
    ahead = [losses.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            ahead += [below for below, _ in node.next_functions]


def after_backward(then: Callable[[], None]) -> None:
    """Call `then` once the backward that is on has ended, and what others have asked for the same with it, such as
    DistributedDataParallel's averages. To be called during a backward."""
    engine = torch.autograd.Variable._execution_engine
    engine.queue_callback(lambda: engine.queue_callback(then))
