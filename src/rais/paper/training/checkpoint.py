"""The checkpoint of a run: everything that its numbers to come depend on, written at every evaluation.

One file, replaced as a whole, so that a run that is killed at any moment goes on from its last evaluation and ends
with the record that it would have ended with. It is read as plain tensors and numbers; no code in it is ever run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from rais.paper.records.environment import code_digest, code_version, versions
from rais.paper.records.layout import CHECKPOINT, RecordError, replacing
from rais.paper.settings import Config, run_id

FORMAT = 1
NAMES = {
    "format": "format",
    "run_id": "settings of run",
    "variant": "variant",
    "commit": "commit",
    "code": "code (SHA-256)",
    "torch": "torch",
    "numba": "numba",
    "device": "device",
    "threads": "threads",
}


class Checkpoint:
    """The checkpoint of the run `cfg`, in its folder.

    Two runs of equal `identity` end with equal records: same settings, code, torch, kind of device and threads.
    """

    def __init__(self, folder: Path, cfg: Config, device: torch.device, replayed: str | None = None) -> None:
        self.path = folder / CHECKPOINT
        self.identity = {
            "format": FORMAT,
            "run_id": run_id(cfg, replayed),
            "variant": cfg.label or "",
            "commit": code_version()["commit"],
            "code": code_digest(),
            "torch": str(torch.__version__),
            "numba": versions().get("numba", "none"),  # without it tensor operations round in another order
            "device": device.type,
            "threads": cfg.threads,
        }

    def write(self, state: dict[str, Any]) -> None:
        """Put `state` in place of the last checkpoint. On disk when this returns."""
        with replacing(self.path) as file:
            torch.save({"identity": self.identity, "state": state}, file)

    def read(self) -> dict[str, Any] | None:
        """The state of the last checkpoint, on the CPU; None where there is none.

        Raises:
            RecordError: it cannot be read, or is one of another identity. Nothing is deleted.
        """
        if not self.path.exists():
            return None
        anew = f"delete {self.path} to start the run anew"
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, state = dict(saved["identity"]), dict(saved["state"])
        except Exception as error:  # torch.load names no errors: a damaged file raises whatever it meets first.
            reason = (str(error).splitlines() or [""])[0]
            raise RecordError(f"{self.path} cannot be read ({type(error).__name__}: {reason}): {anew}") from error
        for name, here in self.identity.items():
            there = identity.get(name)
            if there != here:
                raise RecordError(f"{self.path} was written with {NAMES[name]} {there}, this is {here}: {anew}")
        return state


def state_of(part: Any) -> dict[str, Any]:
    """The state of a part of a run; empty for one that keeps none, such as a plain function."""
    return part.state_dict() if hasattr(part, "state_dict") else {}


def restore(part: Any, state: dict[str, Any]) -> None:
    """Put `part` back to where `state_of` was taken."""
    if hasattr(part, "load_state_dict"):
        part.load_state_dict(state)
