"""Train one configuration and record it: `python scripts/train.py task=mnist sampler=rais seed=0`.

The settings are in conf/ and are checked before anything is loaded. A run whose record is complete is not repeated, one
that was cut off goes on from its last evaluation. With `--multirun`, a job that fails does not stop the others
(sweeps.py).
"""

from __future__ import annotations

import math
import os
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import hydra
import torch
from omegaconf import DictConfig

import sweeps
from rais.paper import data
from rais.paper import settings as config
from rais.paper.records import find, layout, lock
from rais.paper.records.mirror import Mirror
from rais.paper.records.write import Record
from rais.paper.training import build
from rais.paper.training.checkpoint import Checkpoint
from rais.paper.training.loop import Loop, train
from rais.paper.training.trace import Trace

config.register()
REFUSED = (ValueError, OSError, ImportError, data.DataUnavailable)


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(composed: DictConfig) -> None:
    sweeps.guard(run, composed)


def run(composed: DictConfig) -> str:
    """Train and record `composed`; return the record's status. SystemExit, in one line, where it is refused."""
    with ExitStack() as held:
        try:
            cfg = config.from_hydra(composed)
            cfg.check_against(cfg.data.describe())
            torch.set_num_threads(cfg.threads)
            device = build.device_of(cfg)
            if (complete := find.find_complete(cfg)) is not None:
                print(f"complete: {complete}", flush=True)
                return layout.read_meta(complete)["status"]
            replayed = find.find_replayed(cfg)
            held.enter_context(lock.held(find.folder_of(cfg, run_id_of(replayed))))
            loop = prepare(cfg, device, replayed)
        except REFUSED as error:
            raise SystemExit(f"rais: {error}") from error
        status = train(loop)
    print(f"{status}: {loop.record.folder}", flush=True)
    return status


def prepare(cfg: config.Config, device: torch.device, replayed: Path | None) -> Loop:
    """The run `cfg`, at its beginning or where its checkpoint was written. Raises one of REFUSED."""
    folder = find.folder_of(cfg, run_id_of(replayed))
    checkpoint = Checkpoint(folder, cfg, device, run_id_of(replayed))
    state = checkpoint.read()
    dataset = cfg.data.build(device)
    parts = build.build(cfg, dataset, replayed)
    loop = Loop(
        parts,
        None,
        epochs=cfg.epochs,
        evaluations=cfg.evaluations,
        diagnoses=cfg.diagnose,
        measures_headroom=cfg.headroom,
        trace=Trace(parts) if cfg.trace else None,
        checkpoint=checkpoint,
    )
    loop.record = Record(  # Last: what comes before may be interrupted, or find no memory.
        cfg,
        n=len(dataset.train),
        device=device,
        replayed=run_id_of(replayed),
        fingerprint=dataset.fingerprint(),
        resumed=state and state["record"],
        mirror=cfg.wandb and partial(Mirror, outcome=outcome),
    )
    if unknown := loop.record.meta["commit_unknown"]:
        print(f"rais: the record will not say which code made it: {unknown}", file=sys.stderr, flush=True)
    if state is not None:
        loop.load_state_dict(state)
        print(f"resumed at iteration {loop.iteration}: {folder}", flush=True)
    return loop


def run_id_of(replayed: Path | None) -> str | None:
    return None if replayed is None else layout.read_meta(replayed)["run_id"]


def outcome(folder: Path, title: str, into: Path) -> tuple[dict[str, float], Path]:
    """What wandb shows of a run that has ended: its speed-up, where a uniform run lies beside it, and its curves."""
    from rais.paper import figures  # Here: a run without wandb needs neither pandas nor matplotlib.
    from rais.paper.analysis import speedup
    from rais.paper.figures import curves, style
    from rais.paper.records import read

    records = read.load_beside_uniform(folder)
    number = speedup.paired_speedup(records)
    picture, *_ = figures.save(curves.curves(style.runs_by_arm(records), title), into / "learning_curves")
    return {} if math.isnan(number) else {"speedup_examples": number}, picture


if __name__ == "__main__":
    sweeps.end_on_signals()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Errors reach the lines below instead of Hydra's own printing.
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if config.is_of_hydra(error):
            sys.exit(f"rais: {config.explain(error)}")
        if not sweeps.was_broken_by(error):
            raise
        sys.exit(1)
