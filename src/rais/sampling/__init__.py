"""The samplers, to be read beside the poster; README.md in this folder has a card for each.

`SAMPLERS` has the class of each method by its name.
"""

from rais.sampling.base import Draw, NonFiniteNorm, Sampler
from rais.sampling.oracle import Oracle
from rais.sampling.rais import RAIS
from rais.sampling.smoothed import Smoothed
from rais.sampling.uniform import Uniform

SAMPLERS = {"uniform": Uniform, "oracle": Oracle, "smoothed": Smoothed, "rais": RAIS}

__all__ = ["RAIS", "SAMPLERS", "Draw", "NonFiniteNorm", "Oracle", "Sampler", "Smoothed", "Uniform"]
