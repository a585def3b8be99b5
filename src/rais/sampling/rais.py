"""RAIS: features → uncertainty set → robust distribution.

Every few minibatches the examples just seen get new features and with them a new probability; every ⌈|D|/10⌉ visits
the uncertainty set is learned anew from the last |D|, and the probabilities follow. There is no mathematics here: it
is in features.py, uncertainty.py and robust.py.

| paper | code     | shape  | unit                                                     |
|-------|----------|--------|----------------------------------------------------------|
| s_i   | features | (n, q) | see features.py                                          |
| c, d  | c, d     | (q,)   | the uncertainty set; see uncertainty.py                  |
| k     | k        | scalar | 1/norm; see robust.py                                    |
| D     | recent   |        | recent visits that the set is learned from; `visits` |D| |
| v_i   | robust   | (n,)   | norm, the sampling weights; p_i = v_i/Σv                 |
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rais.sampling.base import Sampler, mean_of_repeats
from rais.sampling.categorical import Categorical
from rais.sampling.draw import Draw
from rais.sampling.features import NAMES, Features
from rais.sampling.robust import inverse_radius, robust_norms
from rais.sampling.rounds import Columns, Round
from rais.sampling.side import Side
from rais.sampling.spaced import Spaced
from rais.sampling.uncertainty import UncertaintySet, learn
from rais.sampling.uniform import Uniform
from rais.sampling.visits import Visits

if TYPE_CHECKING:
    from jaxtyping import Float64, Int64

VISITS = 20_000
SOLVES_PER_WINDOW = 10
TURN = 16_384  # Examples whose v a solve computes anew; a larger training set takes several solves to go through.
DRAWS = {"independent": Categorical, "spaced": Spaced}


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
        draws: "independent" as the poster has them, or "spaced": evenly in time, see spaced.py [ours].

    Draws are uniform without replacement until the set is learned for the first time, after one pass over the
    training set (features need a past visit [recalled]) and ⌈|D|/10⌉ visits more [ours].

    >>> sampler = RAIS(100, 10, seed=0)
    >>> for _ in range(20):
    ...     draw = sampler.draw()
    ...     sampler.observe(draw, draw.index / 10)
    >>> sampler.has_learned, bool(sampler.weight(torch.tensor([90])) < sampler.weight(torch.tensor([10])))
    (True, True)

    Raises:
        ValueError: |D| < m, refresh < 1, an unknown feature, no constant feature, another word for `draws`, spaced
            draws of more than 10⁷ examples, or m not in 1 … n.
    """

    solves_per_window = SOLVES_PER_WINDOW

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
        draws: str = "independent",
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
        if draws not in DRAWS:
            raise ValueError(f"draws={draws!r}: choose from {', '.join(DRAWS)}")
        self.refresh, self.draws = refresh, draws
        self.side = Side.none() if side is None else side
        self.features = Features(n, device=self.device, names=features, side=self.side.mean)
        self.recent = Visits(visits, self.features.q, device=self.device)
        self.robust: Categorical | None = None  # once the set is learned
        self.uniform: Uniform | None = Uniform(n, m, generator=self.generator)  # until then
        self.c, self.d = torch.zeros(2, self.features.q, dtype=torch.float64, device=self.device)
        self.k = torch.zeros((), dtype=torch.float64, device=self.device)
        self.round = Round(m)
        self.visited = 0
        self.between_solves = math.ceil(visits / self.solves_per_window)
        self.solve_at: int | None = None  # visits at the next solve; unknown while the first pass lasts

    @property
    def has_learned(self) -> bool:
        return self.robust is not None

    def draw(self) -> Draw:
        if self.uniform is not None:
            return self._hand_out(self.uniform.next(), self.uniform.ones, self.side.plain(self.m, self.generator))
        if not self.round.ahead:
            self.round.start(*self._draw_round())
        index, weight, side = self.round.next()
        return self._hand_out(index, weight, side, mean_norm=self.round.mean_norm)

    def _draw_round(self) -> tuple[Columns, float | Tensor]:
        """The next `refresh` minibatches in one, index, weight and side, and the mean norm of their distribution."""
        assert self.robust is not None
        index = self.robust.sample(self.refresh * self.m, self.generator)
        slope = self.c[-1] + self.k * self.d[-1]
        side, factor = self.side.draw(self.robust.value(index), slope, self.generator)
        weight = (self.robust.weight(index) * factor).to(torch.float32)
        return (index, weight, side), self.robust.mean()

    def _learn(self, index: Tensor, weight: Tensor, side: Tensor | None, norm: Tensor) -> None:
        self.round.add(index, weight, side, norm)
        self.visited += len(index)

    def _settle(self) -> None:
        if self.solve_at is None and self.visited >= self.n:
            self._take_in(is_first_pass=True)
            self.solve_at = self.visited + self.between_solves
        elif self.solve_at is not None and self.visited >= self.solve_at:
            self._take_in()
            self.solve()
        elif self.round.waiting >= self.refresh * self.m:
            self._take_in(is_first_pass=self.solve_at is None)

    def _forget(self, index: Tensor) -> None:
        if self.uniform is not None and self.solve_at is None:
            self.uniform.again(index, self._still_to_come(self.visited, len(index)))
        elif self.robust is not None:
            self.robust.dropped(index)

    def _take_in(self, *, is_first_pass: bool = False) -> None:
        """Put the waiting visits into D, the features and the probabilities of the examples they were made to."""
        index, weight, side, norm = self.round.take()
        visited, where, mean = mean_of_repeats(index, norm)
        before, after = self.features.update(visited, mean)
        if not is_first_pass:
            features = before.T.index_select(1, where).T
            self.side.write_into(features, side)
            self.recent.append(features, norm, weight)
        if self.robust is not None:
            self.robust.set(visited, robust_norms(after, self.c, self.d, self.k))

    def solve(self) -> None:
        """Learn the uncertainty set from the last |D| visits and compute the v_i of the next 16 384 examples with it.

        The others keep the v_i of an earlier set until their turn comes, and weights that fit what they have. Costs
        O(|D| q²) a sweep of (PT), whatever n is; the first solve goes through all n. Minibatches that were drawn ahead
        from the old distribution and not yet handed out are dropped; evenly spaced ones are visits that are due, and
        are still handed out, with the weights they were drawn with.
        """
        self.c, self.d, *_ = self.learn_set(self.d if self.has_learned else None)
        self.k = inverse_radius(self.features.mean, self.d)
        robust, turn = self.robust, TURN
        if robust is None:
            robust, turn = self._new_robust(), self.n
            self.robust, self.uniform = robust, None
        if robust.is_independent:
            self.round.drop()
        for first, features in self.features.turn(turn):
            robust.set_from(first, robust_norms(features, self.c, self.d, self.k))
        self.solve_at = self.visited + self.between_solves

    def learn_set(self, start: Tensor | None) -> UncertaintySet:
        """(PT) for the visits in D and one more, from d of the last set where there is one."""
        constant = self.features.names.index("constant")
        return learn(*self.recent.contents(), self.features.mean, start, constant=constant)

    def weight(self, index: Int64[Tensor, " k"]) -> Float64[Tensor, " k"]:
        if self.robust is None:
            return torch.ones(len(index), dtype=torch.float64, device=self.device)
        return self.robust.weight(index)

    def probabilities(self) -> Tensor:
        if self.robust is None:
            return torch.full((self.n,), 1.0 / self.n, dtype=torch.float64, device=self.device)
        return self.robust.probabilities()

    def diagnostics(self) -> dict[str, float]:
        """`set_center` = mean⟨c,s⟩ and `set_radius` = (mean⟨d,s⟩)^½, in units of the norm, once the set is learned."""
        if not self.has_learned:
            return {}
        mean_features = self.features.mean
        return {
            "set_center": (mean_features @ self.c).item(),
            "set_radius": (mean_features @ self.d).sqrt().item(),
        }

    def _settings(self) -> dict[str, Any]:
        return {
            **super()._settings(),
            "visits": self.recent.size,
            "refresh": self.refresh,
            "features": list(self.features.names),
            "draws": self.draws,
            "side": [] if self.side.mean is None else self.side.sizes.tolist(),
        }

    def _variant(self) -> dict[str, Any]:
        return {"has_learned": self.has_learned}

    def _tables(self, variant: dict[str, Any]) -> dict[str, Tensor]:
        f = self.features
        tables = {"past": f.past, "count": f.count, "total": f.total, "next_total": f.next_total}
        tables |= {"recent": self.recent.ring, "c": self.c, "d": self.d, "k": self.k}
        if variant["has_learned"]:
            tables |= (self.robust or self._new_robust()).tables()
        return tables

    def _rest(self) -> dict[str, Any]:
        return {
            "visited": self.visited,
            "solve_at": self.solve_at,
            "added": self.recent.added,
            "position": self.features.position,
            "order": torch.empty(0, dtype=torch.int32) if self.uniform is None else self.uniform.order.clone(),
            "owed": torch.empty(0, dtype=torch.int64) if self.robust is None else self.robust.owed.clone(),
            **self.round.state(),
        }

    def _adopt(self, state: dict[str, Any], tables: dict[str, Tensor]) -> None:
        self.visited, self.solve_at = state["visited"], state["solve_at"]
        self.recent.added, self.features.position = state["added"], state["position"]
        self.round.load(state, self.device)
        self.robust = self.uniform = None
        if state["has_learned"]:
            self.robust = self._new_robust()
            self.robust.adopt(tables)
            self.robust.owed = state["owed"].to(self.device, copy=True)
        else:
            self.uniform = Uniform(self.n, self.m, generator=self.generator)
            self.uniform.order = state["order"].to(self.device, copy=True)

    def _new_robust(self) -> Categorical:
        return DRAWS[self.draws](self.n, device=self.device)

    def _of_size(self, n: int) -> RAIS:
        return RAIS(
            n,
            self.m,
            generator=torch.Generator(self.device),
            visits=self.recent.size,
            features=self.features.names,
            refresh=self.refresh,
            side=None if self.side.mean is None else self.side,
            draws=self.draws,
        )

    def _extend(self, smaller: Any) -> None:
        self.features.extend(smaller.features)
        self.recent, self.round, self.tickets = smaller.recent, smaller.round, smaller.tickets
        self.visited, self.solve_at = smaller.visited, smaller.solve_at
        self.c, self.d, self.k = smaller.c, smaller.d, smaller.k
        self.generator.set_state(smaller.generator.get_state())
        self.robust = self.uniform = None
        if smaller.has_learned:
            self.robust = self._new_robust()
            no_past = self.features.of(torch.tensor([self.n - 1], device=self.device))
            self.robust.extend(smaller.robust, robust_norms(no_past, self.c, self.d, self.k))
        else:
            self.uniform = Uniform(self.n, self.m, generator=self.generator)
            self.uniform.take_over(smaller.uniform.order, smaller.n)
