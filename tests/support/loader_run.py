"""A run on a Loader with two workers, from its start or from a saved state: `python loader_run.py FOLDER CUT …`.

For each cut it continues FOLDER/CUT.pt to the end and writes what it drew, and the parameters, to FOLDER/CUT.end.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

import loops
import rais

N, M, STEPS = 120, 8, 75


class Noisy(Dataset):
    """The examples with a transform that draws from torch's global generator."""

    def __init__(self) -> None:
        self.x, self.y = loops.data(N, torch.float32)

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.x[i] + 0.1 * torch.randn(6), self.y[i]


def build() -> tuple[nn.Module, Any, rais.Loader, rais.Engine]:
    model = loops.network(torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    sampler = rais.RAIS(N, M, seed=0, visits=32, refresh=2)
    loader = rais.Loader(Noisy(), sampler, num_workers=2, prefetch_factor=2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=300)
    return model, optimizer, loader, rais.Engine(optimizer, loader, scheduler=scheduler, phi_every=3)


def proceed(parts: tuple, folder: Path | None = None, cuts: tuple[int, ...] = ()) -> dict[str, torch.Tensor]:
    """Train to STEPS steps, saving at the `cuts`; what was drawn, how r went, and the parameters."""
    model, optimizer, loader, engine = parts
    drawn, ratios = [], []
    while engine.iteration < STEPS:
        for draw, (x, y) in loader:
            out = model(x)
            engine.backward(draw, cross_entropy(out, y, reduction="none"), out)
            engine.step()
            drawn.append(draw.index)
            ratios.append(engine.ratio)
            if engine.iteration in cuts:
                states = {"model": model, "optimizer": optimizer, "scheduler": engine.rate.scheduler, "engine": engine}
                torch.save({k: v.state_dict() for k, v in states.items()}, folder / f"{engine.iteration}.pt")
            if engine.iteration == STEPS:
                break
    parameters = torch.cat([p.detach().flatten() for p in model.parameters()])
    return {"drawn": torch.stack(drawn), "ratios": torch.stack(ratios), "parameters": parameters}


def resume(folder: Path, cut: int) -> dict[str, torch.Tensor]:
    parts = model, optimizer, _, engine = build()
    state = torch.load(folder / f"{cut}.pt", weights_only=True)
    for name, part in (("model", model), ("optimizer", optimizer), ("engine", engine)):
        part.load_state_dict(state[name])
    engine.rate.scheduler.load_state_dict(state["scheduler"])
    return proceed(parts)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for cut in map(int, sys.argv[2:]):
        torch.save(resume(Path(sys.argv[1]), cut), Path(sys.argv[1]) / f"{cut}.end.pt")
