"""Making the batch normalisation of any model weighted, and finding what cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from torch import Tensor, nn

from rais.batch_norm.layers import (
    Statistics,
    WeightedBatchNorm,
    WeightedBatchNorm1d,
    WeightedBatchNorm2d,
    WeightedBatchNorm3d,
)
from rais.batch_norm.ranks import WeightedSyncBatchNorm
from rais.gradnorm.shared import may_share_statistics

_WEIGHTED: dict[type[nn.Module], type[WeightedBatchNorm]] = {
    nn.BatchNorm1d: WeightedBatchNorm1d,
    nn.BatchNorm2d: WeightedBatchNorm2d,
    nn.BatchNorm3d: WeightedBatchNorm3d,
    nn.SyncBatchNorm: WeightedSyncBatchNorm,
}


@cache
def _weighted_batch_norm_act() -> type[WeightedBatchNorm]:
    """timm's BatchNormAct2d, which drops and activates what it normalised, with weights. Made when it is needed."""
    from timm.layers import BatchNormAct2d

    class WeightedBatchNormAct2d(WeightedBatchNorm, BatchNormAct2d):  # type: ignore[misc]  # timm need not be there
        drop: nn.Module
        act: nn.Module

        def _normalise(self, x: Tensor, statistics: Statistics) -> Tensor:
            normalised: Tensor = self.act(self.drop(super()._normalise(x, statistics)))
            return normalised

    WeightedBatchNormAct2d.__qualname__ = "WeightedBatchNormAct2d"  # so that a model can be pickled
    return WeightedBatchNormAct2d


def __getattr__(name: str) -> type[WeightedBatchNorm]:
    if name == "WeightedBatchNormAct2d":
        return _weighted_batch_norm_act()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _weighted_class(layer: type[nn.Module]) -> type[WeightedBatchNorm] | None:
    if layer.__name__ == "BatchNormAct2d" and layer.__module__.startswith("timm."):
        return _weighted_batch_norm_act()
    return _WEIGHTED.get(layer)


def prepare(model: nn.Module) -> nn.Module:
    """Make every batch normalisation of `model` a weighted one, in place, and return the model.

    BatchNorm1d, 2d, 3d, SyncBatchNorm and timm's BatchNormAct2d change their class and nothing else: parameters,
    buffers, hooks and the keys of the state_dict stay, and without weights so does what they compute. A second call
    changes nothing.

        >>> import torch
        >>> from rais.batch_norm import Weighted
        >>> model = prepare(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)))
        >>> logits = Weighted(model)(torch.randn(8, 4), torch.ones(8))

    Raises:
        ValueError: some layers with statistics of the batch cannot be converted (all are named; nothing was changed).
    """
    found: list[tuple[nn.Module, type[WeightedBatchNorm]]] = []
    odd: list[tuple[str, nn.Module]] = []
    for name, module in unweighted(model):
        weighted = _weighted_class(type(module))
        if weighted is None:
            odd.append((name, module))
        else:
            found.append((module, weighted))
    if odd:
        raise ValueError(
            f"{titles(odd)} may normalise with statistics of the batch, and no weighted form of it is known: replace "
            "it by BatchNorm or GroupNorm; a lazy layer needs one forward first"
        )
    for module, weighted in found:
        module.__class__ = weighted
    return model


def unweighted(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if may_share_statistics(module) and not isinstance(module, WeightedBatchNorm):
            yield name, module


def titles(layers: list[tuple[str, nn.Module]]) -> str:
    return ", ".join(f"{name or 'the model'} ({type(module).__name__})" for name, module in layers)
