"""The identity of a run: the scientific part of its settings, and the names that follow from it.

What the numbers of a run depend on is said beside each field (fields.py), the seed included. The place of its
record, its threads and its label are no part of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import fields, is_dataclass
from typing import Any

from rais.paper import data
from rais.paper.settings.fields import default_of
from rais.paper.settings.schema import Config


def arm(cfg: Config) -> str:
    """The name of the method and its control, e.g. `smoothed_0.1`, `rais_spaced`, `uniform_rais_multiplier`."""
    name = cfg.sampler.arm
    if cfg.gain.mode == cfg.sampler.multiplier:
        return name
    return {"off": f"{name}_multiplier_off", "replay": f"{name}_rais_multiplier"}.get(
        cfg.gain.mode, f"{name}_multiplier_{cfg.gain.mode}"
    )


def scientific(cfg: Config, replayed: str | None = None) -> dict[str, Any]:
    """The settings that the numbers of a run depend on.

    `replayed` is the run_id of the replayed run, in place of its path. A file of one's own is named by the fingerprint
    of what is in it, which is read for that. Raises DataUnavailable where it cannot be read.
    """
    settings = _of(cfg)
    if not cfg.gain.is_estimated:
        settings["gain"] = {"mode": cfg.gain.mode}
        if cfg.outliers:
            settings["gain"]["alpha"] = cfg.gain.alpha  # that of their mean
    if cfg.gain.mode == "replay":
        settings["gain"]["record"] = replayed
    if cfg.data.name == "npz":
        settings["data"]["fingerprint"] = data.npz.fingerprint(cfg.data.path)
    return settings


def _of(settings: Any) -> dict[str, Any]:
    found = {}
    for declared in fields(settings):
        value = getattr(settings, declared.name)
        if not declared.metadata.get("scientific", True):
            continue
        if declared.metadata.get("absent_at_default") and value == default_of(declared):
            continue
        found[declared.name] = _of(value) if is_dataclass(value) else value
    return found


def run_id(cfg: Config, replayed: str | None = None) -> str:
    """Ten hexadecimal digits: the SHA-256 of the scientific settings."""
    canonical = json.dumps(scientific(cfg, replayed), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def slug(text: str) -> str:
    """`text` as a folder name."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)
