"""The state of an engine: what the steps to come depend on, beside the model, the optimizer and a torch scheduler.

It is flat, of tensors and plain numbers, so that torch.load(weights_only=True) reads it. What does not fit is refused
before anything is overwritten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rais.gain.state import below

VERSION = 2
PARTS = ("sampler", "flight", "gain", "outliers")
LOOKS = ("t", "next", "skipped", "skipped_in_a_row")


def save(engine: Any) -> dict[str, Any]:
    """The state, its entries named "sampler.…", "flight.…", "gain.…", "outliers.…" where they belong to a part."""
    state: dict[str, Any] = {
        "kind": "Engine",
        "version": VERSION,
        "t_hat": engine.t_hat.clone(),
        "ratio": engine.ratio.clone(),
        "iteration": engine.iteration,
        **{f"looks_{name}": getattr(engine.looks, name) for name in LOOKS},
        "scheduler_position": None if engine.rate.scheduler is None else engine.rate.position,
    }
    for name in PARTS:
        part = getattr(engine, name)
        if part is not None:
            state.update((f"{name}.{key}", value) for key, value in part.state_dict().items())
    return state


def restore(engine: Any, state: Mapping[str, Any]) -> None:
    """Continue where `state` was taken.

    Raises:
        ValueError: another kind or version, missing entries, or parts with other settings.
    """
    check(engine, state)
    engine.sampler.load_state_dict(below("sampler", state))  # it checks everything itself before it overwrites
    engine.flight.load_state_dict(below("flight", state), engine.sampler.device)
    engine.gain.load_state_dict(below("gain", state))
    if engine.outliers is not None:
        engine.outliers.load_state_dict(below("outliers", state))
    engine.pace.t_hat = state["t_hat"].to(engine.device)
    engine.ratio = state["ratio"].to(engine.device)
    engine.iteration = state["iteration"]
    for name in LOOKS:
        setattr(engine.looks, name, state[f"looks_{name}"])
    engine.rate.position = state["scheduler_position"] or 0


def check(engine: Any, state: Mapping[str, Any]) -> None:
    """Everything that can be refused, but for what the sampler refuses itself."""
    own = save(engine)
    for name in ("kind", "version"):
        if state.get(name) != own[name]:
            raise ValueError(f"this state has {name}={state.get(name)!r}, an engine needs {name}={own[name]!r}")
    if missing := [name for name in own if "." not in name and name not in state]:
        raise ValueError(f"this is no state of an engine: entries missing {missing}")
    if (state["scheduler_position"] is None) != (engine.rate.scheduler is None):
        had, has = ("none", "one") if state["scheduler_position"] is None else ("one", "none")
        raise ValueError(f"torch scheduler: the saved engine had {had}, this has {has}; build it like the saved one")
    if (engine.outliers is None) != (not below("outliers", state)):
        raise ValueError("the saved engine and this one differ in `outliers`: build it like the saved one")
    engine.flight.check_state(below("flight", state), engine.sampler.n, engine.sampler.m)
    engine.gain.check_state(below("gain", state))
    if engine.outliers is not None:
        engine.outliers.check_state(below("outliers", state))
