"""A small problem for tests of loops, and a gain ratio that a test sets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

N, M = 200, 16


def data(n: int = N, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Three classes that a line separates but for every eleventh example."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=source, dtype=torch.float64).to(dtype)
    y = (x @ torch.randn(6, 3, generator=source, dtype=torch.float64).to(dtype)).argmax(1)
    y[::11] = (y[::11] + 1) % 3
    return x, y


def network(dtype: torch.dtype = torch.float64, *, batch_norm: bool = False) -> nn.Sequential:
    source = torch.Generator().manual_seed(1)
    model = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8) if batch_norm else nn.Identity(), nn.Tanh(), nn.Linear(8, 3)
    )
    with torch.no_grad():
        for p in [*model[0].parameters(), *model[3].parameters()]:
            p.copy_(torch.randn(p.shape, generator=source) / 2)
    return model.to(dtype)


class Fixed:
    """r as the test sets it."""

    needs_graph = needs_norms = False

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio
        self.batches = []

    def takes_parts(self, draw) -> bool:
        return False

    def update(self, batch) -> Tensor:
        self.batches.append(batch)
        return torch.tensor(self.ratio, dtype=torch.float64)

    def state_dict(self) -> dict:
        return {}

    def check_state(self, state: dict) -> None:
        pass

    def load_state_dict(self, state: dict) -> None:
        pass
