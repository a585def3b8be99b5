"""RAIS: features → uncertainty set → robust distribution.

Every few minibatches the examples just seen get new features and with them a new probability; every ⌈|D|/10⌉ visits
the uncertainty set is learned anew from the last |D| and all probabilities follow. There is no mathematics here: it is
in features.py, uncertainty.py and robust.py.

| paper | code          | shape  | unit                                            |
|-------|---------------|--------|-------------------------------------------------|
| s_i   | features      | (n, q) | see features.py                                 |
| c, d  | c, d          | (q,)   | the uncertainty set; see uncertainty.py         |
| k     | k             | scalar | 1/norm; see robust.py                           |
| |D|   | visits        |        | recent visits that the set is learned from      |
| v_i   | robust_norms  | (n,)   | norm, the sampling weights; p_i = v_i/Σv        |
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rais.sampling.base import Draw, Sampler, mean_of_repeats
from rais.sampling.categorical import Categorical
from rais.sampling.features import NAMES, Features
from rais.sampling.robust import inverse_radius, robust_norms
from rais.sampling.side import Side
from rais.sampling.uncertainty import learn
from rais.sampling.uniform import Uniform
from rais.sampling.visits import Visits

VISITS = 20_000
SOLVES_PER_WINDOW = 10


class RAIS(Sampler):
    """Robust, approximate importance sampling.

    Args:
        visits: |D|, the number of recent visits the uncertainty set is learned from; min(20 000, n/2) if None, and at
            least m [20 000 recalled; n/2 ours].
        features: names of the features to use, out of `features.NAMES`, "constant" among them [all, recalled].
        refresh: minibatches that are drawn from one p; their visits take effect together, an example visited more than
            once among them counting as visited once. 1 updates p after every minibatch and costs about four times as
            much a step [ours].
        side: a feature of each visit that is drawn together with the example: the size of the crop offset [recalled as
            a feature; its draw is ours]. `Draw.side` then says which; None for none.

    Draws are uniform without replacement until the set is learned for the first time, after one pass over the
    training set (features need a past visit [recalled]) and ⌈|D|/10⌉ visits more [ours].

    >>> sampler = RAIS(100, 10, seed=0)
    >>> for _ in range(20):
    ...     draw = sampler.draw()
    ...     sampler.observe(draw, draw.index / 10)
    >>> sampler.has_learned, bool(sampler.weight(torch.tensor([90])) < sampler.weight(torch.tensor([10])))
    (True, True)

    Raises:
        ValueError: |D| < m, refresh < 1, an unknown feature, no constant feature, or m not in 1 … n.
    """

    _state = ("features", "recent", "robust", "uniform", "c", "d", "k", "ahead", "pending", "mean_norm", "visited")
    _state += ("waiting", "solve_at")

    def __init__(
        self,
        n: int,
        m: int,
        *,
        seed: int | None = None,
        generator: torch.Generator | None = None,
        visits: int | None = None,
        features: tuple[str, ...] = NAMES,
        refresh: int = 8,
        side: Side | None = None,
    ) -> None:
        super().__init__(n, m, seed=seed, generator=generator)
        visits = max(m, min(VISITS, n // 2)) if visits is None else visits
        if visits < m:
            raise ValueError(f"visits={visits} must be at least the minibatch size m={m}")
        if refresh < 1:
            raise ValueError(f"refresh={refresh} must be at least 1 minibatch")
        if "constant" not in features:
            raise ValueError(
                f"features {list(features)}: 'constant' must be among them; without it an example whose norms were all "
                "0 is never drawn again, and the gradient is biased"
            )
        self.refresh = refresh
        self.side = side
        self.features = Features(n, device=self.device, names=features, side=side and side.mean)
        self.recent = Visits(visits, self.features.values.shape[1], device=self.device)
        self.robust = Categorical(torch.ones(n, device=self.device))
        self.uniform = Uniform(n, m, generator=self.generator)
        self.c: Tensor | None = None
        self.d: Tensor | None = None
        self.k: Tensor | None = None
        # Minibatches drawn and not yet handed out, (index, weight[, side]); and observed but not yet taken in, with
        # their norm as the third entry.
        self.ahead: list[tuple[Tensor, ...]] = []
        self.pending: list[tuple[Tensor, ...]] = []
        self.mean_norm: float | Tensor | None = None  # of the distribution that those ahead were drawn from
        self.visited = 0
        self.waiting = 0  # visits among `visited` that are pending
        self.between_solves = math.ceil(visits / SOLVES_PER_WINDOW)
        self.solve_at: int | None = None  # visits at the next solve; unknown while the first pass lasts

    @property
    def has_learned(self) -> bool:
        return self.c is not None

    def draw(self) -> Draw:
        if not self.has_learned:
            side = None if self.side is None else self.side.plain(self.m, self.generator)
            return self._hand_out(self.uniform.next(), self.uniform.ones, side)
        if not self.ahead:
            self.ahead = list(zip(*(x.split(self.m) for x in self._draw_round()), strict=True))
            self.mean_norm = self.robust.mean()
        return self._hand_out(*self.ahead.pop(0), mean_norm=self.mean_norm)

    def _draw_round(self) -> tuple[Tensor, ...]:
        """The next `refresh` minibatches in one: index, weight and, where there is one, side."""
        index = self.robust.sample(self.refresh * self.m, self.generator)
        weight = self.weight(index)
        if self.side is None:
            return index, weight.to(torch.float32)
        slope = self.c[-1] + self.k * self.d[-1]
        side, factor = self.side.draw(self.robust.value(index), slope, self.generator)
        return index, (weight * factor).to(torch.float32), side

    def _learn(self, index: Tensor, weight: Tensor, side: Tensor | None = None, *, norm: Tensor) -> None:
        self.pending.append((index, weight, norm) if side is None else (index, weight, norm, side))
        self.waiting += len(index)
        self.visited += len(index)
        is_first_pass = self.solve_at is None
        if self.waiting >= self.refresh * self.m or self.visited >= (self.n if is_first_pass else self.solve_at):
            self._take_in()
        if is_first_pass and self.visited >= self.n:
            self.solve_at = self.visited + self.between_solves
        elif not is_first_pass and self.visited >= self.solve_at:
            self.solve()

    def _forget(self, index: Tensor) -> None:
        if self.solve_at is None:
            self.uniform.again(index)

    def _take_in(self) -> None:
        """Put the pending visits into D, the features and the probabilities of the examples they were made to."""
        index, weight, norm, *side = (torch.cat(each) for each in zip(*self.pending, strict=True))
        if self.solve_at is not None:
            before = self.features.values.index_select(0, index)
            for size in side:
                before[:, -1] = self.side.sizes[size]
            self.recent.append(before, norm, weight)
        index, norm = mean_of_repeats(index, norm)
        seen = self.features.update(index, norm)
        if self.has_learned:
            self.robust.set(index, robust_norms(seen.to(torch.float64), self.c, self.d, self.k))
        self.pending, self.waiting = [], 0

    def solve(self) -> None:
        """Learn the uncertainty set from the last |D| visits and recompute every probability. O(n q + |D| q²) a sweep.

        Minibatches that were drawn ahead from the old distribution and not yet handed out are dropped.
        """
        features = self.features.values.to(torch.float64)
        mean_features = features.mean(0)
        start = (self.c, self.d) if self.has_learned else None
        constant = self.features.names.index("constant")
        self.c, self.d, *_ = learn(*self.recent.contents(), mean_features, start, constant=constant)
        self.k = inverse_radius(mean_features, self.d)
        self.robust.set_all(robust_norms(features, self.c, self.d, self.k))
        self.solve_at = self.visited + self.between_solves
        self.ahead = []

    def weight(self, index: Tensor) -> Tensor:
        if not self.has_learned:
            return torch.ones(len(index), dtype=torch.float64, device=self.device)
        return self.robust.weight(index)

    def probabilities(self) -> Tensor:
        return self.robust.probabilities()

    def diagnostics(self) -> dict[str, float]:
        """`set_center` = mean⟨c,s⟩ and `set_radius` = (mean⟨d,s⟩)^½, in units of the norm, once the set is learned."""
        if not self.has_learned:
            return {}
        mean_features = self.features.values.to(torch.float64).mean(0)
        return {
            "set_center": (mean_features @ self.c).item(),
            "set_radius": (mean_features @ self.d).sqrt().item(),
        }
