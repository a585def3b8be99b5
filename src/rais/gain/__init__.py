"""The gain ratio: how much larger a step the lower variance allows, and the time t̂ that it makes pass."""

from rais.gain.pace import Exponential, InverseSqrt
from rais.gain.ratio import (
    Adaptive,
    Consecutive,
    Exact,
    ExactScale,
    HalfBatch,
    Minibatch,
    Off,
    Phi,
    Replay,
    RunningMean,
    exact_moments,
    inner,
)

__all__ = [
    "Adaptive",
    "Consecutive",
    "Exact",
    "ExactScale",
    "Exponential",
    "HalfBatch",
    "InverseSqrt",
    "Minibatch",
    "Off",
    "Phi",
    "Replay",
    "RunningMean",
    "exact_moments",
    "inner",
]
