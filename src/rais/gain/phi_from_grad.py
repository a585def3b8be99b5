"""Two more estimators of φ, which read the parameters' `.grad`: kept to be compared with the default, `HalfBatch`.

`Consecutive` finds its second gradient one step ago; `ExactScale` does without one, since a few exact norms tell what
a loss-layer norm is worth in gradients. Both believe that `.grad` is the gradient of this minibatch alone, not clipped,
`Minibatch.scale` times its size. Symbols are those of phi.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from rais.gain.moments import Minibatch, RunningMean, minibatch_moments
from rais.gain.phi import MEMORY, Phi, inner, unit_of
from rais.gradnorm import exact_norms
from rais.gradnorm.per_example import wide


class _FromGrad(Phi):
    def _gradient(self) -> list[Tensor]:
        if all(p.grad is None for p in self.parameters):
            raise ValueError("no parameter has a gradient: update the gain ratio before optimizer.zero_grad()")
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]


class Consecutive(_FromGrad):
    """⟨g_t, g_{t−1}⟩ in place of ‖∇F‖²: free, but biased by the step between the two.  [ours]

    `every` is always 1. Reads `.grad`: call it before clipping, and not where gradients accumulate.

    >>> from rais import Draw, Minibatch
    >>> w = torch.zeros(1, requires_grad=True)
    >>> phi = Consecutive([w], m=2)
    >>> draw = Draw(torch.tensor([0, 1]), torch.ones(2), mean_norm=1.0)
    >>> for gradient in (1.0, 1.0):  # the same twice: no noise but that of m examples in their mean
    ...     w.grad = torch.tensor([gradient])
    ...     phi.update(Minibatch(draw, torch.ones(2), torch.ones(2)))
    >>> phi.value.item()  # 1 − (1/2) · 1
    0.5
    """

    _entries = (*Phi._entries, "previous")

    def __init__(self, parameters: Iterable[Tensor], *, m: int, alpha: float = 0.01) -> None:
        super().__init__(parameters, m=m, alpha=alpha)
        self.previous: list[Tensor] = []

    def _measure(self, batch: Minibatch) -> None:
        assert batch.draw.mean_norm is not None  # nothing is averaged before there is one
        gradient = [wide(g) / batch.scale for g in self._gradient()]
        previous, self.previous = self.previous, gradient
        if previous:
            m = len(batch.draw.index)
            self._take(inner(previous, gradient), inner(gradient, gradient), m, batch.draw.mean_norm)

    def check_state(self, state: Mapping[str, Any]) -> None:
        super().check_state(state)
        saved, own = ([tuple(x.shape) for x in tensors] for tensors in (state["previous"], self.parameters))
        if saved and saved != own:
            raise ValueError(f"this state's gradients have the shapes {saved}, this model's parameters {own}")

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.previous = [g.to(self.device) for g in state["previous"]]


class ExactScale(_FromGrad):
    """Exact norms of a few drawn examples give the ratio of units between loss-layer norms and gradients.  [ours]

    φ = scale² E‖g_1‖²/(m E‖g‖²), with scale² = Σ (weight_j‖∇f_j‖)²/Σ (weight_j v_j)² over the first `few` examples
    of every `every`-th minibatch. Costs one pass over `few` examples; refuses what has no per-example gradient,
    batch normalisation in training mode above all. Reads `.grad`: call it before clipping, and not where gradients
    accumulate. E‖g‖² is that of minibatches of m: another size counts for nothing.

    >>> from torch.nn.functional import cross_entropy
    >>> model = torch.nn.Linear(2, 3)
    >>> ExactScale(model.parameters(), m=8, model=model, loss=cross_entropy, few=4).value.item()  # nothing measured yet
    1.0
    """

    _settings = (*Phi._settings, "few")
    _entries = (*Phi._entries, "moments")

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        m: int,
        model: torch.nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        alpha: float = 0.01,
        every: int = 1,
        few: int = 8,
    ) -> None:
        super().__init__(parameters, m=m, alpha=alpha, every=every)
        self.model, self.loss, self.few = model, loss, min(few, m)
        self.moments = RunningMean(2, alpha / MEMORY, device=self.device)  # E‖g_1‖² as observed, and m‖g‖²

    def update(self, batch: Minibatch) -> None:
        if batch.draw.mean_norm is not None and len(batch.draw.index) == self.m:
            gradient = self._gradient()
            unit = unit_of(batch.draw.mean_norm, batch.scale)
            whole = len(batch.draw.index) * inner(gradient, gradient) / unit**2
            self.moments.update(torch.stack([minibatch_moments(batch)[1], whole]))
        super().update(batch)

    def _measure(self, batch: Minibatch) -> None:
        if batch.inputs is None or batch.targets is None:
            raise ValueError("ExactScale takes exact norms: it needs Minibatch(…, inputs=x, targets=y)")
        assert batch.draw.mean_norm is not None  # nothing is averaged before there is one
        few = slice(self.few)
        weight, observed = batch.draw.weight[few].to(torch.float64), batch.norm[few].to(torch.float64)
        exact = exact_norms(self.model, self.loss, batch.inputs[few], batch.targets[few]).to(torch.float64)
        squares = torch.stack([(weight * exact).square().sum(), (weight * observed).square().sum()])
        self.averages.update(squares / batch.draw.mean_norm**2)
        self._set(self.m)

    def _phi(self, m: int) -> Tensor:
        exact_sq, observed_sq = self.averages.value.unbind()
        sampled_one, whole = self.moments.value.unbind()
        return exact_sq / observed_sq * sampled_one / whole
