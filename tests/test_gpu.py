"""On a GPU a training step waits for the device nowhere, whatever the sampler and the tricks; its records are alike."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

import toy
from rais.paper.records.write import Record
from rais.paper.training import build
from rais.paper.training.loop import Loop, train
from tricks import LOW, SAMPLERS, TRICKS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def made(folder: Path, device: str, **changes) -> Loop:
    cfg = toy.settings(folder, **{"schedule": LOW, "device": device, **changes})
    parts = build.build(cfg, toy.toy_data(device))
    return Loop(parts, Record(cfg, n=toy.N, device=parts.device), epochs=cfg.epochs, evaluations=cfg.evaluations)


@pytest.mark.parametrize("tricks", [{}, TRICKS], ids=["plain", "tricks"])
@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_a_step_waits_for_nothing(tmp_path: Path, sampler, tricks) -> None:
    loop = made(tmp_path, "cuda", sampler=sampler, **tricks)
    for _ in range(20):  # past the first solve of (PT), which is made on the CPU
        loop.step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):  # neither a solve nor a new permutation falls on them
            loop.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_record_has_the_same_rows_as_on_the_cpu(tmp_path: Path) -> None:
    tables = []
    for device in ("cpu", "cuda"):
        loop = made(tmp_path / device, device, sampler=SAMPLERS["rais"], **TRICKS)
        assert train(loop) == "done"
        tables.append(pd.read_csv(loop.record.folder / "record.csv"))
    on_cpu, on_gpu = (set(table["metric"]) for table in tables)
    assert on_cpu == on_gpu and list(tables[0].columns) == list(tables[1].columns)
