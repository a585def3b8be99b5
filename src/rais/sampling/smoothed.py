"""Smoothed sampling: the last seen gradient norm of each example, mixed with the uniform distribution.

The point estimate v̂_i is taken at its word, and the share δ of uniform draws is all the protection there is. The
poster's argument for RAIS is what happens here: δ too large limits the speed-up, δ too small diverges.

| paper | code          | shape | unit                                     |
|-------|---------------|-------|------------------------------------------|
| v̂_i   | estimates     | (n,)  | gradient norm, as observed               |
| δ     | delta         |       | share of the probability that is uniform |
| p_i   | probabilities | (n,)  | (1−δ) v̂_i/Σv̂ + δ/n   [seen]              |
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rais.sampling.base import Sampler, mean_of_repeats
from rais.sampling.categorical import Categorical
from rais.sampling.draw import Draw
from rais.sampling.uniform import Uniform

SMALLEST_NORM = torch.finfo(torch.float32).tiny


class Smoothed(Sampler):
    """p_i = (1−δ) v̂_i/Σv̂ + δ/n after one uniform epoch, in which every v̂_i is seen [seen; the uniform first
    epoch recalled].

    Args:
        delta: δ in [0, 1]; 1 is uniform sampling with replacement.

    An observed norm of exactly 0 is kept as the smallest positive float32, so that with δ = 0 every example can
    still be drawn and the gradient stays unbiased [ours].

    >>> sampler = Smoothed(4, 2, delta=0.2, seed=0)
    >>> for _ in range(2):  # one epoch, in which example i has the norm i
    ...     draw = sampler.draw()
    ...     sampler.observe(draw, draw.index.float())
    >>> [round(p, 3) for p in sampler.probabilities().tolist()]  # 0.8 i/6 + 0.2/4
    [0.05, 0.183, 0.317, 0.45]

    Raises:
        ValueError: δ outside [0, 1], or m not in 1 … n.
    """

    def __init__(
        self,
        n: int,
        m: int,
        *,
        delta: float,
        seed: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n, m, seed=seed, generator=generator)
        if not 0 <= delta <= 1:
            raise ValueError(f"delta={delta} must be in [0, 1]: it is the share of the probability that is uniform")
        self.delta = delta
        self.estimates = Categorical(n, device=self.device)
        self.first_epoch = Uniform(n, m, generator=self.generator)
        self.visited = 0

    @property
    def knows_every_example(self) -> bool:
        return self.visited >= self.n

    def draw(self) -> Draw:
        if not self.knows_every_example:
            return self._hand_out(self.first_epoch.next(), self.first_epoch.ones)
        by_norm = self.estimates.sample(self.m, self.generator)
        by_chance = torch.randint(self.n, (self.m,), generator=self.generator, device=self.device)
        is_uniform = torch.rand(self.m, generator=self.generator, device=self.device, dtype=torch.float64) < self.delta
        index = torch.where(is_uniform, by_chance, by_norm)
        return self._hand_out(index, self.weight(index).to(torch.float32), mean_norm=self.estimates.mean())

    def _learn(self, index: Tensor, weight: Tensor, side: Tensor | None, norm: Tensor) -> None:
        visits = len(index)
        self.visited += visits
        index, _, norm = mean_of_repeats(index, norm)
        self.estimates.set(index, norm.clamp_min(SMALLEST_NORM))
        if self.visited >= self.n > self.visited - visits:
            self._guess_the_unseen()

    def _guess_the_unseen(self) -> None:
        """An example whose first minibatch was never observed counts as the mean of the others."""
        seen = self.estimates.table[: self.n]
        known = seen > 0
        if known.all():
            return
        self.estimates.set_from(0, torch.where(known, seen, seen.sum(dtype=torch.float64).float() / known.sum()))

    def _forget(self, index: Tensor) -> None:
        if not self.knows_every_example:
            self.first_epoch.again(index, self._still_to_come(self.visited, len(index)))

    def weight(self, index: Tensor) -> Tensor:
        if not self.knows_every_example:
            return torch.ones(len(index), dtype=torch.float64, device=self.device)
        return 1.0 / ((1 - self.delta) / self.estimates.weight(index) + self.delta)

    def probabilities(self) -> Tensor:
        if not self.knows_every_example:
            return self.first_epoch.probabilities()
        return (1 - self.delta) * self.estimates.probabilities() + self.delta / self.n

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "delta": self.delta}

    def _tables(self, variant: dict[str, Any]) -> dict[str, Tensor]:
        return self.estimates.tables()

    def _rest(self) -> dict[str, Any]:
        return {"visited": self.visited, "order": self.first_epoch.order.clone()}

    def _adopt(self, state: dict[str, Any], tables: dict[str, Tensor]) -> None:
        self.visited = state["visited"]
        self.first_epoch.order = state["order"].to(self.device, copy=True)

    def _of_size(self, n: int) -> Smoothed:
        return Smoothed(n, self.m, delta=self.delta, generator=torch.Generator(self.device))

    def _extend(self, smaller: Any) -> None:
        """A new example has the mean of the norms known so far, or comes within the first pass while that lasts."""
        self.visited, self.tickets = smaller.visited, smaller.tickets
        self.generator.set_state(smaller.generator.get_state())
        if smaller.knows_every_example:
            self.visited = self.n
        unknown = smaller.estimates.mean() if smaller.knows_every_example else 0.0
        self.estimates.extend(
            smaller.estimates, torch.as_tensor(unknown, dtype=torch.float32, device=self.device)[None]
        )
        self.first_epoch.take_over(smaller.first_epoch.order, smaller.n)
