"""φ against the true one, ‖∇F‖² from parts against enumeration, and what φ must not depend on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from gradients import Falling, losses, minibatches
from rais import gain
from rais.sampling import Draw


@pytest.mark.parametrize("is_weighted", [False, True])
@pytest.mark.parametrize("m", [4, 7])
def test_half_batch_finds_the_true_phi(m: int, is_weighted: bool) -> None:
    phi = None
    for model, batch, truth in minibatches(m, 1500, is_weighted):  # noqa: B007
        phi = phi or gain.HalfBatch(model.parameters(), m=m, alpha=1e-4)
        phi.update(batch)
    assert phi.value.item() == pytest.approx(truth, abs=0.03)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_consecutive_equals_phi_where_the_parameters_do_not_move(is_weighted: bool) -> None:
    phi = None
    for model, batch, truth in minibatches(6, 1500, is_weighted):  # noqa: B007
        phi = phi or gain.Consecutive(model.parameters(), m=6, alpha=1e-4)
        phi.update(batch)
    assert phi.value.item() == pytest.approx(truth, abs=0.03)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_exact_scale_finds_the_unit_of_the_observed_norms(is_weighted: bool) -> None:
    adaptive = None
    for model, batch, truth in minibatches(6, 700, is_weighted):  # noqa: B007
        if adaptive is None:
            phi = gain.ExactScale(model.parameters(), m=6, alpha=1e-3, every=3, few=4, model=model, loss=losses)
            adaptive = gain.Adaptive(phi, alpha=1e-3)
        adaptive.update(batch)
    assert adaptive.phi.value.item() == pytest.approx(truth, abs=0.04)


def test_each_minibatch_has_an_m_that_is_its_own() -> None:
    """Every third minibatch has 3 examples instead of 12: one pair of moments holds for both, φ differs."""
    phi, value, truth = None, {}, {}
    for model, batch, true in minibatches(12, 1800, True, short=3):
        phi = phi or gain.HalfBatch(model.parameters(), m=12, alpha=1e-4, every=2)
        phi.update(batch)
        value[len(batch.norm)], truth[len(batch.norm)] = phi.value.item(), true
    assert truth[3] > truth[12] + 0.2
    assert value == pytest.approx(truth, abs=0.03)


def test_a_minibatch_of_one_example_is_all_noise_and_measures_nothing() -> None:
    problem = Falling()
    phi = gain.HalfBatch([problem.w], m=6)
    phi.update(problem.minibatch(6))
    value, averages = phi.value.item(), phi.averages.value.clone()
    phi.update(problem.minibatch(1))
    assert phi.value.item() == 1 and torch.equal(phi.averages.value, averages)
    draw = problem.minibatch(6)
    phi.every = 1000
    phi.update(draw)
    assert phi.value.item() == pytest.approx(value)


@pytest.mark.parametrize("sizes", [(2, 2), (7, 7, 1, 1), (3, 0, 1), (1, 1)])
def test_the_full_gradient_from_parts_is_a_sum_over_pairs(sizes: tuple[int, ...]) -> None:
    """⟨g_k, g_l⟩ over pairs k ≠ l with weights m_k m_l, written out."""
    rng = np.random.default_rng(0)
    parts, m = rng.normal(size=(len(sizes), 4)), sum(sizes)
    pairs = [(k, j) for k, j in itertools.permutations(range(len(sizes)), 2)]
    expected = sum(sizes[k] * sizes[j] * parts[k] @ parts[j] for k, j in pairs)
    expected /= sum(sizes[k] * sizes[j] for k, j in pairs)
    whole = np.array(sizes) @ parts / m
    found = gain.full_gradient_sq(sizes, torch.from_numpy((parts**2).sum(1)), torch.tensor(whole @ whole))
    assert found.item() == pytest.approx(expected, rel=1e-10)


def squares(gradients: np.ndarray, drawn: tuple[int, ...], sizes: tuple[int, ...], weight: np.ndarray):
    ends = np.cumsum(sizes)
    g = [(weight[list(drawn)][:, None] * gradients[list(drawn)])[a:b].mean(0) for a, b in zip(ends - sizes, ends)]  # noqa: B905
    whole = np.array(sizes) @ np.array(g) / sum(sizes)
    return torch.tensor([float(x @ x) for x in g]), torch.tensor(float(whole @ whole))


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1), (2, 1, 1)])
def test_the_full_gradient_from_parts_is_unbiased_over_all_importance_draws(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    gradients, p = rng.normal(size=(3, 2)) + 0.5, rng.dirichlet(np.ones(3))
    mean = 0.0
    for drawn in itertools.product(range(3), repeat=sum(sizes)):
        estimate = gain.full_gradient_sq(sizes, *squares(gradients, drawn, sizes, 1 / (3 * p)))
        mean += np.prod(p[list(drawn)]) * estimate.item()
    assert mean == pytest.approx(gradients.mean(0) @ gradients.mean(0), rel=1e-5)


def test_the_full_gradient_from_sixteen_examples_in_four_parts_is_unbiased() -> None:
    """(7, 7, 1, 1) out of two examples: how often each part holds the second one is all that matters."""
    rng = np.random.default_rng(2)
    gradients, q, sizes = rng.normal(size=(2, 2)) + 0.5, 0.7, (7, 7, 1, 1)
    weight = 1 / (2 * np.array([1 - q, q]))
    mean = total = 0.0
    for counts in itertools.product(*(range(k + 1) for k in sizes)):
        drawn = tuple(int(j < c) for k, c in zip(sizes, counts, strict=True) for j in range(k))
        chance = math.prod(math.comb(k, c) * q**c * (1 - q) ** (k - c) for k, c in zip(sizes, counts, strict=True))
        total += chance
        mean += chance * gain.full_gradient_sq(sizes, *squares(gradients, drawn, sizes, weight)).item()
    assert total == pytest.approx(1) and mean == pytest.approx(gradients.mean(0) @ gradients.mean(0), rel=1e-5)


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1), (2, 1, 1)])
def test_draws_without_replacement_lower_it_by_the_stated_bias(sizes: tuple[int, ...]) -> None:
    n = 5
    gradients = np.random.default_rng(3).normal(size=(n, 2)) + 0.5
    orders = list(itertools.permutations(range(n), sum(sizes)))
    estimates = [gain.full_gradient_sq(sizes, *squares(gradients, drawn, sizes, np.ones(n))) for drawn in orders]
    full = gradients.mean(0) @ gradients.mean(0)
    bias = -(np.mean((gradients**2).sum(1)) - full) / (n - 1)
    assert torch.stack(estimates).mean().item() == pytest.approx(full + bias, rel=1e-5)


@pytest.mark.parametrize("sizes, squares_of", [((4,), 1), ((4, 0), 2), ((2, 2), 3), ((3, -1), 2), ((), 0)], ids=str)
def test_parts_that_show_nothing_are_refused(sizes: tuple[int, ...], squares_of: int) -> None:
    with pytest.raises(ValueError, match="at least two parts"):
        gain.full_gradient_sq(sizes, torch.ones(squares_of), torch.tensor(1.0))


def test_phi_from_two_halves_is_that_of_half_batch() -> None:
    problem = Falling()
    halves, parts = gain.HalfBatch([problem.w], m=7, every=3), gain.FromParts([problem.w], m=7, every=3)
    for _ in range(50):
        batch = problem.minibatch(7)
        if parts.is_due:
            g = problem.gradients
            each = torch.stack([g[:3].mean(0).square().sum(), g[3:].mean(0).square().sum()])
            parts.update_from_parts([3, 4], each, g.mean(0).square().sum(), batch.draw.mean_norm)
        parts.update(batch)
        halves.update(batch)
        assert parts.value.item() == pytest.approx(halves.value.item(), rel=1e-12)
    assert 0.01 < halves.value.item() < 0.99


def test_parts_before_averages_start_are_let_go() -> None:
    phi = gain.FromParts([nn.Parameter(torch.ones(1))], m=4)
    phi.update_from_parts([2, 2], torch.ones(2), torch.tensor(0.5), None)
    assert phi.value.item() == 1 and phi.averages.sums[-1].item() == 0


@pytest.mark.parametrize("estimator", ["half_batch", "parts", "consecutive"])
def test_a_loss_scale_that_changes_changes_nothing(estimator: str) -> None:
    """Gradients carry 2^16 at one step and 2 at the next, as a GradScaler's would."""
    values = []
    for scales in ([1.0], [2.0**16, 2.0, torch.tensor(0.5)]):
        problem = Falling()
        make = {"half_batch": gain.HalfBatch, "parts": gain.FromParts, "consecutive": gain.Consecutive}[estimator]
        phi = make([problem.w], m=6)
        for t in range(30):
            scale = scales[t % len(scales)]
            batch = problem.minibatch(6)._replace(scale=scale)
            problem.w.grad *= scale
            if estimator == "parts":
                g = scale * problem.gradients
                each = torch.stack([g[:4].mean(0).square().sum(), g[4:].mean(0).square().sum()])
                phi.update_from_parts([4, 2], each, g.mean(0).square().sum(), batch.draw.mean_norm, scale=scale)
            phi.update(batch)
        values.append(phi.value.item())
    assert values[0] == pytest.approx(values[1], rel=1e-12) and values[0] < 0.99


def test_half_batch_looks_at_no_grad_so_that_clipping_and_accumulation_change_nothing() -> None:
    values = []
    for spoil in (lambda grad: grad, lambda grad: grad.mul_(0.01), lambda grad: grad.fill_(float("inf"))):
        problem = Falling()
        phi = gain.HalfBatch([problem.w], m=6)
        for _ in range(30):
            batch = problem.minibatch(6)
            spoil(problem.w.grad)
            before = problem.w.grad.clone()
            phi.update(batch)
            assert torch.equal(problem.w.grad, before)
        values.append(phi.value.item())
    assert len(set(values)) == 1


@pytest.mark.parametrize("estimator", [gain.Consecutive, gain.ExactScale])
def test_an_infinite_gradient_leaves_the_averages_of_those_that_read_it(estimator: type[gain.Phi]) -> None:
    values = []
    for is_spoilt in (False, True):
        adaptive = None
        for t, (model, batch, _) in enumerate(minibatches(6, 300, True)):
            if adaptive is None:
                extra = {"model": model, "loss": losses} if estimator is gain.ExactScale else {}
                adaptive = gain.Adaptive(estimator(model.parameters(), m=6, **extra))
            if is_spoilt and t % 50 == 49:
                model.weight.grad[0, 0] = float("inf")
            adaptive.update(batch)
        values.append(adaptive.phi.value.item())
    assert values[0] == pytest.approx(values[1], rel=0.1) and values[0] < 0.99


@pytest.mark.parametrize("estimator", [gain.HalfBatch, gain.Consecutive, gain.ExactScale])
def test_what_phi_is_made_of_is_averaged_three_times_longer_than_norms(estimator: type[gain.Phi]) -> None:
    model = torch.nn.Linear(2, 3)
    extra = {"model": model, "loss": losses} if estimator is gain.ExactScale else {}
    phi = estimator(model.parameters(), m=6, alpha=0.3, **extra)
    averages = [phi.averages, phi.moments] if estimator is gain.ExactScale else [phi.averages]
    for mean in averages:
        mean.update(torch.ones(2, dtype=torch.float64))
        mean.update(torch.zeros(2, dtype=torch.float64))
        assert mean.value.tolist() == pytest.approx([0.09 / 0.19] * 2)  # weights 0.1 · 0.9 and 0.1


def test_half_precision_gradients_are_squared_in_float32() -> None:
    a = [torch.full((10,), 300.0, dtype=torch.float16)]
    assert gain.inner(a, a).item() == pytest.approx(900_000)
    sparse = torch.eye(3).to_sparse()
    assert gain.inner([sparse], [torch.ones(3, 3)]).item() == 3


def test_half_batch_needs_the_graph_only_when_due_and_measures_the_first_importance_draw() -> None:
    problem, needed = Falling(), []
    phi = gain.HalfBatch([problem.w], m=6, every=3)
    for t in range(9):
        batch = problem.minibatch(6, is_uniform=t < 2)
        needed.append(phi.needs_graph)
        phi.update(batch)
    assert needed == [True, True, True, False, False, True, False, False, True]
    assert phi.averages.sums[-1].item() == pytest.approx(1 - (1 - 0.01 / 3) ** 9)


def told(full_sq: float, whole_sq: float, m: int = 6) -> float:
    phi = gain.FromParts([nn.Parameter(torch.ones(2))], m=m)
    assert phi.value.item() == 1
    phi._take(torch.tensor(full_sq, dtype=torch.float64), torch.tensor(whole_sq, dtype=torch.float64), m, 1.0)
    return phi.value.item()


def test_phi_stays_in_its_range() -> None:
    assert told(-5.0, 1.0) == 1
    assert told(1e9, 1.0) == 1e-3
    assert told(0.0, 0.0) == 1
    assert told(6 / 5 * (1 - 0.004), 1.0) == pytest.approx(0.004, rel=1e-6), "a small φ is one that occurs"


def test_a_parameter_that_the_loss_does_not_reach_changes_nothing() -> None:
    values = []
    for unused in ([], [nn.Parameter(torch.ones(3, dtype=torch.float64))]):
        model, batch, _ = next(minibatches(6, 1, True))
        phi = gain.HalfBatch([*model.parameters(), *unused], m=6)
        phi.update(batch)
        values.append(phi.value.item())
    assert values[0] == values[1]


@pytest.mark.parametrize(
    "kwargs, message",
    [
        ({"m": 1}, "batch_size"),
        ({"m": 4, "every": 0}, "every=0"),
        ({"m": 4, "alpha": 1.5}, r"alpha=1\.5 must be in"),
        ({"m": 4, "alpha": 0}, "alpha=0 must be in"),
    ],
)
def test_phi_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gain.HalfBatch([nn.Parameter(torch.ones(2))], **kwargs)


def exhausted():
    parameters = nn.Linear(4, 3).parameters()
    torch.optim.SGD(parameters, lr=0.1)
    return parameters


@pytest.mark.parametrize(
    "make, message",
    [
        (exhausted, "an iterator that an optimizer has read"),
        (list, "parameters is empty"),
        (lambda: nn.Linear(4, 3), "parameters is a Linear: pass list"),
        (lambda: torch.ones(3, requires_grad=True), "parameters is a Tensor"),
        (lambda: nn.Linear(4, 3).requires_grad_(False).parameters(), "none of the 2 parameters requires a gradient"),
        (lambda: [{"params": list(nn.Linear(4, 3).parameters()), "lr": 0.1}], "parameters holds a dict"),
        (lambda: nn.Linear(4, 3).named_parameters(), "parameters holds a tuple"),
    ],
    ids=["exhausted", "empty", "model", "tensor", "frozen", "groups", "named"],
)
def test_what_are_no_parameters(make, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        gain.HalfBatch(make(), m=8)
    assert "\n" not in str(caught.value)


def test_losses_that_show_no_gradient_are_refused_by_name() -> None:
    problem = Falling()
    batch = problem.minibatch(6)
    with pytest.raises(ValueError, match=r"retain_graph=gain\.needs_graph"):
        gain.HalfBatch([problem.w], m=6).update(batch._replace(weighted=batch.weighted.detach()))
    with pytest.raises(ValueError, match=r"weighted has shape \(\)"):
        gain.HalfBatch([problem.w], m=6).update(batch._replace(weighted=batch.weighted.mean()))
    with pytest.raises(ValueError, match="not of a copy"):
        gain.HalfBatch([problem.w.detach().clone().requires_grad_()], m=6).update(batch)
    problem.w.grad = None
    with pytest.raises(ValueError, match="zero_grad"):
        gain.Consecutive([problem.w], m=6).update(batch)
    assert isinstance(batch.draw, Draw)
