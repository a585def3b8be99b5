"""Golden runs: the first 300 steps of every sampler on the embedded digits, as numbers that a change must not move.

They tell at once whether a change moved what a run computes. After a change that is meant to move them, rewrite them:
`python tests/support/golden.py`, and say in the commit why they moved.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from rais import compiled
from rais.paper import settings
from rais.paper.training import build
from rais.paper.training.loop import Loop

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "golden" / "runs.json"
STEPS, EVERY = 300, 20
RUNS = {
    "uniform": ["sampler=uniform"],
    "uniform_with_replacement": ["variant=uniform_with_replacement"],
    "smoothed": ["sampler=smoothed", "sampler.delta=0.1"],
    "rais": ["sampler=rais"],
    "rais_spaced": ["variant=rais_spaced"],
    "rais_augmentation": ["sampler=rais", "variant=with_augmentation"],
    "rais_batch_norm": ["sampler=rais", "variant=with_batch_norm"],
    "rais_dropout_momentum": ["sampler=rais", "variant=with_momentum", "model.dropout=0.5", "outliers=10"],
    "oracle": ["sampler=oracle", "data.n_train=200"],
}


def golden(name: str) -> dict[str, Any]:
    """t̂ after, and the loss of, every 20th step, and a digest of all indices drawn."""
    torch.set_num_threads(1)
    GlobalHydra.instance().clear()
    settings.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        common = ["task=digits", "data.n_train=2000", "device=cpu", "seed=7"]
        cfg = settings.from_hydra(compose("config", [*common, *RUNS[name]]))
    parts = build.build(cfg, cfg.data.build(torch.device("cpu")))
    loop = Loop(parts, None, epochs=cfg.epochs, evaluations=cfg.evaluations)
    loop.clock.start()
    drawn, draw = hashlib.sha256(), loop.engine.draw

    def recording_draw() -> Any:
        made = draw()
        drawn.update(made.index.numpy().tobytes())
        return made

    loop.engine.draw = recording_draw
    found: dict[str, Any] = {"t_hat": [], "loss": []}
    for step in range(1, STEPS + 1):
        loop.step()
        if step % EVERY == 0:
            found["t_hat"].append(loop.t_hat.item())
            found["loss"].append(loop.loss.item())
        if step == EVERY:
            found["first_indices"] = drawn.copy().hexdigest()
    return {**found, "indices": drawn.hexdigest()}


def machine() -> dict[str, str]:
    """What floating-point numbers depend on to the last bit: the processor and torch with its kernels."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    kind = sorted({line for line in lines if line.startswith(("model", "cpu family", "stepping", "flags"))})
    return {
        "torch": torch.__version__,
        "numba": "" if compiled.numba is None else compiled.numba.__version__,
        "processor": hashlib.sha256("\n".join([platform.machine(), *kind]).encode()).hexdigest()[:16],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "openblas": os.environ.get("OPENBLAS_CORETYPE", ""),
    }


if __name__ == "__main__":
    content = {"machine": machine(), "runs": {name: golden(name) for name in RUNS}}
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{FILE.relative_to(ROOT)}: {len(RUNS)} runs of {STEPS} steps")
