"""The samplers, to be read beside the poster; README.md in this folder has a card for each.

A name in the settings becomes one of these classes in rais.paper.training.build.
"""

from rais.sampling.base import NonFiniteNorm, Sampler
from rais.sampling.draw import Draw
from rais.sampling.oracle import Oracle
from rais.sampling.rais import RAIS
from rais.sampling.smoothed import Smoothed
from rais.sampling.uniform import Uniform

__all__ = ["RAIS", "Draw", "NonFiniteNorm", "Oracle", "Sampler", "Smoothed", "Uniform"]
