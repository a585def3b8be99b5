"""RAIS: robust, approximate importance sampling for training deep models faster.

The names here are what any training loop needs: a sampler, the norms it observes, and the gain ratio
that multiplies the learning rate. Settings, data, records and figures of the reproduction are in the submodules.
"""

from rais.batch_norm import prepare
from rais.gain import Adaptive, Consecutive, ExactScale, Exponential, FromParts, HalfBatch, InverseSqrt, Minibatch
from rais.gradnorm import exact_norms, output_norm, softmax_cross_entropy_norm
from rais.loop.engine import Engine
from rais.loop.loader import Loader
from rais.loop.outliers import OutlierCap
from rais.sampling import RAIS, Draw, Oracle, Sampler, Smoothed, Uniform

__version__ = "0.1.0"

__all__ = [
    "RAIS",
    "Adaptive",
    "Consecutive",
    "Draw",
    "Engine",
    "ExactScale",
    "Exponential",
    "FromParts",
    "HalfBatch",
    "InverseSqrt",
    "Loader",
    "Minibatch",
    "Oracle",
    "OutlierCap",
    "Sampler",
    "Smoothed",
    "Uniform",
    "exact_norms",
    "output_norm",
    "prepare",
    "softmax_cross_entropy_norm",
]
