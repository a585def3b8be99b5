"""Evaluation against losses written out by hand, whatever the chunks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rais.paper.data import Split
from rais.paper.training.evaluate import evaluate


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
