"""The outlier cap: what it does to one minibatch by hand, what it leaves alone, and what it says about its bias."""

from __future__ import annotations

import pytest
import torch

from rais.loop.outliers import OutlierCap


def lengths(*values: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and norms whose products are `values`."""
    weight = torch.linspace(0.5, 2, len(values))
    return weight, torch.tensor(values) / weight


def slow(limit: float, alpha: float, minibatches: list[list[float]]) -> list[list[float]]:
    """The limited lengths, with the moving average written out: weights ∝ (1−α)^age; never below norm or length."""
    result, means = [], []
    for batch in minibatches:
        shares = [(1 - alpha) ** age for age in range(len(means))]
        mean = sum(s * m for s, m in zip(shares, reversed(means), strict=True)) / sum(shares) if means else float("inf")
        weights = [0.5 + 1.5 * k / (len(batch) - 1) for k in range(len(batch))]
        result.append([min(x, max(limit * mean, x / w)) for x, w in zip(batch, weights, strict=True)])
        means.append(sum(result[-1]) / len(batch))
    return result


def test_it_follows_the_slow_restatement() -> None:
    draws = torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) ** -1.2  # heavy tails
    cap = OutlierCap(3, alpha=0.1)
    expected = slow(3, 0.1, draws.tolist())
    for batch, limited in zip(draws.tolist(), expected, strict=True):
        weight, norm = lengths(*batch)
        torch.testing.assert_close(cap(weight, norm) * norm, torch.tensor(limited), rtol=1e-5, atol=0)
    assert sum(a != b for batch in zip(draws.tolist(), expected, strict=True) for a, b in zip(*batch, strict=True)) > 10


def test_its_diagnostics_are_the_share_limited_and_the_length_removed_since_the_last_call() -> None:
    cap = OutlierCap(2, alpha=0.5)
    cap(*lengths(1, 1, 1, 1))
    assert cap.diagnostics() == {"outlier_share": 0.0, "outlier_bias": 0.0}
    cap(*lengths(1, 1, 1, 7))
    assert cap.diagnostics() == pytest.approx({"outlier_share": 0.25, "outlier_bias": 3.5 / 10})  # weight 2 → 1
    assert cap.diagnostics() == {"outlier_share": 0.0, "outlier_bias": 0.0}


def test_the_bias_of_the_expected_gradient_is_at_most_the_share_of_length_removed() -> None:
    """Σ p_i weight_i' ∇f_i against ∇F, enumerated, in units of the mean norm."""
    source = torch.Generator().manual_seed(0)
    gradients = torch.randn(50, 3, generator=source, dtype=torch.float64) * torch.logspace(-1, 1, 50).double()[:, None]
    norm = gradients.norm(dim=1)
    p = torch.rand(50, generator=source, dtype=torch.float64)
    p /= p.sum()
    weight = 1 / (50 * p)
    cap = OutlierCap(4)
    cap.lengths.update(norm.mean()[None])
    limited = cap(weight, norm)
    assert (limited < weight).any()
    missing = (p * (weight - limited)) @ gradients
    removed = (p * (weight - limited)) @ norm
    assert missing.norm() <= removed
    assert removed < norm.mean()


def test_equal_lengths_and_zero_norms_are_never_limited() -> None:
    cap = OutlierCap(1.01)
    for _ in range(5):
        weight, norm = lengths(2, 2, 2)
        assert torch.equal(cap(weight, norm), weight)
    zero = torch.zeros(3)
    assert torch.equal(cap(weight, zero), weight)
    assert cap.diagnostics()["outlier_share"] == 0


def test_no_example_weighs_less_than_in_plain_sgd() -> None:
    cap = OutlierCap(1.5)
    cap(*lengths(1, 1))
    norm = torch.tensor([1.0, 1e3, 1e6])
    assert torch.equal(cap(torch.ones(3), norm), torch.ones(3)), "uniform draws are limited"
    weight = torch.tensor([0.5, 100.0, 100.0])
    assert torch.equal(cap(weight, norm[[2, 1, 2]] * 1e6), torch.tensor([0.5, 1.0, 1.0]))


def test_a_lasting_change_is_followed() -> None:
    cap = OutlierCap(3, alpha=0.1)
    cap(*lengths(1, 1))
    for _ in range(100):
        weight, norm = lengths(100, 100)
        limited = cap(weight, norm)
    assert torch.equal(limited, weight)


def test_it_resumes() -> None:
    one, other = OutlierCap(2), OutlierCap(2)
    one(*lengths(1, 2, 9))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(*lengths(1, 50, 2)), other(*lengths(1, 50, 2)))
    assert one.diagnostics() == other.diagnostics()


def test_lengths_are_in_units_of_the_mean_norm_where_it_is_known() -> None:
    """Norms that fall together with their mean are no change; the mean of the raw lengths before it is forgotten."""
    plain, falling = OutlierCap(3, alpha=0.1), OutlierCap(3, alpha=0.1)
    draws = torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) ** -1.2
    falling(*lengths(1e6, 1e6))
    for t, batch in enumerate(draws.tolist()):
        weight, norm = lengths(*batch)
        expected = plain(weight, norm)
        torch.testing.assert_close(falling(weight, 0.7**t * norm, torch.tensor(0.7**t)), expected, rtol=1e-5, atol=0)
    assert (expected < weight).any() or plain.diagnostics()["outlier_share"] > 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_poisons_nothing(bad: float) -> None:
    cap = OutlierCap(2)
    for first in (True, False):
        cap(torch.tensor([2.0, 2.0]), torch.tensor([1.0, bad]))
        assert first == cap.lengths.value.isnan().item()
        cap(*lengths(1, 1))
    assert cap.lengths.value.item() == pytest.approx(1)
    cap(*lengths(1, 9))
    assert cap.diagnostics() == pytest.approx({"outlier_share": 1 / 6, "outlier_bias": 4.5 / 14})  # weight 2 → 1


def test_a_state_of_another_limit_is_refused_with_both_values() -> None:
    with pytest.raises(ValueError, match=r"limit=2.*limit=3"):
        OutlierCap(3).load_state_dict(OutlierCap(2).state_dict())


@pytest.mark.parametrize("limit", [1, 0, -3, float("nan")])
def test_a_limit_that_would_act_on_ordinary_examples_is_refused(limit: float) -> None:
    with pytest.raises(ValueError, match="greater than 1"):
        OutlierCap(limit)
