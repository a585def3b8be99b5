"""φ, the share of the noise in a minibatch's second moment: how much of ρ's advantage reaches the gradient.

φ needs ‖∇F‖², which no minibatch shows by itself, because its gradient's square holds the noise too. Two gradients of
independent examples do show it: the mean of their inner product is ‖∇F‖². The estimators differ in where they find
the second gradient.

| paper      | code        | shape | unit                                                                   |
|------------|-------------|-------|------------------------------------------------------------------------|
| φ          | phi         | ()    | (E‖g_1‖²/m)/E‖g‖² = 1 − (1 − 1/m)‖∇F‖²/E‖g‖²                           |
| m          | m           |       | examples of the minibatch at hand; a short one has its own m           |
| m_k        | sizes       | (k,)  | examples of part k                                                     |
| ‖g_k‖²     | part_sq     | (k,)  | squared gradient of part k's mean loss, (1/m_k) Σ_{j∈k} weight_j ∇f_j  |
| ‖g‖²       | whole_sq    | ()    | the same of the minibatch, g = Σ (m_k/m) g_k                           |
| E‖g_1‖²    | one         | ()    | second moment of the estimate made of one example, m‖g‖² − (m−1)‖∇F‖²  |

Every square is divided by the draw's mean_norm² before it is averaged, as the moments of ρ are, and averages start
with those of ρ. A constant factor on all gradients cancels; one that changes, as a loss scale does, is divided out:
`Minibatch.scale`. How the paper finds φ is not known: the estimators are [ours], the two expressions of φ [derived,
docs/derivations.md: gain ratio; phi from parts].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rais.gain.moments import Minibatch, RunningMean
from rais.gain.state import Stateful
from rais.gradnorm.per_example import wide

if TYPE_CHECKING:
    from jaxtyping import Float, Float64

MEMORY = 3
SMALLEST = 1e-3


class Phi(Stateful):
    """Estimates φ, clamped to [0.001, 1], from gradients. `value` is φ, () float64; 1 before the first measurement.

    φ changes slowly and a single measurement of it is noisy: it is averaged `MEMORY` times longer than norms [ours].
    A measurement with a NaN or an infinity in it counts for nothing.

    Args:
        parameters: the model's parameters; those that do not require a gradient are left out.
        m: minibatch size; a minibatch of another size is taken as what it is.
        alpha: α, per importance draw.
        every: importance draws from one measurement to the next.

    Raises:
        ValueError: m < 2, `every` < 1, or no parameters to look at.
    """

    takes_parts = False  # whether it measures from `Minibatch.parts`
    _settings: tuple[str, ...] = ("m", "alpha", "every")
    _entries: tuple[str, ...] = ("iteration", "size", "averages", "value")

    def __init__(self, parameters: Iterable[Tensor], *, m: int, alpha: float = 0.01, every: int = 1) -> None:
        if m < 2:
            raise ValueError(
                f"the gain ratio cannot be estimated from minibatches of m={m}: use batch_size ≥ 2 or gain=off"
            )
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha={alpha} must be in (0, 1]: it is the rate of a moving average")
        if every < 1:
            raise ValueError(f"every={every} must be at least 1 iteration")
        self.parameters = _trainable(parameters)
        self.device = self.parameters[0].device
        self.m, self.alpha, self.every = m, alpha, every
        self.iteration = 0
        self.size = m
        rate = 1 - (1 - alpha / MEMORY) ** every
        self.averages = RunningMean(2, rate, device=self.device)  # ‖∇F‖² and E‖g_1‖²
        self.value = torch.ones((), dtype=torch.float64, device=self.device)

    @property
    def is_due(self) -> bool:
        """Whether the next importance draw is measured; until there was one, the first is."""
        return self.iteration % self.every == 0

    @property
    def needs_graph(self) -> bool:
        """Whether `update` needs the graph of `Minibatch.weighted`: `backward(retain_graph=phi.needs_graph)`."""
        return False

    def update(self, batch: Minibatch) -> None:
        """Take in a minibatch, measured where it is due and its draw has a `mean_norm`."""
        if batch.draw.mean_norm is None:
            return
        m = len(batch.draw.index)
        if self.is_due and m > 1:
            self._measure(batch)
        if m != self.size:
            self._set(m)
        self.iteration += 1

    @abstractmethod
    def _measure(self, batch: Minibatch) -> None:
        """Compare gradients and average what was found."""

    def _take(self, full_sq: Tensor, whole_sq: Tensor, m: int, unit: float | Tensor) -> None:
        """Average a measurement of ‖∇F‖² and ‖g‖² by m examples; `unit` is mean_norm times the gradients' scale."""
        one = m * whole_sq - (m - 1) * full_sq
        self.averages.update(torch.stack([full_sq, one]) / unit**2)
        self._set(m)

    def _set(self, m: int) -> None:
        """φ of minibatches of m examples: the averaged moments hold for any m."""
        self.size = m
        self.value = self._phi(m).nan_to_num(nan=1.0).clamp(SMALLEST, 1)

    def _phi(self, m: int) -> Tensor:
        full_sq, one = self.averages.value.unbind()
        return one / (one + (m - 1) * full_sq)

    def diagnostics(self) -> dict[str, float]:
        return {"phi": self.value.item()}


class FromParts(Phi):
    """φ from the gradients of a minibatch's parts, micro-batches and ranks for instance, that somebody hands in.

    They come as `Minibatch.parts` at steps that are due. With part sizes (m/2, m/2) it is `HalfBatch`.

    What biases it: weights that were capped, and batch statistics, since both tie examples of a part together. Evenly
    spaced draws are not independent: as for reshuffled SGD, the estimate of ‖∇F‖² is then low by about
    (mean_i ‖∇f_i‖² − ‖∇F‖²)/(n − 1), which is of order 1/n.
    [derived, docs/derivations.md: phi from parts]

    >>> phi = FromParts([torch.zeros(2, requires_grad=True)], m=4)
    >>> part_sq, whole_sq = torch.tensor([1.0, 1.0]), torch.tensor(0.75)  # an inner product of 1/2
    >>> phi.update_from_parts([2, 2], part_sq, whole_sq, mean_norm=1.0)
    >>> phi.value.item()  # 1 − (3/4)(1/2)/(3/4)
    0.5
    """

    takes_parts = True

    def update_from_parts(
        self,
        sizes: Sequence[int],
        part_sq: Float[Tensor, " k"],
        whole_sq: Float[Tensor, ""],
        mean_norm: float | Tensor | None,
        *,
        scale: float | Tensor = 1.0,
    ) -> None:
        """Take in one minibatch's parts; nothing where `mean_norm` is None, before averages start.

        Args:
            sizes: m_k, examples of each part.
            part_sq: ‖g_k‖² (k,), each of the gradient of a part's *mean* loss.
            whole_sq: ‖g‖² (), of the gradient of the whole minibatch's mean loss.
            mean_norm: that of the draw.
            scale: the factor that all these gradients carry, a loss scale for instance.

        Raises:
            ValueError: fewer than two parts with examples, or other than one square for each.
        """
        full_sq = full_gradient_sq(sizes, part_sq, whole_sq)
        if mean_norm is not None:
            self._take(full_sq, whole_sq.to(torch.float64), sum(sizes), unit_of(mean_norm, scale))

    def _measure(self, batch: Minibatch) -> None:
        if batch.parts is not None:
            self.update_from_parts(*batch.parts, batch.draw.mean_norm, scale=batch.scale)


class HalfBatch(FromParts):
    """The halves of a minibatch as its two parts, for any architecture: their inner product estimates ‖∇F‖².  [ours]

    Costs two more backward passes at every `every`-th importance draw, through the graph that `needs_graph` asks to be
    kept. `.grad` is neither read nor written, so that accumulation, clipping and unscaling change nothing;
    `Minibatch.scale` only keeps half-precision gradients in range.

    >>> from rais import Draw, Minibatch
    >>> w = torch.zeros(2, requires_grad=True)
    >>> phi = HalfBatch([w], m=2)
    >>> weighted = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) @ w  # two gradients at right angles: nothing but noise
    >>> draw = Draw(torch.tensor([0, 1]), torch.ones(2), mean_norm=1.0)
    >>> phi.update(Minibatch(draw, norm=torch.ones(2), weighted=weighted))
    >>> phi.value.item()
    1.0
    """

    takes_parts = False

    @property
    def needs_graph(self) -> bool:
        return self.is_due

    def _measure(self, batch: Minibatch) -> None:
        m = len(batch.draw.index)
        if batch.weighted.shape != (m,) or not batch.weighted.requires_grad:
            raise ValueError(
                f"weighted has shape {tuple(batch.weighted.shape)}: φ needs the {m} weighted losses of the minibatch "
                "with their graph, from `weighted.mean().backward(retain_graph=gain.needs_graph)`"
            )
        sizes = (m // 2, m - m // 2)
        first, second = (self._gradient(half, batch.scale) for half in batch.weighted.split(sizes))
        part_sq = torch.stack([inner(first, first), inner(second, second)])
        shares = torch.tensor(sizes, dtype=torch.float64, device=part_sq.device) / m
        whole_sq = shares.square() @ part_sq + 2 * shares.prod() * inner(first, second)
        self.update_from_parts(sizes, part_sq, whole_sq, batch.draw.mean_norm, scale=batch.scale)

    def _gradient(self, part: Tensor, scale: float | Tensor) -> list[Tensor]:
        found = torch.autograd.grad(scale * part.mean(), self.parameters, retain_graph=True, allow_unused=True)
        if all(g is None for g in found):
            raise ValueError(
                f"the losses reach none of the {len(found)} parameters: build {type(self).__name__} from the "
                "parameters of the model that is trained, not of a copy"
            )
        return [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, found, strict=True)]


def full_gradient_sq(
    sizes: Sequence[int], part_sq: Float[Tensor, " k"], whole_sq: Float[Tensor, ""]
) -> Float64[Tensor, ""]:
    """‖∇F‖² ≈ (m²‖g‖² − Σ m_k²‖g_k‖²)/(m² − Σ m_k²), () float64, from parts of m_k = `sizes` examples.
    [derived, docs/derivations.md: phi from parts]

    m²‖g‖² is the sum of m_k m_l⟨g_k, g_l⟩ over all pairs of parts; what is left without the pairs (k, k) has the mean
    ‖∇F‖² each. Unbiased for independent parts of any sizes. Uniform draws without replacement lower it by
    (mean_i ‖∇f_i‖² − ‖∇F‖²)/(n − 1).

    Raises:
        ValueError: fewer than two parts with examples, or other than one square for each.
    """
    m, own_pairs = sum(sizes), sum(k * k for k in sizes)
    if m * m == own_pairs or min(sizes) < 0 or part_sq.shape != (len(sizes),):
        raise ValueError(
            f"parts of {list(sizes)} examples with squares of shape {tuple(part_sq.shape)}: φ needs one square for "
            "each part, and at least two parts with examples"
        )
    squares = torch.tensor(sizes, dtype=torch.float64, device=part_sq.device).square()
    return (m * m * whole_sq.to(torch.float64) - squares @ part_sq.to(torch.float64)) / (m * m - own_pairs)


def unit_of(mean_norm: float | Tensor, scale: float | Tensor) -> float | Tensor:
    """mean_norm times a loss scale, in float64: GradScaler keeps its scale in float32."""
    return mean_norm * (scale.to(torch.float64) if isinstance(scale, Tensor) else scale)


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """⟨a, b⟩ over lists of equally shaped tensors, () float64 on the device of the first.

    Half-precision and sparse gradients are widened: their squares would overflow, or have no dot product.
    """
    device = a[0].device
    products = [torch.dot(_flat(x), _flat(y)).to(device, torch.float64) for x, y in zip(a, b, strict=True)]
    return torch.stack(products).sum()


def _flat(x: Tensor) -> Tensor:
    return wide((x.to_dense() if x.is_sparse else x).flatten())


def _trainable(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The parameters that require a gradient, or one line on what was given instead."""
    if isinstance(parameters, torch.nn.Module | Tensor):
        raise ValueError(f"parameters is a {type(parameters).__name__}: pass list(model.parameters())")
    given = list(parameters)
    if not given:
        raise ValueError(
            "parameters is empty: pass list(model.parameters()); an iterator that an optimizer has read has none left"
        )
    wrong = [x for x in given if not isinstance(x, Tensor)]
    if wrong:
        raise ValueError(f"parameters holds a {type(wrong[0]).__name__}: pass list(model.parameters()), not groups")
    trainable = [p for p in given if p.requires_grad]
    if not trainable:
        raise ValueError(f"none of the {len(given)} parameters requires a gradient: φ has nothing to compare")
    return trainable
