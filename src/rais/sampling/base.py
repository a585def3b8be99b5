"""What every sampler offers to a training loop, and the checks they share.

A sampler hands out minibatches with the importance weights that keep the gradient unbiased, and learns from the
gradient norms that the loop reports back. A loop that speaks this protocol runs with any method, and no method
needs a branch in the loop.

| paper   | code        | shape | unit                                              |
|---------|-------------|-------|---------------------------------------------------|
| n       | n           |       | examples in the training set                      |
| m = |M| | m           |       | examples in a minibatch                           |
| i ∈ M   | draw.index  | (m,)  | int64, positions in the training set              |
| 1/(n p) | draw.weight | (m,)  | float32, mean 1 over the distribution p           |
| v_i     | norm        | (m,)  | gradient norm of a per-example loss, any one unit |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rais import compiled, rng
from rais.sampling import loops
from rais.sampling.draw import Draw
from rais.sampling.tickets import COLUMNS, DTYPES, Tickets

if TYPE_CHECKING:
    from jaxtyping import Float, Float64, Int64

VERSION = 3  # of the state: raised when an older one can no longer be read
LARGEST_NORM = 1e18  # its square, and that of a sum of a few, still fits into float32


class NonFiniteNorm(ValueError):
    """A gradient norm is NaN or infinite: the model, not the sampler, has diverged."""


class Sampler(ABC):
    """Draws minibatches of m out of n examples. `needs_norms` says whether `observe` has to be called.

    Args:
        n: number of training examples.
        m: minibatch size, 1 ≤ m ≤ n.
        seed: the random numbers are those of `rng.generator(seed, "sampling")`, on the CPU.
        generator: in place of `seed`, the source of every random number; its device is the sampler's device. For a
            model on an accelerator, give one of that device: a sampler on the CPU waits for it at every step.

    Raises:
        ValueError: m is not in 1 … n, or not exactly one of `seed` and `generator` is given.
    """

    needs_norms = True
    weighs_one = False  # whether every weight is 1, so that batch statistics need none and r = 1

    def __init__(self, n: int, m: int, *, seed: int | None = None, generator: torch.Generator | None = None) -> None:
        if not 1 <= m <= n:
            raise ValueError(f"minibatch size m={m} must be between 1 and the n={n} training examples")
        if (seed is None) == (generator is None):
            raise ValueError(f"seed={seed} and generator={generator}: give exactly one of them, seed=0 if any will do")
        self.n, self.m = n, m
        self.generator: torch.Generator = generator or rng.generator(seed or 0, "sampling")
        self.device = self.generator.device
        self.tickets = Tickets()

    @abstractmethod
    def draw(self) -> Draw:
        """The next minibatch."""

    def observe(self, draw: Draw, norm: Float[Tensor, " m"]) -> None:
        """Learn from `norm` (m,), the gradient norms of the examples of `draw` at the parameters it was used with.

        `draw` may be a part of a draw, and draws may come in any order. What the sampler remembers of the draw is what
        it handed out, whatever was written into the draw's tensors since. A draw made by hand (ticket None) is taken at
        its word.

        Raises:
            ValueError: wrong shape, an index outside 0 … n−1, a negative norm, or a ticket that was observed or skipped
                before or never handed out.
            NonFiniteNorm: a NaN or infinite norm.
        """
        norm = checked(draw, norm, self.n)
        if self.needs_norms:
            self._learn(*self.tickets.redeem(draw), norm)
            if draw.ticket not in self.tickets.held:
                self._settle()

    def skip(self, draw: Draw) -> None:
        """`draw`, or this part of it, will not be observed: a step that was not made.

        Its examples stay possible. While the first pass lasts they come again within it.

        Raises:
            ValueError: as `observe`, for the ticket.
        """
        if self.needs_norms:
            self._forget(self.tickets.redeem(draw)[0])

    def _learn(self, index: Tensor, weight: Tensor, side: Tensor | None, norm: Tensor) -> None:  # noqa: B027
        """Take in the norms (k,) of k visits, drawn with `weight` (k,). Samplers with `needs_norms` say how."""

    def _settle(self) -> None:  # noqa: B027
        """A draw was observed to its last part: what waited for that may happen now, so that parts are as the whole."""

    def _still_to_come(self, visited: int, skipped: int) -> int:
        """Examples of the first pass that were not handed out yet, at least, when `visited` were observed and `skipped`
        just given back: these come again behind them, so that the same minibatch is not drawn at once."""
        return max(0, self.n - visited - self.m * len(self.tickets.held) - skipped)

    def _forget(self, index: Tensor) -> None:  # noqa: B027
        """The examples `index` (k,) were drawn, and nothing will be heard of it."""

    def _hand_out(
        self, index: Tensor, weight: Tensor, side: Tensor | None = None, mean_norm: float | Tensor | None = None
    ) -> Draw:
        """A draw whose tensors are copies; where norms are needed, the given ones are kept under its ticket."""
        if not self.needs_norms:
            ticket, self.tickets.issued = self.tickets.issued, self.tickets.issued + 1
        else:
            ticket = self.tickets.issue(index, weight, side)
        if isinstance(mean_norm, Tensor):
            mean_norm = mean_norm.clone()
        return Draw(index.clone(), weight.clone(), None if side is None else side.clone(), ticket, mean_norm)

    @abstractmethod
    def probabilities(self) -> Tensor:
        """p (n,) float64, Σ p = 1: the distribution that the next draw comes from. Costs O(n); for tests and
        figures."""

    def weight(self, index: Int64[Tensor, " k"]) -> Float64[Tensor, " k"]:
        """The importance weights 1/(n p_i) of the examples `index`, float64, as the next draw would attach them."""
        return 1.0 / (self.n * self.probabilities()[index])

    def effective_sample_size(self) -> float:
        """1/E_p[weight²] in [0, 1]: the share of a minibatch that equally weighted examples would have to be. O(n).
        [ours]"""
        weight = 1.0 / (self.n * self.probabilities())
        return 1.0 / weight.mean().item()

    def diagnostics(self) -> dict[str, float]:
        """Scalars worth recording at an evaluation. Synchronises with the device."""
        return {}

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """Everything that the draws to come depend on, the generator and the draws in flight included: a flat dict of
        tensors, numbers, words and lists of these, for `torch.load(weights_only=True)`.

        With `copy=False` the tensors are the sampler's own, without a second copy of what may be many gigabytes: write
        them to a file before the sampler is used again.
        """
        tables = self._tables(self._variant())
        return {
            "version": VERSION,
            "kind": type(self).__name__,
            **self._settings(),
            **self._variant(),
            **{name: x.clone() if copy else x for name, x in tables.items()},
            **self._rest(),
            **self.tickets.state(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any], *, resize: bool = False) -> None:
        """Continue exactly where `state` was taken. All of it is looked at before anything is overwritten.

        With `resize`, a state of fewer examples is taken too, for a data set that has grown at its end: the new
        examples have no past.

        Raises:
            ValueError: `state` is of another version, kind, size or setting, or does not fit together.
        """
        expected = {"version": VERSION, "kind": type(self).__name__, **self._settings()}
        for name, here in expected.items():
            saved = state.get(name)
            if saved != here and not (resize and name == "n" and isinstance(saved, int) and self.m <= saved < here):
                cure = "start anew" if name == "version" else f"build the sampler with {name}={saved!r}"
                if name == "n" and not resize:
                    cure += ", or, if examples were added, load the sampler by itself with resize=True"
                raise ValueError(f"the saved state has {name}={saved!r}, this sampler has {name}={here!r}: {cure}")
        if state["n"] < self.n:
            smaller = self._of_size(state["n"])
            smaller.load_state_dict(state)
            self._extend(smaller)
            return
        needed = (*self._variant(), *self._rest(), *self.tickets.state(), "generator")
        missing = [name for name in needed if name not in state]
        if missing:
            raise ValueError(f"the saved state lacks {', '.join(missing)}: it was not written by state_dict()")
        tables = self._tables(state)
        for name, table in tables.items():
            saved = state.get(name)
            if not isinstance(saved, Tensor) or saved.shape != table.shape or saved.dtype != table.dtype:
                found = f"{tuple(saved.shape)} {saved.dtype}" if isinstance(saved, Tensor) else repr(saved)
                raise ValueError(f"the saved {name} is {found}, this sampler's is {tuple(table.shape)} {table.dtype}")
        _check_columns(state, self.n)
        self._check_generator(state["generator"])
        for name, table in tables.items():
            table.copy_(state[name])
        self._adopt(state, tables)
        self.tickets.load(state, self.device)
        self.generator.set_state(state["generator"].cpu())

    def _check_generator(self, saved: Tensor) -> None:
        try:
            torch.Generator(self.device).set_state(saved.cpu())
        except (RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(f"the saved generator is of another device or version of torch: {error}") from error

    def _settings(self) -> dict[str, Any]:
        """What must be equal in a state that is loaded."""
        return {"n": self.n, "m": self.m}

    def _variant(self) -> dict[str, Any]:
        """What decides which tables there are."""
        return {}

    def _tables(self, variant: dict[str, Any]) -> dict[str, Tensor]:
        """The tensors of fixed shape by name, this sampler's own; those of a phase that `variant` (a state) is in and
        the sampler is not are new."""
        return {}

    def _rest(self) -> dict[str, Any]:
        """Numbers, and tensors whose length changes."""
        return {}

    def _adopt(self, state: dict[str, Any], tables: dict[str, Tensor]) -> None:  # noqa: B027
        """Take over `_variant`, `_rest` and `tables`, which are filled already."""

    def _of_size(self, n: int) -> Sampler:
        """A sampler with the settings of this one, of n examples."""
        raise ValueError(f"a {type(self).__name__} sampler cannot be resized: it keeps nothing about an example")

    def _extend(self, smaller: Any) -> None:  # noqa: B027
        """Take over what `smaller`, a sampler of this class, knows of the first examples, and everything else of it."""


def checked(draw: Draw, norm: Tensor, n: int) -> Tensor:
    """A copy of `norm` in float32. Refuses an observation that would corrupt a sampler's memory; see `Sampler.observe`
    for the errors.

    The indices of a draw with a ticket are not looked at: those that count are the sampler's own.
    Values are looked at on the CPU only: on an accelerator that would stop the queue at every step, and a bad norm
    there shows as a non-finite loss at the next evaluation.
    """
    if norm.shape != draw.index.shape or norm.dim() != 1:
        raise ValueError(
            f"norm has shape {tuple(norm.shape)}, the draw has {tuple(draw.index.shape)}: one norm for each drawn "
            "example is needed"
        )
    if norm.device.type != "cpu":
        return norm.detach().to(torch.float32, copy=True)
    if draw.ticket is None:
        low, high = (x.item() for x in draw.index.aminmax())
        if low < 0 or high >= n:
            outside = low if low < 0 else high
            raise ValueError(f"example index {outside} is outside 0 … {n - 1}: was the draw made by another sampler?")
    if compiled.serves(norm.device):
        copied, low, high = loops.copied(compiled.array(norm))
        copy = torch.from_numpy(copied)
    else:
        copy = norm.detach().to(torch.float32, copy=True)
        low, high = (x.item() for x in norm.aminmax())
    if not (low > float("-inf") and high < float("inf")):
        raise NonFiniteNorm("a gradient norm is NaN or infinite: training has diverged; lower the learning rate")
    if high > LARGEST_NORM:
        raise NonFiniteNorm(
            f"a gradient norm is {high:g}, and its square does not fit into float32: training has diverged; lower the "
            "learning rate, or give all norms in a larger unit"
        )
    if low < 0:
        raise ValueError(f"a gradient norm is {low:g}: norms are never negative; pass ‖∇f_i‖, not a loss or a gradient")
    return copy


def _check_columns(state: dict[str, Any], n: int) -> None:
    """Refuse a state whose draws, of variable number, do not fit together or have examples outside 0 … n−1."""
    columns = {name: state[name] for name in ("order", "owed") if name in state}
    for group in ("held", "ahead", "seen"):
        size = len(state.get(f"{group}_index", ()))
        for name, dtype in zip(COLUMNS, DTYPES, strict=True):
            column = state.get(full := f"{group}_{name}")
            absent = column is None or (name == "side" and len(column) == 0)
            if not absent and (not isinstance(column, Tensor) or column.shape != (size,) or column.dtype != dtype):
                raise ValueError(f"the saved {full} is no ({size},) {dtype}, as {group}_index is long: a damaged state")
            if name == "index" and not absent:
                columns[full] = column
    for name, index in columns.items():
        if not isinstance(index, Tensor) or index.is_floating_point() or index.dim() != 1:
            raise ValueError(f"the saved {name} is no list of examples: a damaged state")
        if len(index) and not (0 <= index.min() and index.max() < n):
            raise ValueError(f"the saved {name} has examples outside 0 … {n - 1}: a damaged state")
    size, left, tickets = state["held_size"], state["held_left"], state["held_ticket"]
    if not sum(size) == len(left) == len(state["held_index"]) or len(size) != len(tickets):
        raise ValueError(
            f"the saved draws in flight have {sum(size)} examples by held_size and {len(left)} by held_left"
        )


def mean_of_repeats(
    index: Int64[Tensor, " m"], value: Float[Tensor, " m"]
) -> tuple[Int64[Tensor, " k"], Int64[Tensor, " m"], Float64[Tensor, " k"]]:
    """The entries (k,) of `index` (m,), ascending, the place (m,) of each among them, and the mean `value` (k,) float64
    of those that are equal. O(m log m).

    An entry is there once, or, where to count them would mean to wait for the device, as often as in `index`, side by
    side. Sums of float32 values in float64 are exact over 29 binary orders of magnitude, so that their order does not
    matter.
    """
    if compiled.serves(index.device):
        found = loops.mean_of_repeats(index.numpy(), value.numpy())
        return torch.from_numpy(found[0]), torch.from_numpy(found[1]), torch.from_numpy(found[2])
    ascending, order = index.sort(stable=True)
    group = is_first(ascending).cumsum(0) - 1
    both = torch.stack([value.to(torch.float64), torch.ones_like(value, dtype=torch.float64)])
    total, count = torch.zeros_like(both).index_add_(1, group, both.index_select(1, order))
    where = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
    return ascending, where, (total / count).index_select(0, group)


def is_first(ascending: Int64[Tensor, " k"]) -> Tensor:
    """Whether an entry of `ascending` is none like the one before, (k,) bool."""
    return torch.cat([torch.ones_like(ascending[:1], dtype=torch.bool), ascending[1:] != ascending[:-1]])
