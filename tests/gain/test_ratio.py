"""The gain ratio against enumeration, its degenerate cases, and the three φ estimators against the true φ."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from rais import gain
from rais.gradnorm import softmax_cross_entropy_norm
from rais.sampling import Draw, Oracle


def losses(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits, y, reduction="none")


def linear_problem(n: int = 400, dtype: torch.dtype = torch.float64):
    """A linear softmax classifier: exact per-example gradients are outer products, written down here without hooks."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(n, 5, generator=g, dtype=dtype) + 0.4
    y = torch.randint(3, (n,), generator=g)
    model = nn.Linear(5, 3, bias=False).to(dtype)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 5, generator=g, dtype=dtype))
        delta = model(x).softmax(1) - nn.functional.one_hot(y, 3)
        gradients = torch.einsum("nc,nd->ncd", delta, x).flatten(1)
    return model, x, y, gradients


def true_phi(gradients: torch.Tensor, p: torch.Tensor, m: int) -> float:
    n = len(gradients)
    one = (gradients.square().sum(1) / p).sum() / n**2
    full = gradients.mean(0).square().sum()
    return (one / m / (one / m + (1 - 1 / m) * full)).item()


def minibatches(m: int, count: int, weighted_draws: bool):
    model, x, y, gradients = linear_problem()
    n = len(x)
    p = (gradients.norm(dim=1) + 0.3) if weighted_draws else torch.ones(n, dtype=torch.float64)
    p = p / p.sum()
    g = torch.Generator().manual_seed(7)
    for _ in range(count):
        index = torch.multinomial(p, m, replacement=True, generator=g)
        draw = Draw(index, 1 / (n * p[index]))
        logits = model(x[index])
        weighted = draw.weight * losses(logits, y[index])
        model.zero_grad()
        weighted.mean().backward(retain_graph=True)
        norm = softmax_cross_entropy_norm(logits.detach(), y[index])
        yield model, gain.Minibatch(draw, norm, weighted, x[index], y[index]), true_phi(gradients, p, m)


@pytest.mark.parametrize("weighted_draws", [False, True])
@pytest.mark.parametrize("m", [4, 7])
def test_half_batch_is_unbiased_for_the_full_gradient(m: int, weighted_draws: bool) -> None:
    phi = None
    for model, batch, truth in minibatches(m, 4000, weighted_draws):  # noqa: B007
        phi = phi or gain.HalfBatch(list(model.parameters()), m=m, alpha=1e-4)
        phi.update(batch, torch.tensor(1.0))
    assert phi.value.item() == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize("weighted_draws", [False, True])
def test_consecutive_equals_phi_where_the_parameters_stand_still(weighted_draws: bool) -> None:
    phi = None
    for model, batch, truth in minibatches(6, 4000, weighted_draws):  # noqa: B007
        phi = phi or gain.Consecutive(list(model.parameters()), m=6, alpha=1e-4)
        phi.update(batch, torch.tensor(1.0))
    assert phi.value.item() == pytest.approx(truth, abs=0.02)


@pytest.mark.parametrize("weighted_draws", [False, True])
def test_exact_scale_finds_the_unit_of_the_observed_norms(weighted_draws: bool) -> None:
    adaptive = None
    for model, batch, truth in minibatches(6, 700, weighted_draws):  # noqa: B007
        if adaptive is None:
            phi = gain.ExactScale(list(model.parameters()), m=6, alpha=1e-3, every=3, few=4, model=model, loss=losses)
            adaptive = gain.Adaptive(phi, alpha=1e-3)
        adaptive.update(batch)
    assert adaptive.phi.value.item() == pytest.approx(truth, abs=0.04)


def test_half_batch_leaves_the_gradient_alone_and_needs_the_graph_only_when_due() -> None:
    phi, needed = None, []
    for model, batch, _ in minibatches(6, 7, True):
        phi = phi or gain.HalfBatch(list(model.parameters()), m=6, every=3)
        before = model.weight.grad.clone()
        needed.append(phi.needs_graph)
        phi.update(batch, torch.tensor(1.0))
        assert torch.equal(model.weight.grad, before)
    assert needed == [True, False, False, True, False, False, True]


def test_phi_is_one_before_it_is_measured_and_never_leaves_its_range() -> None:
    class Told(gain.Phi):
        def _measure(self, batch, gradient):
            return batch

    phi = Told([nn.Parameter(torch.ones(2))], m=6)
    assert phi.value.item() == 1
    for inner_product, second_moment, expected in ((-5.0, 1.0, 1.0), (1e9, 1.0, 1e-3)):
        phi.averages = gain.RunningMean(2, 1.0)
        phi.update((torch.tensor(inner_product), torch.tensor(second_moment)), torch.tensor(1.0))
        assert 1e-3 <= phi.value.item() <= 1 and phi.value.item() == pytest.approx(expected, abs=0.2)
    phi.averages = gain.RunningMean(2, 1.0)
    phi.update((torch.tensor(0.0), torch.tensor(0.0)), torch.tensor(1.0))
    assert phi.value.item() == 1


def test_a_parameter_that_the_loss_does_not_reach_changes_nothing() -> None:
    values = []
    for unused in ([], [nn.Parameter(torch.ones(3, dtype=torch.float64))]):
        model, batch, _ = next(minibatches(6, 1, True))
        phi = gain.HalfBatch([*model.parameters(), *unused], m=6)
        phi.update(batch, torch.tensor(1.0))
        values.append(phi.value.item())
    assert values[0] == values[1]


def test_weights_of_one_give_a_ratio_of_exactly_one() -> None:
    adaptive = None
    g = torch.Generator().manual_seed(0)
    for model, batch, _ in minibatches(6, 200, False):
        adaptive = adaptive or gain.Adaptive(gain.HalfBatch(list(model.parameters()), m=6, every=4))
        batch = batch._replace(draw=Draw(batch.draw.index, torch.ones(6)), norm=torch.rand(6, generator=g))
        assert adaptive.update(batch).item() == 1.0


@pytest.mark.parametrize("scale", [4.0, 0.3])
def test_scaling_the_observed_norms_leaves_the_ratio_unchanged(scale: float) -> None:
    plain, scaled = None, None
    for model, batch, _ in minibatches(6, 100, True):
        if plain is None:
            plain, scaled = (
                gain.Adaptive(gain.ExactScale(list(model.parameters()), m=6, model=model, loss=losses))
                for _ in range(2)
            )
        r = plain.update(batch).item()
        assert scaled.update(batch._replace(norm=scale * batch.norm)).item() == pytest.approx(r, rel=1e-9)
    assert r > 1.02


def test_ratio_with_long_averages_is_that_of_the_enumerated_moments() -> None:
    model, x, _, gradients = linear_problem()
    n, m = len(x), 6
    v = gradients.norm(dim=1)
    p = (v + 0.3) / (v + 0.3).sum()
    full = gradients.mean(0).square().sum()
    uniform, sampled = v.square().mean(), (v.square() / p).sum() / n**2
    truth = (uniform / m + (1 - 1 / m) * full) / (sampled / m + (1 - 1 / m) * full)
    adaptive = None
    for model, batch, _ in minibatches(m, 4000, True):
        adaptive = adaptive or gain.Adaptive(gain.HalfBatch(list(model.parameters()), m=m, alpha=1e-4), alpha=1e-4)
        r = adaptive.update(batch._replace(norm=v[batch.draw.index]))
    assert r.item() == pytest.approx(truth.item(), rel=0.01)


@pytest.mark.parametrize("m", [2, 3])
def test_exact_moments_against_every_possible_minibatch(m: int) -> None:
    rng = np.random.default_rng(5)
    gradients, p = rng.normal(size=(4, 3)), rng.dirichlet(np.ones(4))
    n = len(p)

    def second_moment(q: np.ndarray) -> float:
        total = 0.0
        for batch in itertools.product(range(n), repeat=m):
            g = sum(gradients[i] / (n * q[i]) for i in batch) / m
            total += np.prod([q[i] for i in batch]) * (g @ g)
        return total

    v = torch.from_numpy(np.linalg.norm(gradients, axis=1))
    full = torch.tensor(float(gradients.mean(0) @ gradients.mean(0)))
    moments = gain.exact_moments(v, torch.from_numpy(1 / (n * p)), full, m)
    assert moments["gain_ratio"].item() == pytest.approx(second_moment(np.full(n, 1 / n)) / second_moment(p), rel=1e-6)
    identity = 1 + moments["phi"] * (moments["rho"] - 1)
    assert identity.item() == pytest.approx(moments["gain_ratio"].item(), rel=1e-12)


def test_exact_moments_with_vanished_gradients() -> None:
    zero = torch.zeros(3, dtype=torch.float64)
    moments = gain.exact_moments(zero, torch.full((3,), torch.inf, dtype=torch.float64), torch.tensor(0.0), 2)
    assert {name: value.item() for name, value in moments.items()} == {"gain_ratio": 1, "rho": 1, "phi": 1}
    some = torch.tensor([1.0, 0.0], dtype=torch.float64)
    weight = torch.tensor([0.5, torch.inf], dtype=torch.float64)
    assert torch.isfinite(gain.exact_moments(some, weight, torch.tensor(0.25), 2)["gain_ratio"])


def test_exact_gain_of_the_oracle() -> None:
    v = torch.tensor([1.0, 2.0, 5.0])
    oracle = Oracle(3, 2, measure=lambda: (v, torch.tensor(4.0)), generator=torch.Generator().manual_seed(0))
    oracle.draw()
    uniform, sampled = 30 / 3, (8 / 3) ** 2
    truth = (uniform / 2 + 0.5 * 4) / (sampled / 2 + 0.5 * 4)
    assert gain.Exact(oracle).update(None).item() == pytest.approx(truth, rel=1e-12)


def test_running_mean_is_the_weighted_mean_of_its_past() -> None:
    alpha, values = 0.1, np.random.default_rng(1).normal(size=25)
    average = gain.RunningMean(1, alpha)
    for t, value in enumerate(values):
        average.update(torch.tensor([value]))
        weights = (1 - alpha) ** np.arange(t, -1, -1.0)
        assert average.value.item() == pytest.approx(weights @ values[: t + 1] / weights.sum(), rel=1e-12)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1, float("nan")])
def test_alpha_out_of_range(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha=.* must be in \(0, 1\]"):
        gain.RunningMean(1, alpha)


def test_replay_ends_every_segment_at_the_recorded_t_hat() -> None:
    replay = gain.Replay([3, 5], [2.0, 0.5])
    assert [replay.update(None).item() for _ in range(7)] == [2, 2, 2, 0.5, 0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="segments"):
        gain.Replay([], [])


@pytest.mark.parametrize("kwargs, message", [({"m": 1}, "batch_size"), ({"m": 4, "every": 0}, "every=0")])
def test_phi_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gain.HalfBatch([nn.Parameter(torch.ones(2))], **kwargs)


@pytest.mark.parametrize("estimator", [gain.HalfBatch, gain.ExactScale, gain.Consecutive])
def test_state_continues_to_the_last_bit(estimator: type[gain.Phi]) -> None:
    def make(model: nn.Module) -> gain.Adaptive:
        extra = {"model": model, "loss": losses} if estimator is gain.ExactScale else {}
        return gain.Adaptive(estimator(list(model.parameters()), m=6, every=3, **extra))

    first = second = None
    twice = zip(minibatches(6, 40, True), minibatches(6, 40, True), strict=True)
    for t, ((model, batch, _), (other, same_batch, _)) in enumerate(twice):
        first = first or make(model)
        if t == 20:
            second = make(other)
            second.load_state_dict(first.state_dict())
        r = first.update(batch)
        if second is not None:
            assert torch.equal(second.update(same_batch), r)
