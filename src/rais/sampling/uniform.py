"""Uniform sampling without replacement: plain SGD's epochs.

Every example is seen once an epoch in a fresh random order, and all weights are 1. The other samplers use it for
the time in which they know nothing yet, so their first epoch is SGD's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rais.sampling.base import Sampler
from rais.sampling.draw import Draw


class Uniform(Sampler):
    """Draws p_i = 1/n, one random permutation after another; a minibatch may reach into the next permutation.

    So every epoch takes n/m iterations also when m does not divide n, and no example is left out.

    Args:
        replacement: draw independently instead, so that an example may come twice before another comes once: what
            plain SGD loses by drawing as importance sampling does.

    >>> sampler = Uniform(6, 3, seed=0)
    >>> sorted(torch.cat([sampler.draw().index, sampler.draw().index]).tolist())
    [0, 1, 2, 3, 4, 5]
    """

    needs_norms = False
    weighs_one = True

    def __init__(
        self,
        n: int,
        m: int,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        replacement: bool = False,
    ) -> None:
        super().__init__(n, m, seed=seed, generator=generator)
        self.replacement = replacement
        self.ones = torch.ones(m, dtype=torch.float32, device=self.device)
        # What is left of the permutation, in 4 bytes an example where that is enough.
        self.order = torch.empty(0, dtype=torch.int32 if n < 2**31 else torch.int64, device=self.device)

    def next(self) -> Tensor:
        """The indices (m,) of the next minibatch."""
        if self.replacement:
            return torch.randint(self.n, (self.m,), generator=self.generator, device=self.device)
        if len(self.order) < self.m:
            more = torch.randperm(self.n, generator=self.generator, device=self.device, dtype=self.order.dtype)
            self.order = torch.cat([self.order, more]) if len(self.order) else more
        index, self.order = self.order[: self.m], self.order[self.m :]
        return index.to(torch.int64)

    def again(self, index: Tensor, after: int) -> None:
        """Put the examples `index` (k,) behind the next `after` of what is left of the permutation."""
        self.order = torch.cat([self.order[:after], index.to(self.order.dtype), self.order[after:]])

    def draw(self) -> Draw:
        return self._hand_out(self.next(), self.ones, mean_norm=1.0)

    def probabilities(self) -> Tensor:
        return torch.full((self.n,), 1.0 / self.n, dtype=torch.float64, device=self.device)

    def _settings(self) -> dict[str, Any]:
        return {**super()._settings(), "replacement": self.replacement}

    def _rest(self) -> dict[str, Any]:
        return {"order": self.order.clone()}

    def _adopt(self, state: dict[str, Any], tables: dict[str, Tensor]) -> None:
        self.order = state["order"].to(self.device, copy=True)

    def _of_size(self, n: int) -> Uniform:
        return Uniform(n, self.m, generator=torch.Generator(self.device), replacement=self.replacement)

    def _extend(self, smaller: Any) -> None:
        self.tickets = smaller.tickets
        self.generator.set_state(smaller.generator.get_state())
        self.take_over(smaller.order, smaller.n)

    def take_over(self, order: Tensor, known: int) -> None:
        """Continue with what `order` has left, the examples from `known` on shuffled in."""
        order = torch.cat([order, torch.arange(known, self.n, dtype=order.dtype, device=self.device)])
        self.order = order[torch.randperm(len(order), generator=self.generator, device=self.device)]
