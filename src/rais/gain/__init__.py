"""The gain ratio: how much larger a step the lower variance allows, and the time t̂ that it makes pass."""

from rais.gain.fixed import Exact, Off, Replay
from rais.gain.moments import Minibatch, RunningMean, SquaredParts, exact_moments
from rais.gain.pace import Exponential, InverseSqrt, Pace
from rais.gain.phi import FromParts, HalfBatch, Phi, full_gradient_sq, inner
from rais.gain.phi_from_grad import Consecutive, ExactScale
from rais.gain.ratio import Adaptive, GainRatio
from rais.gain.root import Root

__all__ = [
    "Adaptive",
    "Consecutive",
    "Exact",
    "ExactScale",
    "Exponential",
    "FromParts",
    "GainRatio",
    "HalfBatch",
    "InverseSqrt",
    "Minibatch",
    "Off",
    "Pace",
    "Phi",
    "Replay",
    "Root",
    "RunningMean",
    "SquaredParts",
    "exact_moments",
    "full_gradient_sq",
    "inner",
]
