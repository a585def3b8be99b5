"""The gain ratio: how much larger a step the lower variance allows.

r is the second moment of the uniform gradient over that of the sampled one, at the same parameters and minibatch
size. The learning rate is multiplied by r, and t̂, the sum of all r so far, is what the schedule and the training
budget are measured in.

| paper      | code              | shape | unit                                                |
|------------|-------------------|-------|-----------------------------------------------------|
| r          | ratio             | ()    | 1                                                   |
| ρ          | rho               | ()    | E‖g_U1‖²/E‖g_1‖², one-example moments               |
| φ          | phi               | ()    | (E‖g_1‖²/m)/E‖g‖², the share of the noise           |
| v_j        | batch.norm        | (m,)  | gradient norm, any one unit                         |
| g          | p.grad            |       | (1/m) Σ_j weight_j ∇f_j: a mean over the minibatch  |
| α          | alpha             |       | rate of the moving averages, per iteration          |

    r = E‖g_U‖²/E‖g‖² = 1 + (1/m)(E‖g_U1‖² − E‖g_1‖²)/E‖g‖²                      [seen]
      = 1 + φ(ρ − 1)                                                             [derived]
    E‖g_U1‖² = mean_i v_i²       ≈ mean_j weight_j v_j²                          [derived]
    E‖g_1‖²  = (1/n²) Σ v_i²/p_i ≈ mean_j (weight_j v_j)²                        [derived]
    φ = 1 − (1 − 1/m) ‖∇F‖²/E‖g‖²                                                [derived]

ρ needs norms in any one unit; φ is the only place where loss-layer norms and true gradients meet. Everything stays
on the device: no method here waits for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rais.gradnorm import exact_norms
from rais.sampling.base import Draw
from rais.sampling.oracle import Oracle

MEMORY = 3


class Minibatch(NamedTuple):
    """What a gain estimator may look at after `weighted.mean().backward()` and before the optimizer's step.

    Only `ExactScale` looks at the inputs and targets.
    """

    draw: Draw
    norm: Tensor  # (m,) gradient norms as the sampler observes them
    weighted: Tensor  # (m,) weight_j f_j, with its graph where `needs_graph` asked for it
    inputs: Tensor | None = None
    targets: Tensor | None = None


class RunningMean:
    """Bias-corrected exponential moving average of a vector: after t updates, weights ∝ (1−α)^age, summing to 1.

    Raises:
        ValueError: α outside (0, 1].
    """

    def __init__(self, size: int, alpha: float, *, device: torch.device | str = "cpu") -> None:
        if not 0 < alpha <= 1:
            raise ValueError(f"alpha={alpha} must be in (0, 1]: it is the rate of a moving average")
        self.alpha = alpha
        self.value = torch.zeros(size, dtype=torch.float64, device=device)
        self.updates = 0

    def update(self, value: Tensor) -> None:
        self.updates += 1
        rate = self.alpha / (1 - (1 - self.alpha) ** self.updates) if self.alpha < 1 else 1.0
        self.value.lerp_(value.to(torch.float64), rate)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value.clone(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value.copy_(state["value"])  # in place: others hold views of it
        self.updates = state["updates"]


class Off:
    """r = 1 at every iteration: the sampler's draws with plain SGD's learning rate."""

    needs_graph = False
    needs_norms = False

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        self.one = torch.ones((), dtype=torch.float64, device=device)

    def update(self, batch: Minibatch) -> Tensor:
        return self.one

    def diagnostics(self) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Replay(Off):
    """The multipliers of a recorded run, whatever is drawn now.

    Args:
        ends: iterations at which the segments of the record end, increasing.
        ratios: the mean multiplier of each segment, Δt̂/Δt between two evaluations of the recorded run, so that t̂
            at the end of every segment is the recorded one. The last one holds on past the end.

    Raises:
        ValueError: no segments, or lengths that differ.
    """

    def __init__(self, ends: Sequence[int], ratios: Sequence[float], *, device: torch.device | str = "cpu") -> None:
        if not ends or len(ends) != len(ratios):
            raise ValueError(
                f"a replay needs segments of a recorded run: got {len(ends)} ends and {len(ratios)} ratios"
            )
        self.ends = list(ends)
        self.ratios = torch.tensor(ratios, dtype=torch.float64, device=device)
        self.iteration = 0
        self.segment = 0

    def update(self, batch: Minibatch) -> Tensor:
        while self.iteration >= self.ends[self.segment] and self.segment < len(self.ends) - 1:
            self.segment += 1
        self.iteration += 1
        return self.ratios[self.segment]

    def state_dict(self) -> dict[str, Any]:
        return {"iteration": self.iteration, "segment": self.segment}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration, self.segment = state["iteration"], state["segment"]


class Exact(Off):
    """The oracle's r from the exact moments that its draw was made with, no averaging.  [derived]"""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__(device=oracle.device)
        self.oracle = oracle

    def update(self, batch: Minibatch) -> Tensor:
        v, full_gradient_sq = (x.to(torch.float64) for x in (self.oracle.norms, self.oracle.full_gradient_sq))
        return exact_moments(v, v.mean() / v, full_gradient_sq, self.oracle.m)["gain_ratio"]


def exact_moments(v: Tensor, weight: Tensor, full_gradient_sq: Tensor, m: int) -> dict[str, Tensor]:
    """`gain_ratio`, `rho` and `phi` from the norms v (n,) = ‖∇f_i‖, the weights (n,) = 1/(n p_i) and ‖∇F‖² ().
    [derived]

    An example of norm 0 contributes nothing, also where its weight is infinite. Where all norms are 0 every ratio is 1.
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


class Adaptive:
    """r = 1 + φ(ρ − 1), ρ by moving averages over the minibatches seen, φ by one of the estimators below.

    Minibatches of weight 1 give ρ = 1 and r = 1 to the last bit. The current minibatch counts, so that a rare large
    weight lowers the step it is part of [ours].

    Args:
        phi: a `HalfBatch`, `ExactScale` or `Consecutive` estimator.
        alpha: α [0.01 recalled; 0.003 ours, because ρ is heavy-tailed: see PAPER.md].
    """

    needs_norms = True

    def __init__(self, phi: Phi, *, alpha: float = 0.003) -> None:
        self.phi = phi
        self.moments = RunningMean(2, alpha, device=phi.device)
        self.uniform_one, self.sampled_one = self.moments.value.unbind()  # views: they follow it
        self.one = torch.ones((), dtype=torch.float64, device=phi.device)

    @property
    def needs_graph(self) -> bool:
        return self.phi.needs_graph

    @property
    def rho(self) -> Tensor:
        return (self.uniform_one / self.sampled_one).nan_to_num_(nan=1.0)  # 0/0 where all norms are 0

    def update(self, batch: Minibatch) -> Tensor:
        """Take in a minibatch; returns r, () float64 on the device."""
        both = torch.stack([batch.norm, batch.draw.weight * batch.norm]).to(torch.float64)
        self.moments.update((both @ both[1]).div_(len(batch.norm)))
        self.phi.update(batch, sampled_one=self.sampled_one)
        return torch.lerp(self.one, self.rho, self.phi.value)  # r = 1 + φ(ρ − 1) [derived]

    def diagnostics(self) -> dict[str, float]:
        return {"rho": self.rho.item(), **self.phi.diagnostics()}

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self.moments.state_dict(), "phi": self.phi.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.moments.load_state_dict(state["moments"])
        self.phi.load_state_dict(state["phi"])


class Phi(ABC):
    """Estimates φ, clamped to (0, 1], from the gradient of the minibatch and something to compare it with.

    `value` is φ, () float64; 1, its upper bound, before the first measurement.
    φ changes slowly and a single measurement of it is noisy: it is averaged `MEMORY` times longer than norms [ours].

    Args:
        parameters: the model's parameters; their `.grad` is read after each backward.
        m: minibatch size.
        alpha: α, per iteration.
        every: iterations from one measurement to the next.

    Raises:
        ValueError: m < 2, or `every` < 1.
    """

    def __init__(self, parameters: Sequence[Tensor], *, m: int, alpha: float = 0.003, every: int = 1) -> None:
        if m < 2:
            raise ValueError(
                f"the gain ratio cannot be estimated from minibatches of m={m}: use batch_size ≥ 2 or gain=off"
            )
        if every < 1:
            raise ValueError(f"every={every} must be at least 1 iteration")
        self.parameters = [p for p in parameters if p.requires_grad]
        self.device = self.parameters[0].device
        self.m, self.every = m, every
        self.iteration = 0
        self.averages = RunningMean(2, 1 - (1 - alpha / MEMORY) ** every, device=self.device)
        self.value = torch.ones((), dtype=torch.float64, device=self.device)

    @property
    def is_due(self) -> bool:
        return self.iteration % self.every == 0

    @property
    def needs_graph(self) -> bool:
        return False

    def update(self, batch: Minibatch, sampled_one: Tensor) -> None:
        """Take in a minibatch; `sampled_one` is the running E‖g_1‖² in units of batch.norm."""
        if self.is_due:
            measured = self._measure(batch, self._gradient())
            if measured is not None:
                self.averages.update(torch.stack(measured))
                self.value = self._phi().nan_to_num(nan=1.0).clamp(1e-3, 1)
        self.iteration += 1

    def _gradient(self) -> list[Tensor]:
        """The minibatch's gradient; zeros for a parameter that the loss does not reach."""
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]

    def _phi(self) -> Tensor:
        inner_product, second_moment = self.averages.value
        return 1 - (1 - 1 / self.m) * inner_product / second_moment

    @abstractmethod
    def _measure(self, batch: Minibatch, gradient: list[Tensor]) -> tuple[Tensor, Tensor] | None:
        """What `averages` takes in at an iteration that is due; None where there is nothing to compare with yet."""

    def diagnostics(self) -> dict[str, float]:
        return {"phi": self.value.item()}

    def state_dict(self) -> dict[str, Any]:
        return {"iteration": self.iteration, "averages": self.averages.state_dict(), "value": self.value.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.iteration = state["iteration"]
        self.averages.load_state_dict(state["averages"])
        self.value = state["value"].to(self.device).clone()


class HalfBatch(Phi):
    """⟨g_a, g_b⟩ of the two halves of a minibatch estimates ‖∇F‖² without bias, for any architecture.  [ours]

    Costs one more backward pass at every `every`-th iteration. The gradient that the optimizer uses is not touched.
    """

    @property
    def needs_graph(self) -> bool:
        return self.is_due

    def _measure(self, batch: Minibatch, gradient: list[Tensor]) -> tuple[Tensor, Tensor]:
        a = self.m // 2
        first = torch.autograd.grad(batch.weighted[:a].mean(), self.parameters, allow_unused=True)
        first = [torch.zeros_like(g) if f is None else f for f, g in zip(first, gradient, strict=True)]
        within, across = inner(first, first), inner(first, gradient)
        # m g = a g_a + (m − a) g_b, hence ⟨g_a, g_b⟩ = (m⟨g_a, g⟩ − a‖g_a‖²)/(m − a).
        return (self.m * across - a * within) / (self.m - a), inner(gradient, gradient)


class Consecutive(Phi):
    """⟨g_t, g_{t−1}⟩ in place of ‖∇F‖²: free, but biased by the step between the two.  [ours]"""

    def __init__(self, parameters: Sequence[Tensor], *, m: int, alpha: float = 0.003, every: int = 1) -> None:
        super().__init__(parameters, m=m, alpha=alpha, every=1)
        self.previous: list[Tensor] | None = None

    def _measure(self, batch: Minibatch, gradient: list[Tensor]) -> tuple[Tensor, Tensor] | None:
        previous, self.previous = self.previous, [g.clone() for g in gradient]
        return None if previous is None else (inner(previous, gradient), inner(gradient, gradient))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "previous": self.previous}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.previous = state["previous"]


class ExactScale(Phi):
    """Exact norms of a few drawn examples give the ratio of units between loss-layer norms and gradients.  [ours]

    φ = scale² E‖g_1‖²/(m E‖g‖²), with scale² = Σ (weight_j‖∇f_j‖)²/Σ (weight_j v_j)² over the first `few` examples
    of every `every`-th minibatch. Costs one pass over `few` examples; refuses what has no per-example gradient,
    batch normalisation in training mode above all.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        m: int,
        model: torch.nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        alpha: float = 0.003,
        every: int = 1,
        few: int = 8,
    ) -> None:
        super().__init__(parameters, m=m, alpha=alpha, every=every)
        self.model, self.loss, self.few = model, loss, min(few, m)
        self.moments = RunningMean(2, alpha / MEMORY, device=self.device)

    def _phi(self) -> Tensor:
        exact, observed = self.averages.value
        sampled_one, second_moment = self.moments.value
        return exact / observed * sampled_one / (self.m * second_moment)

    def update(self, batch: Minibatch, sampled_one: Tensor) -> None:
        gradient = self._gradient()
        self.moments.update(torch.stack([sampled_one, inner(gradient, gradient)]))
        super().update(batch, sampled_one)

    def _measure(self, batch: Minibatch, gradient: list[Tensor]) -> tuple[Tensor, Tensor]:
        few = slice(self.few)
        weight, observed = batch.draw.weight[few].to(torch.float64), batch.norm[few].to(torch.float64)
        exact = exact_norms(self.model, self.loss, batch.inputs[few], batch.targets[few]).to(torch.float64)
        return (weight * exact).square().sum(), (weight * observed).square().sum()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "moments": self.moments.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.moments.load_state_dict(state["moments"])


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """⟨a, b⟩ over lists of equally shaped tensors, () float64."""
    return torch.stack([torch.dot(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True)]).to(torch.float64).sum()
