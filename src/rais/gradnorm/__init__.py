"""Per-example gradient norms: of the loss layer, in a few operations, and exact, of a whole model.

The loss-layer norm is what RAIS and smoothed sampling observe at every step. The exact norms serve the oracle
sampler, the scale of the gain ratio and the figure that compares the two.
"""

from __future__ import annotations

from rais.gradnorm.exact import exact_norms, norms_and_gradient
from rais.gradnorm.layers import register_formula
from rais.gradnorm.loss_layer import softmax_cross_entropy_norm
from rais.gradnorm.outputs import output_norm
from rais.gradnorm.per_example import PerExampleNorms

__all__ = [
    "PerExampleNorms",
    "exact_norms",
    "norms_and_gradient",
    "output_norm",
    "register_formula",
    "softmax_cross_entropy_norm",
]
