"""Schedules at hand-computed points, for numbers and tensors alike, and the time t̂ that they are read at."""

from __future__ import annotations

import pytest
import torch

from rais.gain.pace import Exponential, InverseSqrt, Pace


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


def test_pace_is_sgd_with_the_schedule_read_at_t_hat() -> None:
    pace, t_hat = Pace(InverseSqrt(scale=3.4, offset=100)), 0.0
    for r in (1.0, 1.5, 0.7):
        ratio = torch.tensor(r, dtype=torch.float64)
        before = pace.t_hat
        assert pace.learning_rate(ratio).item() == pytest.approx(r * 3.4 / (100 + t_hat) ** 0.5, rel=1e-12)
        pace.advance(ratio)
        assert before.item() == pytest.approx(t_hat) and pace.t_hat.dtype == torch.float64
        t_hat += r
    assert pace.t_hat.item() == pytest.approx(3.2, rel=1e-12)
