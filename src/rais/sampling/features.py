"""The feature vector s_i of each example: what its past gradient norms say about its next one.

Moving averages over windows of several lengths predict the norm, their variances and standard deviations the error
of that prediction, and the constant carries what they cannot explain. Only the past norms are kept, 65 bytes an
example; features are computed from them when they are asked for, and their sum over all examples is kept up to date.

| paper | code   | shape   | unit                                                            |
|-------|--------|---------|-----------------------------------------------------------------|
| s_i   |        | (k, q)  | float32; norm (mean, std), norm² (var), 1 (constant); all ≥ 0   |
|       | past   | (n, 16) | float32; the example's last norms, newest first, 0 beyond count |
|       | count  | (n,)    | int8; visits so far, at most 16                                 |
| Σ s_i | total  | (q,)    | float64                                                         |

The features are [recalled]; a window longer than an example's past uses what there is, and an example without a past
has the constant alone [ours].
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rais import compiled
from rais.sampling import loops
from rais.sampling.base import is_first

WINDOWS = (1, 2, 4, 8, 16)
SPREAD_WINDOWS = (4, 8, 16)
NAMES = (
    *(f"mean_{w}" for w in WINDOWS),
    *(f"var_{w}" for w in SPREAD_WINDOWS),
    *(f"std_{w}" for w in SPREAD_WINDOWS),
    "constant",
)
CHUNK = 8_192  # examples whose features are computed at a time: their 16 norms fit into a processor's cache


class Features:
    """s_i for n examples, q = 12: means over the last 1, 2, 4, 8, 16 norms, variance and standard deviation over 4,
    8, 16, and 1.

    Args:
        n: number of examples.
        names: the features to use, a non-empty subset of `NAMES`; all by default.
        side: the mean of a further feature that each visit chooses anew (side.py), its last column; None for none.

    Raises:
        ValueError: an unknown name, a repeated one, or none.
    """

    def __init__(
        self, n: int, *, device: torch.device | str = "cpu", names: tuple[str, ...] = NAMES, side: float | None = None
    ) -> None:
        unknown = [name for name in names if name not in NAMES]
        if unknown or not names or len(set(names)) != len(names):
            raise ValueError(f"features {list(names)}: expected distinct names out of {list(NAMES)}")
        self.n = n
        self.names = tuple(names)
        fixed = [1.0] if side is None else [1.0, side]
        columns = [*map(NAMES.index, names), *range(len(NAMES), len(NAMES) - 1 + len(fixed))]
        self.q = len(columns)
        self.columns = torch.tensor(columns, device=device)
        self.past = torch.zeros(n, WINDOWS[-1], dtype=torch.float32, device=device)
        self.count = torch.zeros(n, dtype=torch.int8, device=device)
        self.fixed = torch.tensor(fixed, dtype=torch.float32, device=device)[:, None]
        self.lengths = torch.tensor(WINDOWS, dtype=torch.float32, device=device)[:, None]
        self.age = torch.arange(WINDOWS[-1], dtype=torch.float32, device=device)[:, None]
        self.in_window = (self.age.T < self.lengths).to(torch.float32)  # (5, 16)
        self.total = n * self._from_past(self.past[:1], self.count[:1])[0].to(torch.float64)
        # A sum of changes keeps the rounding errors of all that it ever held. So the sum is also made anew, in turns:
        # `next_total` is that of the examples before `position`.
        self.next_total = torch.zeros_like(self.total)
        self.position = 0

    @property
    def mean(self) -> Tensor:
        """mean_i s_i (q,) float64."""
        return self.total / self.n

    def of(self, index: Tensor) -> Tensor:
        """s_i (k, q) of the examples `index` (k,)."""
        return self._from_past(self.past.index_select(0, index), self.count.index_select(0, index))

    def update(self, index: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
        """Add a visit of each example of `index` (k,), ascending, with its `norm` (k,).

        An example that is there more than once, each time with the same norm, is visited once.

        Returns the features (k, q) before and after it. O(k q).
        """
        if compiled.serves(self.past.device):
            before, after = torch.empty(2, self.q, len(index), dtype=torch.float32)
            tensors = (self.past, self.count, self.fixed[:, 0], self.columns, index, norm.to(self.past.dtype))
            results = (self.total, self.next_total, before, after)
            loops.visit(self.position, *map(compiled.array, (*tensors, *results)))
            return before.T, after.T
        past, count = self.past.index_select(0, index), self.count.index_select(0, index)
        newer = torch.cat([norm.to(past.dtype)[:, None], past[:, :-1]], dim=1)
        more = (count + 1).clamp_max_(WINDOWS[-1])
        self.past.index_copy_(0, index, newer)
        self.count.index_copy_(0, index, more)
        before, after = self._from_past(torch.cat([past, newer]), torch.cat([count, more])).split(len(index))
        change = (after.T.to(torch.float64) - before.T) * is_first(index)
        self.total += change.sum(1)
        self.next_total += change @ (index < self.position).to(torch.float64)
        return before, after

    def turn(self, examples: int) -> Iterator[tuple[int, Tensor]]:
        """The next `examples` of the training set or a few more, or what is left of it, in chunks: the first example of
        each chunk and its features (k, q). At the end of the training set `total` is what was summed up on the way."""
        stop = min(self.position + examples, self.n)
        while self.position < stop:
            own = slice(self.position, min(self.position + CHUNK, self.n))
            features = self._from_past(self.past[own], self.count[own])
            self.next_total += features.T.sum(1, dtype=torch.float64)
            self.position = own.stop
            yield own.start, features
        if self.position == self.n:
            self.total, self.next_total, self.position = self.next_total, torch.zeros_like(self.total), 0

    def extend(self, smaller: Features) -> None:
        """Take over the past of the first examples; the others have none."""
        for table in (self.past, self.count, self.next_total):
            table.zero_()
        self.position = 0
        self.past[: smaller.n], self.count[: smaller.n] = smaller.past, smaller.count
        no_past = self._from_past(self.past[-1:], self.count[-1:])[0]
        self.total = smaller.total + (self.n - smaller.n) * no_past

    def _from_past(self, past: Tensor, count: Tensor) -> Tensor:
        """Features (k, q) of past norms (k, 16), a view of (q, k): each operation goes through whole rows of k."""
        # Centred on the newest norm, so that nearly equal norms lose no digits; 0 where there was no visit yet. The
        # mask is arithmetic because comparisons cost four times as much.
        past = past.T.clone(memory_format=torch.contiguous_format)
        newest, count = past[0].clone(), count.to(past.dtype)
        past -= newest
        past *= (count - self.age).clamp_(0, 1)
        length = torch.minimum(count, self.lengths).clamp_min_(1)
        every = past.new_empty(len(NAMES) - 1 + len(self.fixed), past.shape[1])
        mean, variance, deviation = every[:5], every[5:8], every[8:11]
        offset = (self.in_window @ past).div_(length)
        torch.add(offset, newest, out=mean)
        square = (self.in_window[2:] @ past.square_()).div_(length[2:])
        torch.sub(square, offset[2:].square_(), out=variance).clamp_min_(0)
        torch.sqrt(variance, out=deviation)
        every[11:] = self.fixed
        return (every if len(self.names) == len(NAMES) else every.index_select(0, self.columns)).T
