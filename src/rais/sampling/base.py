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
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Draw(NamedTuple):
    """A minibatch: `index` (m,) int64 and `weight` (m,) float32 = 1/(n p_index).

    (1/m) Σ_j weight_j ∇f_{index_j} is an unbiased estimate of the mean gradient over the training set. `side` (m,)
    int64 is the size of the augmentation that goes with each example, where the sampler chooses it (side.py).
    """

    index: Tensor
    weight: Tensor
    side: Tensor | None = None


class NonFiniteNorm(ValueError):
    """A gradient norm is NaN or infinite: the model, not the sampler, has diverged."""


class Sampler(ABC):
    """Draws minibatches of m out of n examples. `needs_norms` says whether `observe` has to be called.

    Args:
        n: number of training examples.
        m: minibatch size, 1 ≤ m ≤ n.
        generator: the source of every random number; its device is the sampler's device.

    Raises:
        ValueError: m is not in 1 … n.
    """

    needs_norms = True
    _state: tuple[str, ...] = ()

    def __init__(self, n: int, m: int, *, generator: torch.Generator) -> None:
        if not 1 <= m <= n:
            raise ValueError(f"minibatch size m={m} must be between 1 and the n={n} training examples")
        self.n, self.m = n, m
        self.generator = generator
        self.device = generator.device

    @abstractmethod
    def draw(self) -> Draw:
        """The next minibatch."""

    @abstractmethod
    def observe(self, draw: Draw, norm: Tensor) -> None:
        """Learn from `norm` (m,), the gradient norms of the examples of `draw` at the parameters it was used with.

        Raises:
            ValueError: wrong shape, an index outside 0 … n−1, or a negative norm.
            NonFiniteNorm: a NaN or infinite norm.
        """

    @abstractmethod
    def probabilities(self) -> Tensor:
        """p (n,) float64, Σ p = 1: the distribution that the next draw comes from. Costs O(n); for tests and
        figures."""

    def weight(self, index: Tensor) -> Tensor:
        """The importance weights 1/(n p_i) of the examples `index`, float64, as the next draw would attach them."""
        return 1.0 / (self.n * self.probabilities()[index])

    def effective_sample_size(self) -> float:
        """1/E_p[weight²] in [0, 1]: the share of a minibatch that equally weighted examples would have to be. O(n)."""
        weight = 1.0 / (self.n * self.probabilities())
        return 1.0 / weight.mean().item()

    def diagnostics(self) -> dict[str, float]:
        """Scalars worth recording at an evaluation. Synchronises with the device."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the draws to come depend on, the generator included."""
        state: dict[str, Any] = {"generator": self.generator.get_state()}
        for name in self._state:
            value = getattr(self, name)
            if hasattr(value, "state_dict"):
                state[name] = value.state_dict()
            elif isinstance(value, list):
                state[name] = list(value)
            else:
                state[name] = value.clone() if isinstance(value, Tensor) else value
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken.

        Raises:
            ValueError: `state` belongs to another kind of sampler, or to one of another size.
        """
        if set(state) != {"generator", *self._state}:
            raise ValueError(
                f"this state has the entries {sorted(state)}, a {type(self).__name__} sampler needs "
                f"{sorted(['generator', *self._state])}: build the sampler with the settings it was saved with"
            )
        for name in self._state:
            value, saved = getattr(self, name), state[name]
            if hasattr(value, "load_state_dict"):
                value.load_state_dict(saved)
            elif isinstance(saved, Tensor):
                if isinstance(value, Tensor) and value.shape != saved.shape:
                    raise ValueError(
                        f"the saved {name} has shape {tuple(saved.shape)}, this sampler's has {tuple(value.shape)}: "
                        "build the sampler with the settings it was saved with"
                    )
                setattr(self, name, saved.to(self.device).clone())
            elif isinstance(saved, list):
                setattr(self, name, [tuple(x.to(self.device) for x in entry) for entry in saved])
            else:
                setattr(self, name, saved)
        self.generator.set_state(state["generator"].cpu())


def check_observation(draw: Draw, norm: Tensor, n: int, *, is_own: bool = False) -> None:
    """Refuse an observation that would corrupt a sampler's memory; see `Sampler.observe` for the errors.

    The indices of a draw that the sampler made itself (`is_own`) are not looked at: it costs 1 % of a small step.
    Values are looked at on the CPU only: on an accelerator that would stop the queue at every step, and a bad norm
    there shows as a non-finite loss at the next evaluation.
    """
    if norm.shape != draw.index.shape or norm.dim() != 1:
        raise ValueError(
            f"norm has shape {tuple(norm.shape)}, the draw has {tuple(draw.index.shape)}: one norm for each drawn "
            "example is needed"
        )
    if norm.is_cuda:
        return
    if not is_own:
        low, high = (x.item() for x in draw.index.aminmax())
        if low < 0 or high >= n:
            outside = low if low < 0 else high
            raise ValueError(f"example index {outside} is outside 0 … {n - 1}: was the draw made by another sampler?")
    low, high = (x.item() for x in norm.aminmax())
    if not (low > float("-inf") and high < float("inf")):
        raise NonFiniteNorm("a gradient norm is NaN or infinite: training has diverged; lower the learning rate")
    if low < 0:
        raise ValueError(f"a gradient norm is {low:g}: norms are never negative; pass ‖∇f_i‖, not a loss or a gradient")


def mean_of_repeats(index: Tensor, value: Tensor) -> Tensor:
    """`value` (m,) with the entries of one example replaced by their mean: writing them back is order-free. O(m²)."""
    same = index[:, None] == index
    # No matrix product: it may sum its rows in different orders, and the means of one example differ in the last digit.
    return (same * value).sum(1).div_(same.sum(1))
