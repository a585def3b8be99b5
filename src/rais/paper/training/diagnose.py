"""What approximations do to a run, measured beside it: exact norms and moments, and every φ estimator at once.

A diagnostic run is an ordinary one that also records, at every evaluation, the true gain ratio at its current
parameters and what each estimator says. It is several times slower; its seconds mean nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rais import rng
from rais.gain import Minibatch, Phi, exact_moments
from rais.paper.training.trace import loss_layer_norms

if TYPE_CHECKING:
    from rais.paper.records.write import Record
    from rais.paper.training.parts import Parts

SCATTER = 500


class SideBySide:
    """Several φ estimators fed with the same minibatches; the `active` one decides, all are recorded."""

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
