"""Draws that are even in time: each example comes at the rate that its weight asks for, and at about equal distances.

Independent draws of an example that should come once in ten steps may come twice in a row and then not for thirty.
Here each example has a due time, and a draw takes what is due first: plain SGD's reshuffling, for any p. Over time
example i is drawn in proportion to v_i and weight times frequency is 1: unbiased in the long run, as reshuffling is,
but not at each step given the past.

| meaning                                                            | code    | shape | unit              |
|--------------------------------------------------------------------|---------|-------|-------------------|
| v_i                                                                | table   | (n,)  | see categorical   |
| when example i is drawn next                                       | due     | (n,)  | 1/v, float64      |
| when the last draw was                                             | now     | ()    | 1/v, float64      |
| the examples due before `horizon`, ascending; None: not known      | near    | (k,)  | int64             |
| the examples of draws that will not be used, to be drawn first     | owed    | (k,)  | int64             |
| U, new for each wait                                               |         |       | 1, mean 1         |

An example drawn at time s is due next at s + U/v_i, U uniform in [0.5, 1.5]; when v_i changes, what is left of its wait
is scaled by old/new; a visit that was dropped is made up for in the next draw.  [ours] With U exponential these would
be independent draws; with U = 1 and equal v a fixed cycle. Operating systems call that stride scheduling.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rais.sampling.categorical import Categorical

LARGEST = 10_000_000  # examples: from time to time a draw looks through all of them
SPREAD = 0.5
SMALLEST = torch.finfo(torch.float32).tiny


class Spaced(Categorical):
    """As `Categorical`, but `sample` goes by due times. 12.2 bytes an example.

    Raises:
        ValueError: more than 10⁷ examples.
    """

    is_independent = False

    def __init__(self, n: int, *, device: torch.device | str = "cpu") -> None:
        if n > LARGEST:
            raise ValueError(
                f"draws='spaced' goes through all examples now and then and is for at most {LARGEST:,} of them, not "
                f"{n:,}: use draws='independent'"
            )
        super().__init__(n, device=device)
        self.due = torch.full((n,), torch.nan, dtype=torch.float64, device=device)  # NaN: has no phase yet
        self.now = torch.zeros((), dtype=torch.float64, device=device)
        self.horizon = torch.zeros((), dtype=torch.float64, device=device)
        self.near: Tensor | None = None
        self.spread = SPREAD

    def tables(self) -> dict[str, Tensor]:
        return {**super().tables(), "due": self.due, "now": self.now, "horizon": self.horizon}

    def adopt(self, tables: dict[str, Tensor]) -> None:
        super().adopt(tables)
        self.near = None

    def extend(self, smaller: Any, weight: Tensor) -> None:
        super().extend(smaller, weight)
        self.due[: smaller.n], self.now, self.horizon = smaller.due, smaller.now, smaller.horizon
        self.owed = smaller.owed

    def set_from(self, start: int, weight: Tensor) -> None:
        own = slice(start, start + len(weight))
        weight = weight.clamp_min(SMALLEST)
        self.due[own] = self._rescaled(self.due[own], self.table[own], weight)
        super().set_from(start, weight)
        self.near = None

    def set(self, index: Tensor, weight: Tensor) -> None:
        weight = weight.to(self.table.dtype).clamp_min(SMALLEST)
        due = self._rescaled(self.due.index_select(0, index), self.table.index_select(0, index), weight)
        self.due.index_copy_(0, index, due)
        super().set(index, weight)
        if self.near is not None:
            self.near = torch.cat([self.near, index]).unique()

    def _rescaled(self, due: Tensor, old: Tensor, new: Tensor) -> Tensor:
        """Due times when v changes from `old` to `new`: what is left of each wait is scaled."""
        return self.now + (due - self.now) * (old.to(torch.float64) / new)

    def dropped(self, index: Tensor) -> None:
        """The visits `index` (k,) were drawn and will not be made: they come first in the next draw, each of them."""
        self.owed = torch.cat([self.owed, index])

    def sample(self, m: int, generator: torch.Generator) -> Tensor:
        """The m visits that are due first, (m,) int64 in random order; an example of large v may come more than once.

        Costs O(m + n/16): candidates are collected from all n examples for many draws to come, and looked through at
        each.
        """
        owed, self.owed = self.owed[:m], self.owed[m:]
        index = torch.cat([owed, self._due_next(m - len(owed), generator)])
        return index[torch.randperm(m, generator=generator, device=index.device)]

    def _due_next(self, m: int, generator: torch.Generator) -> Tensor:
        if m == 0:
            return self.owed.new_empty(0)
        self._give_phases(generator)
        while True:
            index, time = self._first_due(m, generator)
            if len(time) > m and time[m - 1] < self.horizon:
                break
            self._look_ahead(m, further=2.0)
        # Of an example that was drawn the earliest visit not drawn is the next; of the others nothing changes.
        self.due.index_fill_(0, index[:m], torch.inf)
        self.due.scatter_reduce_(0, index[m:], time[m:], "amin")
        self.now.copy_(time[m - 1])
        return index[:m]

    def _first_due(self, m: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Examples and times of visits, by time: the first m, each of the next visit after one of these, some more."""
        if self.near is None:
            self._look_ahead(m)
        assert self.near is not None
        time = self.due.index_select(0, self.near)
        is_near = time < self.horizon
        index, time = self.near[is_near], time[is_near]
        if len(index) > m:  # a visit beyond the m-th cannot be among the first m
            early = time <= time.kthvalue(m).values
            index, time = index[early], time[early]
        is_followed = torch.zeros_like(index, dtype=torch.bool)
        while True:
            time, order = time.sort(stable=True)
            index, is_followed = index[order], is_followed[order]
            parent = (~is_followed[:m]).nonzero().squeeze(1)
            if not len(parent):
                return index, time
            is_followed[:m] = True
            who = index[parent]
            index = torch.cat([index, who])
            time = torch.cat([time, time[parent] + self._wait(who, generator)])
            is_followed = torch.cat([is_followed, is_followed.new_zeros(len(who))])

    def _wait(self, index: Tensor, generator: torch.Generator) -> Tensor:
        u = torch.rand(len(index), dtype=torch.float64, device=index.device, generator=generator)
        return (1 + self.spread * (2 * u - 1)) / self.value(index)

    def _give_phases(self, generator: torch.Generator) -> None:
        """Examples that were never waiting start somewhere within a wait."""
        if self.near is None and (new := self.due.isnan()).any():
            index = new.nonzero().squeeze(1)
            u = torch.rand(len(index), dtype=torch.float64, device=index.device, generator=generator)
            self.due[index] = self.now + u / self.value(index)

    def _look_ahead(self, m: int, further: float = 1.0) -> None:
        """Collect the examples that are due before the horizon, which is put where it holds enough visits. O(n)

        A horizon that still lies ahead is kept, so that a resumed run collects at the same times; `further` moves it.
        """
        enough = max(4 * m, self.n // 16) / self.tops.sum()
        if further > 1 or self.horizon <= self.now:
            self.horizon.copy_(self.now + torch.maximum(enough, further * (self.horizon - self.now)))
        self.near = (self.due < self.horizon).nonzero().squeeze(1)
