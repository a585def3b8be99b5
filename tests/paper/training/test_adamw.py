"""AdamW and the multipliers that are tried for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import toy
from rais.gain import Root
from rais.paper.settings import GainConfig
from rais.paper.training import build
from rais.paper.training.loop import Loop


def test_adamw_steps_at_the_multiplied_rate_of_the_schedule(tmp_path: Path) -> None:
    cfg = toy.settings(tmp_path, optimizer="adamw")
    cfg.gain = GainConfig(mode="root", phi="half_batch", alpha=0.01, every=16)
    parts = build.build(cfg, toy.toy_data())
    assert isinstance(parts.optimizer, torch.optim.AdamW) and isinstance(parts.gain, Root)
    twin = build.build(cfg, toy.toy_data())
    optimizer = torch.optim.AdamW(twin.model.parameters(), lr=1.0, weight_decay=cfg.weight_decay)
    loop = Loop(parts, None, epochs=4, evaluations=4)
    for _ in range(3):  # within the first pass r is 1, so that these are AdamW's own steps
        t_hat = loop.t_hat.item()
        loop.step()
        draw = twin.sampler.draw()
        x, y = twin.data.train.batch(draw.index)
        torch.nn.functional.cross_entropy(twin.model(x), y).backward()
        optimizer.param_groups[0]["lr"] = float(twin.schedule(t_hat))
        optimizer.step()
        optimizer.zero_grad()
    for p, expected in zip(parts.model.parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-4, atol=1e-6)


def test_momentum_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="momentum=0.9 has no meaning for optimizer=adamw: set momentum=0"):
        toy.settings(tmp_path, optimizer="adamw", momentum=0.9)
