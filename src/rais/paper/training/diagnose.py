"""What a run could have had, measured beside it at every evaluation; nothing here changes the run.

`headroom` is cheap: loss-layer norms of the whole training set, one more pass over it, for any model. `diagnose` is
dear: exact norms and moments, and every φ estimator at once. It needs a model whose examples do not meet in batch
normalisation, and its run takes several times as long.

| paper | code    | shape  | unit                                                                          |
|-------|---------|--------|-------------------------------------------------------------------------------|
| v_i   | norms   | (n,)   | loss-layer norm, the model in evaluation mode and without augmentation        |
| s_i   |         | (n, q) | features as the sampler has them at that moment                               |
| ρ     | *_rho   |        | 1, mean_i v_i² / mean_i v_i² weight_i, weight_i = 1/(n p_i)                   |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rais import rng
from rais.gain import Minibatch, Phi, exact_moments
from rais.paper.training.trace import loss_layer_norms
from rais.sampling import RAIS
from rais.sampling.robust import inverse_radius, robust_norms
from rais.sampling.uncertainty import learn

if TYPE_CHECKING:
    from rais.paper.records.write import Record
    from rais.paper.training.parts import Parts

SCATTER = 500


class SideBySide:
    """Several φ estimators fed with the same minibatches; the `active` one decides, all are recorded."""

    takes_parts = False  # some of them look at the whole minibatch

    def __init__(self, estimators: dict[str, Phi], *, active: str) -> None:
        self.estimators, self.active = estimators, active
        self.device = estimators[active].device

    @property
    def needs_graph(self) -> bool:
        return any(phi.needs_graph for phi in self.estimators.values())

    @property
    def value(self) -> Tensor:
        return self.estimators[self.active].value

    def update(self, batch: Minibatch) -> None:
        for phi in self.estimators.values():
            phi.update(batch)

    def diagnostics(self) -> dict[str, float]:
        each = {f"phi_{name}": phi.value.item() for name, phi in self.estimators.items()}
        return {"phi": self.value.item(), **each}

    def state_dict(self) -> dict[str, Any]:
        return {name: phi.state_dict() for name, phi in self.estimators.items()}

    def check_state(self, state: dict[str, Any]) -> None:
        for name, phi in self.estimators.items():
            phi.check_state(state[name])

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, phi in self.estimators.items():
            phi.load_state_dict(state[name])


@torch.no_grad()
def headroom(parts: Parts) -> dict[str, float]:
    """Where the possible gain is lost, at the current parameters: oracle_rho, hindsight_rho (RAIS alone), true_rho.

    oracle_rho: p ∝ v, (mean v²)/(mean v)²; no p has more. hindsight_rho: the p of `hindsight_norms`. true_rho: the p
    that the sampler has now. Without a metric where a norm is not finite. [ours]
    """
    sampler = parts.sampler
    norms = loss_layer_norms(parts, torch.arange(sampler.n, device=parts.device)).to(torch.float64)
    if not torch.isfinite(norms).all():
        return {}
    ratios = {"oracle_rho": rho(norms, _proportional(norms))}
    if isinstance(sampler, RAIS):
        ratios["hindsight_rho"] = rho(norms, _proportional(hindsight_norms(sampler, norms)))
    ratios["true_rho"] = rho(norms, 1.0 / (sampler.n * sampler.probabilities()))
    return {name: value.item() for name, value in ratios.items()}


def rho(norms: Tensor, weight: Tensor) -> Tensor:
    """E‖g_U1‖²/E‖g_1‖² () of the norms v (n,) for the weights 1/(n p_i) (n,); 1 where all norms are 0."""
    square = norms.square()
    sampled = torch.where(norms > 0, square * weight, 0.0).mean()
    return torch.where(sampled > 0, square.mean() / sampled, 1.0)


def hindsight_norms(sampler: RAIS, norms: Tensor) -> Tensor:
    """The robust norms (n,) of (PT) solved on all n pairs (s_i, v_i) of this moment, each of weight 1, and one more
    visit: the best set that the features could have told of. It is no bound, since (PT) does not maximise ρ. O(n q²)
    a sweep."""
    features = sampler.features.of(torch.arange(sampler.n, device=norms.device))
    mean = features.mean(0, dtype=torch.float64)
    start = sampler.d if sampler.has_learned else None
    constant = sampler.features.names.index("constant")
    weights = torch.ones_like(features[:, 0])
    c, d, *_ = learn(features, norms.to(features.dtype), weights, mean, start, constant=constant)
    return robust_norms(features.to(torch.float64), c, d, inverse_radius(mean, d))


def _proportional(v: Tensor) -> Tensor:
    """The weights 1/(n p_i) (n,) of p ∝ v; infinite where v is 0."""
    return v.mean() / v


def diagnose(parts: Parts, record: Record, *, epoch: float) -> dict[str, float]:
    """The true moments at the current parameters, and ρ of the loss-layer norms instead of the exact ones.

    Also records both norms of a fixed random subset of the training set.
    """
    split, sampler = parts.data.train, parts.sampler
    norms, full_gradient_sq = parts.measure()
    weight = 1.0 / (sampler.n * sampler.probabilities())
    loss_layer = loss_layer_norms(parts, torch.arange(len(split), device=parts.device))
    truth = exact_moments(norms.to(torch.float64), weight, full_gradient_sq, sampler.m)

    subset = rng.generator(0, "evaluation", parts.device)
    index = torch.randperm(len(split), generator=subset, device=parts.device)[:SCATTER]
    record.write_norms(epoch, index.tolist(), loss_layer[index].tolist(), norms[index].tolist())
    same_with_loss_layer = exact_moments(loss_layer.to(torch.float64), weight, full_gradient_sq, sampler.m)
    return {
        "loss_layer_rho": same_with_loss_layer["rho"].item(),
        **{f"true_{name}": value.item() for name, value in truth.items()},
    }
