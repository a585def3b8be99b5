"""√r in place of r: the multiplier for optimizers that divide by a running size of the gradient.

Adam's own step grows by √r where the gradient's second moment falls by r, and √r more makes r in all. That is an
argument, no derivation; what speaks for √r are the records of AdamW (docs/choosing.md, other optimizers).  [ours]
"""

from __future__ import annotations

from torch import Tensor

from rais.gain.moments import Minibatch
from rais.gain.ratio import Adaptive


class Root(Adaptive):
    """√(1 + φ(ρ − 1)), () float64; t̂ is its sum, as of any multiplier. For AdamW.  [ours, measured]

    All else, arguments, averages and errors, is as in `Adaptive`.
    """

    def update(self, batch: Minibatch) -> Tensor:
        return super().update(batch).sqrt()
