"""State of the objects of a training loop: flat, versioned, and refused whole or taken whole.

An object names the attributes that must agree with a saved run and those that are saved; objects inside it enter with
their name in front, so that the result is one dictionary of tensors, numbers and strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

VERSION = 1


class Stateful:
    """State as a flat dictionary of tensors and numbers that `torch.load(weights_only=True)` reads.

    `_settings` name attributes that must agree, `_entries` those that are saved and restored.
    """

    _settings: tuple[str, ...] = ()
    _entries: tuple[str, ...] = ()

    def state_dict(self) -> dict[str, Any]:
        """`kind`, `version`, the settings, and all that later values depend on, in tensors that nobody else writes."""
        state: dict[str, Any] = {"kind": type(self).__name__, "version": VERSION}
        state.update((name, getattr(self, name)) for name in self._settings)
        for name in self._entries:
            value = getattr(self, name)
            if hasattr(value, "state_dict"):
                state.update((f"{name}.{key}", entry) for key, entry in value.state_dict().items())
            else:
                state[name] = value.clone() if isinstance(value, Tensor) else value
        return state

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Refuse a state of something else, before anything is overwritten.

        Raises:
            ValueError: another kind, version, setting, set of entries, or shape; both values are named.
        """
        own = self.state_dict()
        kind = own["kind"]
        for name in ("kind", "version", *self._settings):
            if name in state and state[name] != own[name]:
                raise ValueError(
                    f"this state has {name}={state[name]!r}, the {kind} it is loaded into has {name}={own[name]!r}: "
                    "build it with the settings of the saved run"
                )
        if set(state) != set(own):
            missing, unknown = sorted(set(own) - set(state)), sorted(set(state) - set(own))
            raise ValueError(f"this is no state of a {kind}: entries missing {missing}, unknown {unknown}")
        for name in self._entries:
            value = getattr(self, name)
            if hasattr(value, "check_state"):
                value.check_state(below(name, state))
            elif not isinstance(state[name], type(value)) or _shape(state[name]) != _shape(value):
                raise ValueError(
                    f"this state's {name} is a {_described(state[name])}, the {kind} it is loaded into has a "
                    f"{_described(value)}: build it with the settings of the saved run"
                )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken; see `check_state` for what is refused."""
        self.check_state(state)
        for name in self._entries:
            value = getattr(self, name)
            if hasattr(value, "load_state_dict"):
                value.load_state_dict(below(name, state))
            elif isinstance(value, Tensor):
                setattr(self, name, state[name].to(value).clone())
            else:
                setattr(self, name, state[name])


def below(name: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of the part `name`, without its name."""
    return {key.removeprefix(f"{name}."): entry for key, entry in state.items() if key.startswith(f"{name}.")}


def _shape(value: object) -> tuple[int, ...] | None:
    return tuple(value.shape) if isinstance(value, Tensor) else None


def _described(value: object) -> str:
    return f"{type(value).__name__} of shape {_shape(value)}" if isinstance(value, Tensor) else type(value).__name__
