"""The oracle: exact gradient norms of all n examples at every iteration.

It draws in proportion to the true norms, which gives the smallest variance of any distribution. It is far too slow
to train with; it is the yardstick that the approximate samplers are measured against.

| paper   | code          | shape | unit                                     |
|---------|---------------|-------|------------------------------------------|
| v_i     | norms         | (n,)  | ‖∇f_i‖ at the current parameters         |
| ‖∇F‖²   | full_gradient_sq | () | squared norm of the mean gradient        |
| p_i     | probabilities | (n,)  | v_i/Σv   [seen]                          |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rais.sampling.base import Sampler, checked
from rais.sampling.categorical import Categorical
from rais.sampling.draw import Draw

Measure = Callable[[], tuple[Tensor, Tensor]]


class Oracle(Sampler):
    """p_i ∝ ‖∇f_i‖, measured anew before every draw.

    Args:
        measure: returns the exact norms (n,) and the squared norm () of the mean gradient, both at the current
            parameters.

    After a draw, `norms` and `full_gradient_sq` hold what it was made from: with them the gain ratio is exact
    (gain.Exact). If all gradients are zero, the draw is uniform.

    >>> sampler = Oracle(4, 2, measure=lambda: (torch.tensor([0.0, 1.0, 1.0, 2.0]), torch.tensor(0.5)), seed=0)
    >>> draw = sampler.draw()
    >>> sampler.probabilities().tolist()
    [0.0, 0.25, 0.25, 0.5]

    Raises:
        ValueError: m not in 1 … n.
    """

    needs_norms = False

    def __init__(
        self,
        n: int,
        m: int,
        *,
        measure: Measure,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n, m, seed=seed, generator=generator)
        self.measure = measure
        self.exact = Categorical(n, device=self.device)
        self.exact.set_all(torch.ones(n, dtype=torch.float32, device=self.device))
        self.norms: Tensor | None = None
        self.full_gradient_sq: Tensor | None = None

    def draw(self) -> Draw:
        self.norms, self.full_gradient_sq = self.measure()
        checked(Draw(torch.arange(self.n, device=self.device), self.norms), self.norms, self.n)
        self.exact.set_all(self.norms if self.norms.any() else torch.ones_like(self.norms))
        index = self.exact.sample(self.m, self.generator)
        return self._hand_out(index, self.weight(index).to(torch.float32), mean_norm=self.exact.mean())

    def weight(self, index: Tensor) -> Tensor:
        return self.exact.weight(index)

    def probabilities(self) -> Tensor:
        return self.exact.probabilities()

    def _tables(self, variant: dict[str, Any]) -> dict[str, Tensor]:
        return self.exact.tables()
