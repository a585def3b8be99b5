"""Squared norms of per-example parameter gradients, one formula for each kind of layer.

A layer's parameter gradient is a product of what went into the layer and the gradient that comes back to its
output, so both together give the gradient of every single example without one more pass. The mathematics
of a layer is here, once; which layers a model has and when their inputs and gradients are at hand is known
by `exact`.

| symbol        | code name | shape                | unit                                                 |
|---------------|-----------|----------------------|------------------------------------------------------|
| x_i           | x         | (b, ...) layer input | any                                                  |
| ∂Σf_i/∂output | grad      | (b, ...) like output | loss per unit of output                              |
| L             | positions | scalar               | places of an example that share the weights (pixels) |

Scaling: `grad` must come from the SUM of the per-example losses. From a mean, every result is smaller by b².
Both x and grad must be float32 or float64: half precision is converted before it comes here.
Squares of gradients below 1e-19 are 0 in float32. The formulas are [derived, docs/derivations.md: layer norms].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Numbers held at once by a block of examples: on a CPU what stays in its cache (15 to 25 % faster than all
# examples together on LeNet-5's convolutions [measured]), on a GPU what keeps it busy without filling its
# memory.
_BLOCK_ON_CPU = 2**18
_BLOCK_ON_GPU = 2**26


def _learns(module: nn.Module, name: str) -> bool:
    parameter = getattr(module, name)
    return parameter is not None and parameter.requires_grad


def _in_blocks(function: Callable[..., Tensor], numbers: int, *tensors: Tensor) -> Tensor:
    """Results (b,) of `function` on blocks of examples, each of which needs `numbers` intermediate values."""
    budget = _BLOCK_ON_CPU if tensors[0].device.type == "cpu" else _BLOCK_ON_GPU
    blocks = zip(*(t.split(max(1, budget // numbers)) for t in tensors), strict=True)
    return torch.cat([function(*block) for block in blocks])


def _ghost_is_cheaper(p: int, q: int, positions: int) -> bool:
    return positions * (p + q) < p * q


def _product_norms(left: Tensor, right: Tensor) -> Tensor:
    """‖left_i right_iᵀ‖²_F of left (b, p, positions) and right (b, q, positions): shape (b,).

    Either the product itself (p·q·L multiplications) or, where that is cheaper, the inner product of the two
    Gram matrices over positions (L²·(p+q)), known as the ghost norm.
    [derived, docs/derivations.md: layer norms]
    """
    p, positions = left.shape[1:]
    if _ghost_is_cheaper(p, right.shape[1], positions):
        gram = torch.bmm(left.transpose(1, 2), left).mul_(torch.bmm(right.transpose(1, 2), right))
        return gram.sum((1, 2)).clamp_min_(0)  # rounding can leave a tiny negative number where terms cancel
    return torch.bmm(left, right.transpose(1, 2)).square_().sum((1, 2))


def _product_size(p: int, q: int, positions: int) -> int:
    return 2 * positions**2 if _ghost_is_cheaper(p, q, positions) else p * q


def _linear(linear: nn.Linear, x: Tensor, grad: Tensor) -> Iterator[Tensor]:
    """Weight gradient of an example: Σ_l grad_l x_lᵀ over all dimensions between the first and the last."""
    if grad.dim() == 2:
        if _learns(linear, "weight"):
            yield grad.square().sum(1).mul_(x.square().sum(1))
        if _learns(linear, "bias"):
            yield grad.square().sum(1)
        return
    x, grad = x.flatten(1, -2).transpose(1, 2), grad.flatten(1, -2).transpose(1, 2)
    if _learns(linear, "weight"):
        yield _in_blocks(_product_norms, _product_size(grad.shape[1], *x.shape[1:]), grad, x)
    if _learns(linear, "bias"):
        yield grad.sum(2).square().sum(1)


def _padded(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """The input with the convolution's own padding written out."""
    margins: list[int] = []  # F.pad wants the last dimension first
    for side in (1, 0):
        if conv.padding == "same":
            total = conv.dilation[side] * (conv.kernel_size[side] - 1)
            margins += [total // 2, total - total // 2]
        elif not isinstance(conv.padding, str):  # "valid" is none
            margins += [conv.padding[side]] * 2
    if not any(margins):
        return x
    return F.pad(x, margins, mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode)


def _conv2d_weight(conv: nn.Conv2d, x: Tensor, grad: Tensor) -> Tensor:
    """Per group, Σ_l grad_l patch_lᵀ with patch_l the part of the padded input that output pixel l looks at.

    The patches are a strided view, copied once: faster than F.unfold (whose copy alone costs as much as this
    whole function on a CPU) and than one convolution with a group per example [measured].
    """
    b, channels = x.shape[:2]
    out_channels, height, width = grad.shape[1:]
    along_batch, along_channel, down, right = x.stride()
    patches = x.as_strided(
        (b, channels, *conv.kernel_size, height, width),
        (
            along_batch,
            along_channel,
            down * conv.dilation[0],
            right * conv.dilation[1],
            down * conv.stride[0],
            right * conv.stride[1],
        ),
        x.storage_offset(),
    )
    examples_and_groups, positions = b * conv.groups, height * width
    norms = _product_norms(
        grad.reshape(examples_and_groups, out_channels // conv.groups, positions),
        patches.reshape(examples_and_groups, -1, positions),
    )
    return norms.view(b, conv.groups).sum(1)


def _conv2d(conv: nn.Conv2d, x: Tensor, grad: Tensor) -> Iterator[Tensor]:
    if _learns(conv, "weight"):
        positions = grad.shape[2] * grad.shape[3]
        p, q = conv.out_channels // conv.groups, conv.weight[0].numel()
        numbers = conv.groups * (q * positions + _product_size(p, q, positions))
        yield _in_blocks(partial(_conv2d_weight, conv), numbers, _padded(conv, x), grad)
    if _learns(conv, "bias"):
        yield grad.sum((2, 3)).square().sum(1)


def _affine(module: nn.Module, normalized: Tensor, grad: Tensor, positions: int) -> Iterator[Tensor]:
    """Elementwise scale and shift of three-dimensional tensors, shared along dimension `positions`."""
    if _learns(module, "weight"):
        yield (grad * normalized).sum(positions).square().sum(1)
    if _learns(module, "bias"):
        yield grad.sum(positions).square().sum(1)


def _channels_first(tensor: Tensor) -> Tensor:
    """(b, C, ...) as (b, C, positions), also where there are no positions."""
    return tensor.unsqueeze(-1).flatten(2)


def _group_norm(norm: nn.GroupNorm, x: Tensor, grad: Tensor) -> Iterator[Tensor]:
    normalized = F.group_norm(x, norm.num_groups, eps=norm.eps)
    return _affine(norm, _channels_first(normalized), _channels_first(grad), positions=2)


def _batch_norm(norm: nn.modules.batchnorm._BatchNorm, x: Tensor, grad: Tensor) -> Iterator[Tensor]:
    assert norm.running_mean is not None and norm.running_var is not None  # a layer without them was refused
    mean, variance = norm.running_mean.to(x.dtype), norm.running_var.to(x.dtype)
    normalized = F.batch_norm(x, mean, variance, training=False, eps=norm.eps)
    return _affine(norm, _channels_first(normalized), _channels_first(grad), positions=2)


def _layer_norm(norm: nn.LayerNorm, x: Tensor, grad: Tensor) -> Iterator[Tensor]:
    normalized = F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
    shape = (len(x), -1, norm.weight.numel())
    return _affine(norm, normalized.reshape(shape), grad.reshape(shape), positions=1)


Formula = Callable[[Any, Tensor, Tensor], Iterator[Tensor]]  # layer, x, grad

_FORMULAS: dict[type[nn.Module], Formula] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.BatchNorm3d: _batch_norm,
    nn.SyncBatchNorm: _batch_norm,
}


def register_formula(layer: type[nn.Module], *, like: type[nn.Module]) -> None:
    """Give `layer`, a subclass of the torch layer `like` with a forward of its own, the formula of `like`.

    Only for a subclass that computes what `like` computes wherever per-example gradients exist. Subclasses of
    `layer` are not included. Raises ValueError where `layer` is no subclass of `like`, or `like` has no formula.
    """
    if like not in _FORMULAS:
        known = ", ".join(known.__name__ for known in _FORMULAS)
        raise ValueError(f"like={like.__name__} has no formula for per-example gradients: choose one of {known}")
    if not issubclass(layer, like):
        raise ValueError(f"{layer.__name__} is no subclass of {like.__name__}: its gradients need not be the same")
    _FORMULAS[layer] = _FORMULAS[like]


def formula_of(module: nn.Module) -> Formula | None:
    """The formula of a layer: (module, x, grad) → the squared gradient norms (b,) of each trainable
    parameter.

    None for any other module: also for subclasses, whose forward may do more unless `register_formula` was told
    otherwise, and for layers whose weight is computed from other parameters (weight normalisation).
    """
    return _FORMULAS.get(type(module)) if module._parameters.keys() <= {"weight", "bias"} else None
