"""Train one configuration and record it: `python scripts/train.py task=mnist sampler=rais seed=0`.

The settings stand in conf/ and are checked before anything is loaded. A run whose record is complete is not repeated.
With `--multirun`, a job that fails does not stop the others (sweeps.py).
"""

from __future__ import annotations

import os
import signal
import sys

import hydra
import torch
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

import sweeps
from rais.paper import data
from rais.paper.records import write as record
from rais.paper.settings import schema as config
from rais.paper.training import build
from rais.paper.training.loop import Loop, train
from rais.paper.training.trace import Trace

config.register()


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(composed: DictConfig) -> None:
    sweeps.guard(run, composed)


def run(composed: DictConfig) -> str:
    """Train and record `composed`; return the record's status. SystemExit, in one line, where it is refused."""
    try:
        cfg = config.from_hydra(composed)
        torch.set_num_threads(cfg.threads)
        device = build.device_of(cfg)
        if (folder := record.find_complete(cfg)) is not None:
            print(f"complete: {folder}", flush=True)
            return record.read_meta(folder)["status"]
        replayed = record.find_replayed(cfg)
        dataset = data.load(cfg.data.name, path=cfg.data.path, n_train=cfg.data.n_train, device=device)
        config.check_against_data(cfg, len(dataset.train))
        parts = build.build(cfg, dataset, replayed)
        written = record.Record(
            cfg, n=len(dataset.train), device=device, replayed=replayed and record.read_meta(replayed)["run_id"]
        )
    except (ValueError, OSError, ImportError, data.DataUnavailable) as error:
        raise SystemExit(f"rais: {error}") from error
    loop = Loop(
        parts,
        written,
        epochs=cfg.epochs,
        evaluate_every=cfg.evaluate_every,
        diagnoses=cfg.diagnose,
        trace=Trace(parts) if cfg.trace else None,
    )
    status = train(loop)
    print(f"{status}: {written.folder}", flush=True)
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Errors reach the lines below instead of Hydra's own printing.
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"rais: {config.explain(error)}")
    except KeyboardInterrupt:
        sys.exit(130)
