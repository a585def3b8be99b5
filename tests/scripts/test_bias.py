"""The split estimate of a bias: noise does not count, and what is there is found."""

from __future__ import annotations

import pytest
import torch

from bias import split_norm


@pytest.mark.parametrize("size", [0.0, 1.0])
def test_the_norm_of_a_mean_without_its_noise(size: float) -> None:
    """Forty estimates of 1 000 numbers whose noise is five times as long as the mean that is looked for."""
    noise = torch.randn(40, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, error = split_norm(noise + size * torch.eye(1000, dtype=torch.float64)[0])
    naive = (noise.mean(0) + size * torch.eye(1000, dtype=torch.float64)[0]).norm()
    assert naive > 4
    assert found**2 * (1 if found > 0 else -1) == pytest.approx(size, abs=3)
    assert found**2 < naive**2 / 5 and error > 0


def test_without_noise_it_is_the_norm() -> None:
    found, error = split_norm(torch.tensor([3.0, 4.0], dtype=torch.float64).expand(5, 2))
    assert found == pytest.approx(5) and error == pytest.approx(0, abs=1e-9)
