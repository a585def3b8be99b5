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
        index = source.choice(n - 1 if step < 40 else n, size=m, replace=bool(step % 2))  # example 5 is seen late
        norm_of = source.gamma(0.5, size=n).astype(np.float32)  # one norm an example, also where it is repeated
        returned = features.update(torch.from_numpy(index), torch.from_numpy(norm_of[index]))
        for i in set(index.tolist()):
            history[i].append(float(norm_of[i]))
        np.testing.assert_allclose(features.values.numpy(), expected(history, names), rtol=3e-7, atol=1e-30)
        assert torch.equal(returned, features.values[index])
        assert features.count.tolist() == [min(len(past), 16) for past in history]


@pytest.mark.parametrize("spread", [1e-3, 1e-5, 1e-6])
def test_the_variance_of_nearly_equal_norms_is_accurate(spread):
    source, features, history = np.random.default_rng(1), Features(1), [[]]
    for _ in range(40):
        norm = np.float32(1000 * (1 + spread * source.normal()))
        features.update(torch.tensor([0]), torch.tensor([norm]))
        history[0].append(float(norm))
        np.testing.assert_allclose(features.values.numpy(), expected(history, NAMES), rtol=1e-6, atol=1e-20)


def test_the_variance_with_one_outlier_is_accurate():
    features, history = Features(1), [[]]
    for norm in [1.0, 1.5, 1.25, 1e4, 1.0, 1.125, 1.0, 1.0, 1.0]:
        features.update(torch.tensor([0]), torch.tensor([norm]))
        history[0].append(norm)
        np.testing.assert_allclose(features.values.numpy(), expected(history, NAMES), rtol=1e-6, atol=1e-20)


def test_equal_norms_have_no_variance():
    features = Features(1)
    for _ in range(20):
        values = features.update(torch.tensor([0]), torch.tensor([0.3]))
        by_name = dict(zip(NAMES, values[0].tolist(), strict=True))
        assert all(by_name[name] == 0 for name in NAMES if name.startswith(("var", "std")))
        assert by_name["mean_1"] == pytest.approx(0.3, rel=1e-6) == by_name["mean_16"]


@pytest.mark.parametrize("names", [(), ("mean_3",), ("mean_1", "mean_1"), ("mean_1", "crop")])
def test_unknown_repeated_or_missing_names_are_refused(names):
    with pytest.raises(ValueError, match="expected distinct names out of"):
        Features(3, names=names)
