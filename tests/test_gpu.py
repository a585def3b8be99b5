"""On a GPU a training step waits for the device nowhere, whatever the sampler and the tricks; its records are alike."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import ddp_run
import loops
import rais
import toy
from rais import rng
from rais.loop.ranks import Ranks
from rais.paper.records.write import Record
from rais.paper.settings import RAISConfig
from rais.paper.training import build
from rais.paper.training.loop import Loop, train
from tricks import LOW, SAMPLERS, TRICKS

pytestmark = pytest.mark.gpu


# A solve every 200 visits, so that whole steps lie between two.
WITH_ROOM = {**SAMPLERS, "rais": RAISConfig(visits=2000, refresh=2)}


def made(folder: Path, device: str, **changes) -> Loop:
    cfg = toy.settings(folder, **{"schedule": LOW, "device": device, **changes})
    parts = build.build(cfg, toy.toy_data(device))
    return Loop(parts, Record(cfg, n=toy.N, device=parts.device), epochs=cfg.epochs, evaluations=cfg.evaluations)


@pytest.mark.parametrize("tricks", [{}, TRICKS], ids=["plain", "tricks"])
@pytest.mark.parametrize("sampler", WITH_ROOM.values(), ids=WITH_ROOM.keys())
def test_a_step_waits_for_nothing(tmp_path: Path, sampler, tricks) -> None:
    loop = made(tmp_path, "cuda", sampler=sampler, **tricks)
    for _ in range(20):  # past the first solve of (PT)
        loop.step()
    while due_soon(loop.parts.sampler):
        loop.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):  # neither a solve nor a new permutation falls on them
            loop.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def due_soon(sampler: rais.sampling.base.Sampler) -> bool:
    """Whether a solve of (PT), which is made on the CPU, falls on the next two steps."""
    return isinstance(sampler, rais.RAIS) and sampler.solve_at - sampler.visited <= 2 * sampler.m


def test_a_record_has_the_same_rows_as_on_the_cpu(tmp_path: Path) -> None:
    tables = []
    for device in ("cpu", "cuda"):
        loop = made(tmp_path / device, device, sampler=SAMPLERS["rais"], **TRICKS)
        assert train(loop) == "done"
        tables.append(pd.read_csv(loop.record.folder / "record.csv"))
    on_cpu, on_gpu = (set(table["metric"]) for table in tables)
    assert on_cpu == on_gpu and list(tables[0].columns) == list(tables[1].columns)


def test_nccl(tmp_path: Path) -> None:
    """What ranks tell one another by NCCL; one rank, as two cannot share a GPU. Two are tested with gloo."""
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        x, y = (each.cuda() for each in loops.data(ddp_run.N))
        model = DistributedDataParallel(loops.network().cuda())
        engine = rais.Engine(
            torch.optim.SGD(model.parameters(), lr=ddp_run.LR),
            rais.RAIS(ddp_run.N, ddp_run.M, generator=rng.generator(0, "sampling", "cuda"), visits=90, refresh=4),
            group=dist.group.WORLD,
        )
        ranks = Ranks(dist.group.WORLD)
        for _ in range(40):
            draw = engine.draw()
            norm, weight = ranks.share(ddp_run.M, 0, 2 * draw.weight, draw.weight)
            assert torch.equal(weight, draw.weight) and torch.equal(norm, 2 * draw.weight)
            ddp_run.micro_batch(engine, model, draw, (x, y))
            engine.step()
        ranks.compare({"the draw": draw.index, "r": engine.ratio})
        assert ranks.from_first(engine.ratio) == engine.ratio > 1
    finally:
        dist.destroy_process_group()
