"""√r in place of r: a multiplier that is tried for optimizers which divide by a running size of the gradient."""

from __future__ import annotations

from torch import Tensor

from rais.gain import Adaptive, Minibatch


class Root(Adaptive):
    """√(1 + φ(ρ − 1)); t̂ is its sum, as of any multiplier.  [ours]"""

    def update(self, batch: Minibatch) -> Tensor:
        return super().update(batch).sqrt()
