"""Second moments of gradient estimates: what a minibatch says of them, their moving averages, their exact values.

Everything that the gain ratio is made of passes through here. Averages live on the device, and a step whose numbers
are not finite leaves them as they were, without anyone waiting to find out.

| paper      | code                 | shape | unit                                                  |
|------------|----------------------|-------|-------------------------------------------------------|
| v_j        | batch.norm           | (m,)  | gradient norm, any one unit                           |
| 1/(n p_j)  | batch.draw.weight    | (m,)  | 1                                                     |
| Σ_i v_i/n  | batch.draw.mean_norm | ()    | unit of v: what the draw's distribution predicts      |
| E‖g_U1‖²   | first moment         | ()    | mean_norm²; uniform estimate made of one example      |
| E‖g_1‖²    | second moment        | ()    | mean_norm²; sampled estimate made of one example      |
| α          | alpha                |       | rate of a moving average, per update                  |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rais.gain.state import Stateful
from rais.sampling.draw import Draw

if TYPE_CHECKING:
    from jaxtyping import Float, Float64


class SquaredParts(NamedTuple):
    """Squared gradients of a minibatch's parts, from which φ can be told: `sizes` m_k, `part_sq` (k,) = ‖g_k‖² of each
    part's *mean* loss, and `whole_sq` () = ‖g‖² of the minibatch's."""

    sizes: Sequence[int]
    part_sq: Tensor
    whole_sq: Tensor


class Minibatch(NamedTuple):
    """What a gain ratio may look at between `weighted.mean().backward()` and the optimizer's step.

    `norm` and `draw.weight` are those of the whole minibatch, also where it was worked off in parts. A draw whose
    `mean_norm` is None counts as uniform: it is not averaged, and r = 1. Only `ExactScale` looks at inputs and targets.
    `scale` is the factor that is still in the parameters' `.grad`: the loss scale before `scaler.unscale_`, else 1.

    >>> draw = Draw(torch.tensor([3, 1]), torch.tensor([0.5, 1.5]), mean_norm=1.0)
    >>> losses, norm = torch.tensor([0.2, 0.1]), torch.tensor([2.0, 0.7])
    >>> batch = Minibatch(draw, norm, weighted=draw.weight * losses)
    """

    draw: Draw
    norm: Tensor  # (m,) gradient norms as the sampler observes them
    weighted: Tensor  # (m,) weight_j f_j, with its graph where `needs_graph` asked for it
    inputs: Tensor | None = None
    targets: Tensor | None = None
    scale: float | Tensor = 1.0
    parts: SquaredParts | None = None  # at a step for which `takes_parts` asked for them


class RunningMean(Stateful):
    """Bias-corrected moving averages of a vector: weights ∝ (1−α)^age over the updates so far, summing to 1.

    `value` (size,) float64, or (rates, size) where `alpha` is a sequence of rates; NaN before the first update. An
    update with a NaN or an infinity in it counts for nothing.

    >>> mean = RunningMean(1, 0.5)
    >>> for x in (1.0, 4.0, float("nan")):
    ...     mean.update(torch.tensor([x]))
    >>> mean.value.tolist()
    [3.0]

    Raises:
        ValueError: α outside (0, 1].
    """

    _settings = ("alpha",)
    _entries = ("sums",)

    def __init__(self, size: int, alpha: float | Sequence[float], *, device: torch.device | str = "cpu") -> None:
        rates = torch.tensor(alpha, dtype=torch.float64)
        if not ((rates > 0) & (rates <= 1)).all():
            raise ValueError(f"alpha={alpha} must be in (0, 1]: it is the rate of a moving average")
        self.alpha = rates.tolist()
        self.rates = rates[..., None].to(device)
        self.one = torch.ones(1, dtype=torch.float64, device=device)
        # Averages that start at 0, and last the same average of 1, which is 1 − (1−α)^updates: its share is the bias.
        self.sums = torch.zeros(*rates.shape, size + 1, dtype=torch.float64, device=device)

    @property
    def value(self) -> Tensor:
        return self.sums[..., :-1] / self.sums[..., -1:]

    def update(self, value: Tensor) -> None:
        """Take in `value` (size,)."""
        value = torch.cat([value, self.one])
        rates = self.rates * torch.isfinite(value.sum())  # 0 where it is not: lerp then leaves everything
        self.sums = torch.lerp(self.sums, value.nan_to_num(0.0, 0.0, 0.0), rates)


def minibatch_moments(batch: Minibatch) -> Float64[Tensor, " 2"]:
    """E‖g_U1‖² and E‖g_1‖² as one minibatch estimates them, (2,) float64, in units of its `mean_norm`².  [ours]

    Norms fall by orders of magnitude in training; over the mean that their distribution predicts they stay near 1, so
    that an average over minibatches is not one of the past alone.
    """
    assert batch.draw.mean_norm is not None  # nothing is averaged before there is one
    v = batch.norm.to(torch.float64) / batch.draw.mean_norm
    both = torch.stack([v, batch.draw.weight * v])
    # (v, weight v) times weight v: mean_j weight_j v_j² for uniform draws, mean_j (weight_j v_j)² for p
    # [derived, docs/derivations.md: moments]
    return (both * both[1]).mean(1)


def exact_moments(
    v: Float[Tensor, " n"], weight: Float[Tensor, " n"], full_gradient_sq: Float[Tensor, ""], m: int
) -> dict[str, Float[Tensor, ""]]:
    """`gain_ratio`, `rho` and `phi` from the norms v (n,) = ‖∇f_i‖, the weights (n,) = 1/(n p_i) and ‖∇F‖² ().
    [derived, docs/derivations.md: moments; gain ratio]

    An example of norm 0 contributes nothing, also where its weight is infinite. If all norms are 0, every ratio is 1.
    """
    uniform_one = v.square().mean()
    sampled_one = torch.where(v > 0, v.square() * weight, 0.0).mean()
    second_moment = sampled_one / m + (1 - 1 / m) * full_gradient_sq
    ratios = {
        "gain_ratio": 1 + (uniform_one - sampled_one) / m / second_moment,
        "rho": uniform_one / sampled_one,
        "phi": sampled_one / m / second_moment,
    }
    return {name: torch.where(sampled_one > 0, value, 1.0) for name, value in ratios.items()}
