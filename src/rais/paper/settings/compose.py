"""From YAML files and a command line to a checked `Config`: the only place that knows Hydra.

YAML files in conf/ fill the classes of schema.py and groups.py. Hydra refuses a key that no class has; what it lets
through (`+key`, `~key`, a group that is null) is refused here, and everything that is refused is explained in one line.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from rais.paper.settings.fields import MISSING, walk
from rais.paper.settings.schema import SCHEMAS, Config


def register() -> None:
    """Make the schemas known to Hydra, as `schema` and `schema/<group>: <name>`."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for (group, name), node in SCHEMAS.items():
        store.store(group=f"schema/{group}", name=name, node=node)


def from_hydra(composed: Any) -> Config:
    """The checked `Config` of a composed DictConfig.

    Raises:
        ValueError: a key that is no setting, a missing value or one out of range; the message names the key and the
            valid values.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

    _refuse_what_is_no_setting(composed)
    try:
        cfg = OmegaConf.to_object(composed)
    except MissingMandatoryValue as error:
        raise ValueError(f"a setting has no value: {error}".splitlines()[0]) from error
    except OmegaConfBaseException as error:
        raise ValueError(explain(error)) from error
    if not isinstance(cfg, Config):
        raise ValueError("the configuration has no schema: `schema` must be first in the defaults of config.yaml")
    for key, value in walk(cfg):
        if isinstance(value, str) and value == MISSING:
            group, _, name = key.rpartition(".")
            cure = f"choose a file of conf/{group}, {group}=…" if name == "name" else f"give it one, {key}=…"
            raise ValueError(f"{key} has no value: {cure}")
    return cfg


def _refuse_what_is_no_setting(composed: Any) -> None:
    """Raise ValueError for a key that `+key=value` has added to a class, or a class that `~key` has taken away."""
    from omegaconf import DictConfig, OmegaConf

    def look(node: DictConfig, prefix: str) -> None:
        kind = OmegaConf.get_type(node)
        if not is_dataclass(kind):
            return
        valid = [f.name for f in fields(kind)]
        for name in node:
            if name not in valid:
                raise ValueError(f"{prefix}{name} is no setting: {_where(prefix)} has {', '.join(valid)}")
            child = node._get_node(name)
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                look(child, f"{prefix}{name}.")
        for name in valid:
            if name not in node:
                taken = prefix.rstrip(".") if name == "name" and prefix else f"{prefix}{name}"
                raise ValueError(f"{taken} was taken away: leave out ~{taken}, or give it a value, {taken}=…")

    look(composed, "")


def _where(prefix: str) -> str:
    return prefix.rstrip(".") or "the top level"


def is_of_hydra(error: BaseException) -> bool:
    """Whether `error` was raised while Hydra composed a configuration, and not by what was run with it."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = "" if trace is None else trace.tb_frame.f_globals.get("__name__", "")
    return isinstance(error, (HydraException, OmegaConfBaseException)) or raised_in.startswith(("hydra.", "omegaconf."))


def explain(error: BaseException) -> str:
    """One or two lines for a configuration that Hydra refused: its message, and the valid keys where a key is
    unknown."""
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, ValueError) and "Config group override must be" in str(error):
        return "a group cannot be null: leave it out, or choose one of its files, as in variant=none or sampler=rais"
    if isinstance(error, AssertionError):
        return "a setting below one that is null was given a value: wandb.mode and wandb.project need logger=wandb"
    lines = [
        line for line in str(error).splitlines() if line and not line.startswith(("Config search path", "\tprovider"))
    ]
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    node = getattr(cause, "object_type", None)
    if (
        getattr(cause, "key", None) is not None
        and is_dataclass(node)
        and cause.key not in (keys := [f.name for f in fields(node)])
    ):
        where = str(cause.full_key).rpartition(".")[0]
        return f"{cause.full_key} is no setting: {_where(where)} has {', '.join(keys)}"
    reason = [] if cause is None or cause is error else str(cause).splitlines()[:1]
    return " ".join(line.strip() for line in [*lines, *reason])
