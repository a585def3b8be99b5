"""Batch normalisation whose statistics are weighted by the importance weights of the minibatch.

Examples drawn with probabilities p are no fair sample of the training set, so plain batch statistics would be
biased towards the examples that are drawn often; they must be weighted by 1/(n p_i) [seen]. The self-normalised
form and the running variance's correction are this project's [ours]. `prepare` gives a model such layers, and
weights arrive through `Weighted` or `weights`, for one forward and all that its backward recomputes.
"""

from __future__ import annotations

from rais.batch_norm.layers import (
    WeightedBatchNorm,
    WeightedBatchNorm1d,
    WeightedBatchNorm2d,
    WeightedBatchNorm3d,
    reference,
)
from rais.batch_norm.prepare import prepare
from rais.batch_norm.ranks import WeightedSyncBatchNorm
from rais.batch_norm.weights import Weighted, weights

__all__ = [
    "Weighted",
    "WeightedBatchNorm",
    "WeightedBatchNorm1d",
    "WeightedBatchNorm2d",
    "WeightedBatchNorm3d",
    "WeightedSyncBatchNorm",
    "prepare",
    "reference",
    "weights",
]
