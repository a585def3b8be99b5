"""Schedules at hand-computed points, for numbers and tensors alike."""

from __future__ import annotations

import pytest
import torch

from rais.gain.pace import Exponential, InverseSqrt


@pytest.mark.parametrize(
    "schedule, t_hat, rate",
    [
        (InverseSqrt(scale=3.4, offset=100), 0.0, 0.34),
        (InverseSqrt(scale=3.4, offset=100), 300.0, 0.17),
        (Exponential(lr=0.08, decay=0.5, epoch=10), 0.0, 0.08),
        (Exponential(lr=0.08, decay=0.5, epoch=10), 20.0, 0.02),
    ],
)
def test_rate(schedule, t_hat: float, rate: float) -> None:
    assert schedule(t_hat) == pytest.approx(rate)
    on_device = schedule(torch.tensor(t_hat, dtype=torch.float64))
    assert on_device.shape == () and on_device.item() == pytest.approx(rate)
