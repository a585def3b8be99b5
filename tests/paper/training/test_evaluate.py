"""Evaluation against losses written out by hand, whatever the chunks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rais.paper.data import Split
from rais.paper.training.evaluate import evaluate, fixed_subset, grid
from toy import toy_data


class Fixed(nn.Module):
    """Logits that depend on the one pixel: class 1 gets log(9) where it is on."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        on = (x.flatten(1) > 0.5).float()
        return torch.cat([torch.zeros_like(on), math.log(9) * on], dim=1)


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_loss_and_error(chunk: int) -> None:
    pixels = torch.tensor([255, 255, 0, 255, 0], dtype=torch.uint8).view(5, 1, 1, 1)
    split = Split(pixels, torch.tensor([1, 0, 0, 1, 1]))
    model = Fixed().train()
    loss, error = evaluate(model, split, chunk=chunk)
    assert loss == pytest.approx((2 * -math.log(0.9) - math.log(0.1) + 2 * math.log(2)) / 5, rel=1e-6)
    assert error == pytest.approx(2 / 5)
    assert model.training


@pytest.mark.parametrize("evaluations", [1, 4, 15, 24])
def test_the_grid_is_even_and_has_its_start_its_end_and_three_quarters(evaluations: int) -> None:
    points = grid(22500.0, evaluations)
    assert points[0] == 0 and points[-1] == 22500 and 16875 in points
    assert points == sorted(set(points)) and len(points) == evaluations + 1 + (evaluations % 4 != 0)
    assert all(min(abs(22500 * k / evaluations - p) for p in points) < 1e-9 for k in range(evaluations + 1))


def test_a_fixed_subset_is_the_same_for_every_run_and_no_stretch_of_the_split() -> None:
    split = toy_data().test
    few = fixed_subset(split, 50)
    assert len(few) == 50 and torch.equal(few.images, fixed_subset(split, 50).images)
    assert not torch.equal(few.images, split.images[:50])
    rows = {tuple(image.flatten().tolist()) for image in split.images}
    assert {tuple(image.flatten().tolist()) for image in few.images} <= rows
    assert fixed_subset(split, None) is split and fixed_subset(split, len(split)) is split
