"""The gain ratio: how much larger a step the lower variance allows.

r is the second moment of the uniform gradient over that of the sampled one, at the same parameters and minibatch
size. The learning rate is multiplied by r, and t̂, the sum of all r so far, is what the schedule and the training
budget are measured in (pace.py).

| paper      | code              | shape | unit                                                |
|------------|-------------------|-------|-----------------------------------------------------|
| r          | ratio             | ()    | 1                                                   |
| ρ          | rho               | ()    | E‖g_U1‖²/E‖g_1‖², one-example moments               |
| φ          | phi               | ()    | (E‖g_1‖²/m)/E‖g‖², the share of the noise           |
| α          | alpha             |       | rate of the slow average, per importance draw       |

    r = E‖g_U‖²/E‖g‖² = 1 + (1/m)(E‖g_U1‖² − E‖g_1‖²)/E‖g‖²                      [seen]
      = 1 + φ(ρ − 1)                                                         [gain ratio]
    E‖g_U1‖² = mean_i v_i²       ≈ mean_j weight_j v_j²                         [moments]
    E‖g_1‖²  = (1/n²) Σ v_i²/p_i ≈ mean_j (weight_j v_j)²                       [moments]
    φ = 1 − (1 − 1/m) ‖∇F‖²/E‖g‖²                                             [gain ratio]
    [derived, docs/derivations.md: moments; gain ratio]

ρ needs norms in any one unit; φ is the only place where loss-layer norms and true gradients meet. Everything stays
on the device: no method here waits for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from rais import compiled
from rais.gain import loops
from rais.gain.moments import Minibatch, RunningMean, minibatch_moments
from rais.gain.phi import Phi
from rais.gain.state import Stateful
from rais.sampling.draw import Draw

if TYPE_CHECKING:
    from jaxtyping import Float64

FASTER = 10  # How much faster the second average of ρ forgets [ours, measured]


class GainRatio(Protocol):
    """What multiplies the learning rate. `needs_graph` and `needs_norms` say what `update` needs at this step."""

    @property
    def needs_graph(self) -> bool: ...

    @property
    def needs_norms(self) -> bool: ...

    def takes_parts(self, draw: Draw) -> bool:
        """Whether `Minibatch.parts` are wanted at the step with this draw."""
        ...

    def update(self, batch: Minibatch) -> Tensor:
        """Take in a minibatch; returns r for its step, () float64 on the device."""
        ...

    def diagnostics(self) -> dict[str, float]:
        """Scalars worth recording at an evaluation. Synchronises with the device."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def check_state(self, state: Mapping[str, Any]) -> None:
        """ValueError for a state that `load_state_dict` would refuse, before anything is overwritten."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Adaptive(Stateful):
    """r = 1 + φ(ρ − 1), ρ by moving averages over the minibatches seen, φ by one of the estimators of phi.py.

    Averages start at the first draw that has a `mean_norm`; before it r = 1 to the last bit, as it is for minibatches
    of weight 1. ρ is the smaller of two averages, with rates α and 10 α: when the parameters jump, the fast one falls
    within a few steps. The current minibatch counts in both, so that a surprise shortens the step that it is part of,
    as clipping would. That makes r depend on the minibatch it multiplies, a bias that PAPER.md puts a number to. [ours]

    A minibatch with a norm that is not finite changes no average.

    Args:
        phi: an estimator of φ.
        alpha: α [0.01 recalled].

    >>> from rais import Draw, FromParts
    >>> phi = FromParts([torch.zeros(3, requires_grad=True)], m=2)
    >>> gain = Adaptive(phi)
    >>> draw = Draw(torch.tensor([0, 1]), torch.tensor([0.5, 2.0]), mean_norm=1.0)
    >>> norm = torch.tensor([2.0, 0.5])  # as foreseen: weight times norm is the mean
    >>> gain.update(Minibatch(draw, norm, weighted=norm)).item()
    1.25
    """

    needs_norms = True
    _settings = ("alpha",)
    _entries = ("moments", "phi")

    def __init__(self, phi: Phi, *, alpha: float = 0.01) -> None:
        self.phi, self.alpha = phi, alpha
        self.moments = RunningMean(2, (alpha, min(1.0, FASTER * alpha)), device=phi.device)
        self.one = torch.ones((), dtype=torch.float64, device=phi.device)

    @property
    def needs_graph(self) -> bool:
        return self.phi.needs_graph

    def takes_parts(self, draw: Draw) -> bool:
        return self.phi.takes_parts and draw.mean_norm is not None and self.phi.is_due

    @property
    def rhos(self) -> Tensor:
        """ρ by the slow and by the fast average, (2,) float64; 1 where nothing is known, or all norms are 0."""
        sums = self.moments.sums  # their quotient needs no correction for bias
        uniform_one, sampled_one, _ = sums.unbind(1)
        return (uniform_one / sampled_one).nan_to_num(nan=1.0)

    @property
    def rho(self) -> Tensor:
        return self.rhos.min()

    def update(self, batch: Minibatch) -> Float64[Tensor, ""]:
        """Take in a minibatch; returns r, () float64 on the device.

        Raises:
            ValueError: norms and weights of different shapes, or what the φ estimator refuses.
        """
        if batch.norm.shape != batch.draw.weight.shape:
            raise ValueError(
                f"norm has shape {tuple(batch.norm.shape)}, the draw's weights {tuple(batch.draw.weight.shape)}: one "
                "norm for each drawn example is needed"
            )
        if batch.draw.mean_norm is None:
            return self.one.clone()
        self.phi.update(batch)
        phi = self.phi.value
        if compiled.serves(self.moments.sums.device):
            tensors = (batch.norm, batch.draw.weight, self.moments.rates, self.moments.sums)
            norm, weight, *averages = map(compiled.array, tensors)
            rho = loops.average(norm, weight, float(batch.draw.mean_norm), *averages)
            return torch.full((), 1.0 + phi.item() * (rho - 1.0), dtype=torch.float64)
        self.moments.update(minibatch_moments(batch))
        return self.one + phi * (self.rho - self.one)  # r = 1 + φ(ρ − 1)

    def diagnostics(self) -> dict[str, float]:
        slow, fast = self.rhos.tolist()
        return {"rho": min(slow, fast), "rho_slow": slow, "rho_fast": fast, **self.phi.diagnostics()}
