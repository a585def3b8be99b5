"""Gloo ranks on CPUs, forked from the test; what rank K found is in FOLDER/K.pt, its error in FOLDER/K.err."""

from __future__ import annotations

import multiprocessing
import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import loops
import rais

N, M, LR = 300, 15, 0.05
STEPS = {"train": 500, "pieces": 150, "framework": 150, "framework_pieces": 150, "long_pieces": 500, "by_hand": 60}


def sampler(seed: int = 0) -> rais.RAIS:
    return rais.RAIS(N, M, seed=seed, visits=90, refresh=4)


def micro_batch(engine: rais.Engine, model: nn.Module, part: rais.Draw, data: tuple, mode: str = "train") -> None:
    x, y = data
    out = model(x[part.index])
    losses = cross_entropy(out, y[part.index], reduction="none")
    if mode.startswith("framework"):
        engine.loss(part, losses, out).backward()
    else:
        engine.backward(part, losses, out)


def train(rank: int, group: dist.ProcessGroup, mode: str) -> dict:
    """Each rank works its part off in `pieces` micro-batches."""
    data = loops.data(N)
    net = loops.network()
    model = net if mode in ("bare", "by_hand") else DistributedDataParallel(net)
    source = sampler(seed=rank if mode == "seeds" else 0)
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.5)
    settings = {"outliers": 10.0} if mode == "outliers" else {}
    engine = rais.Engine(optimizer, source, group=None if mode == "no_group" else group, phi_every=8, **settings)
    pieces = 2 if mode.endswith("pieces") else 1
    drawn, ratios = [], []
    for step in range(STEPS.get(mode, 30)):
        if mode == "dies" and rank == 1 and step == 10:
            os._exit(3)
        draw = engine.draw()
        for k in range(pieces):
            part = draw if pieces == 1 else draw.part(k, pieces)
            if k + 1 < pieces:
                with model.no_sync():
                    micro_batch(engine, model, part, data, mode)
            else:
                micro_batch(engine, model, part, data, mode)
        if mode == "by_hand":
            for p in net.parameters():
                dist.all_reduce(p.grad)
                p.grad /= 2
        if mode.startswith("framework"):  # which clips by itself; a bound that is never met
            nn.utils.clip_grad_norm_(net.parameters(), 1e9)
        drawn.append(next(iter(engine.flight.draws.values())).index)
        engine.step()
        ratios.append(engine.ratio)
    parameters = torch.cat([p.detach().flatten() for p in net.parameters()])
    return {
        "drawn": torch.stack(drawn),
        "ratios": torch.stack(ratios),
        "parameters": parameters,
        "state": engine.state_dict(),
    }


def load(rank: int, group: dist.ProcessGroup) -> dict:
    """A loader on each rank loads its own part of every draw."""
    loader = rais.Loader(TensorDataset(torch.arange(N)), sampler(), group=group)
    return {"index": [torch.stack([x, draw.index]) for draw, (x,) in loader]}


def fsdp() -> None:
    from torch.distributed.fsdp import fully_shard

    net = loops.network()
    fully_shard(net, mesh=dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),)))
    rais.Engine(torch.optim.SGD(net.parameters(), lr=LR), sampler(), group=dist.group.WORLD)


def run_rank(mode: str, rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=60))
    group = dist.group.WORLD
    try:
        if mode == "fsdp":
            fsdp()
        else:
            torch.save(load(rank, group) if mode == "load" else train(rank, group, mode), folder / f"{rank}.pt")
    except Exception as error:
        (folder / f"{rank}.err").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        os._exit(1)
    dist.destroy_process_group()


def launch(mode: str, folder: Path, world: int = 2) -> list[tuple[int | None, str]]:
    """Exit status and error, where there is one, of each rank."""
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=run_rank, args=(mode, rank, world, folder)) for rank in range(world)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(timeout=200)
    errors = [folder / f"{rank}.err" for rank in range(world)]
    texts = [path.read_text(encoding="utf-8") if path.exists() else "" for path in errors]
    return [(rank.exitcode, text) for rank, text in zip(ranks, texts, strict=True)]
