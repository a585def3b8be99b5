"""Features against a list of past norms."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rais.sampling import reference
from rais.sampling.features import NAMES, Features


def expected(history, names):
    return np.array([[reference.features(past)[name] for name in names] for past in history])


def test_the_twelve_features():
    assert set(NAMES) == set(reference.features([1.0]))
    assert len(NAMES) == 12


@pytest.mark.parametrize("names", [NAMES, ("constant",), ("std_16", "mean_1", "var_4"), ("mean_16", "constant")])
def test_values_follow_every_visit(names):
    n, m, source = 6, 4, np.random.default_rng(0)
    features, history = Features(n, names=names), [[] for _ in range(n)]
    for step in range(60):
        index = source.choice(n - 1 if step < 40 else n, size=m, replace=False)  # example 5 is seen late
        norm_of = source.gamma(0.5, size=n).astype(np.float32)
        known = expected(history, names)
        before, after = features.update(torch.from_numpy(index), torch.from_numpy(norm_of[index]))
        np.testing.assert_allclose(before.numpy(), known[index], rtol=5e-6, atol=1e-30)
        for i in index.tolist():
            history[i].append(float(norm_of[i]))
        now = expected(history, names)
        np.testing.assert_allclose(features.of(torch.arange(n)).numpy(), now, rtol=5e-6, atol=1e-30)
        np.testing.assert_allclose(after.numpy(), now[index], rtol=5e-6, atol=1e-30)
        np.testing.assert_allclose(features.mean.numpy(), now.mean(0), rtol=5e-6)
        assert features.count.tolist() == [min(len(past), 16) for past in history]


@pytest.mark.parametrize("spread", [1e-3, 1e-5, 1e-6])
def test_the_variance_of_nearly_equal_norms_is_accurate(spread):
    source, features, history = np.random.default_rng(1), Features(1), [[]]
    for _ in range(40):
        norm = np.float32(1000 * (1 + spread * source.normal()))
        features.update(torch.tensor([0]), torch.tensor([norm]))
        history[0].append(float(norm))
        np.testing.assert_allclose(
            features.of(torch.tensor([0])).numpy(), expected(history, NAMES), rtol=1e-5, atol=1e-20
        )


def test_the_variance_with_one_outlier_is_accurate():
    features, history = Features(1), [[]]
    for norm in [1.0, 1.5, 1.25, 1e4, 1.0, 1.125, 1.0, 1.0, 1.0]:
        features.update(torch.tensor([0]), torch.tensor([norm]))
        history[0].append(norm)
        np.testing.assert_allclose(
            features.of(torch.tensor([0])).numpy(), expected(history, NAMES), rtol=1e-5, atol=1e-20
        )


def test_equal_norms_have_no_variance():
    features = Features(1)
    for _ in range(20):
        _, values = features.update(torch.tensor([0]), torch.tensor([0.3]))
        by_name = dict(zip(NAMES, values[0].tolist(), strict=True))
        assert all(by_name[name] == 0 for name in NAMES if name.startswith(("var", "std")))
        assert by_name["mean_1"] == pytest.approx(0.3, rel=1e-6) == by_name["mean_16"]


@pytest.mark.parametrize("names", [(), ("mean_3",), ("mean_1", "mean_1"), ("mean_1", "crop")])
def test_unknown_repeated_or_missing_names_are_refused(names):
    with pytest.raises(ValueError, match="expected distinct names out of"):
        Features(3, names=names)


def test_the_sum_over_all_examples_does_not_drift(monkeypatch):
    """A sum of changes keeps the rounding errors of all that it ever held; each turn makes it anew."""
    monkeypatch.setattr("rais.sampling.features.CHUNK", 64)
    n, source = 300, torch.Generator().manual_seed(0)
    features = Features(n)
    for step in range(200):
        size = 1e9 if step < 100 else 1e-3
        index = torch.randperm(n, generator=source)[:100]
        features.update(index, size * torch.rand(100, generator=source))
        chunks = list(features.turn(70))
        for k, s in chunks:
            torch.testing.assert_close(s, features.of(torch.arange(k, k + len(s))), rtol=1e-5, atol=0)
    exact = features.of(torch.arange(n)).double().mean(0)
    torch.testing.assert_close(features.mean, exact, rtol=1e-6, atol=0)


def test_a_turn_goes_through_all_examples_and_starts_anew(monkeypatch):
    monkeypatch.setattr("rais.sampling.features.CHUNK", 64)
    features = Features(300)
    first = [[k for k, _ in features.turn(70)] for _ in range(4)]
    assert first == [[0, 64], [128, 192], [256], [0, 64]]
