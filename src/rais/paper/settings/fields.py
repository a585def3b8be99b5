"""What a settings class says of each field beside its default: its range, and its part in the identity of a run.

`setting` declares a field, and the base class `Settings` holds every field to its declaration as soon as an object is
made. The messages name the key as one types it, the value, and what is valid.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import field, fields, is_dataclass
from typing import Any, NamedTuple

MISSING: Any = "???"  # OmegaConf's word for a value that has to be given


class Range(NamedTuple):
    """The values that a field can take, as a predicate and in words."""

    holds: Callable[[Any], bool]
    words: str


COUNT = Range(lambda x: x >= 1, "an integer ≥ 1")
NOT_NEGATIVE = Range(lambda x: x >= 0, "≥ 0")
POSITIVE = Range(lambda x: x > 0, "greater than 0")
SHARE = Range(lambda x: 0 <= x <= 1, "in [0, 1]")
SHARE_BELOW_ONE = Range(lambda x: 0 <= x < 1, "in [0, 1)")
SHARE_ABOVE_ZERO = Range(lambda x: 0 < x <= 1, "in (0, 1]")
COUNTS = Range(lambda xs: len(xs) > 0 and min(xs) >= 1, "a list of integers ≥ 1")
NAME = Range(
    lambda x: re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", x) is not None,
    "of letters, digits and ._-, the first of them no dot and no dash",
)


def or_null(within: Range, meaning: str) -> Range:
    """`within` for a field that can be null too; `meaning` says what null means."""
    return Range(within.holds, f"{within.words}, or null for {meaning}")


def one_of(*names: str) -> Range:
    return Range(lambda x: x in names, f"one of {', '.join(names)}")


def setting(
    default: Any = MISSING,
    *,
    within: Range | None = None,
    fixed: bool = False,
    scientific: bool = True,
    absent_at_default: bool = False,
) -> Any:
    """A field of a settings class.

    Args:
        default: the value where none is given; a list is copied for each object.
        within: its range; null is not looked at, since only an optional field can be null.
        fixed: no value but the default is valid: it belongs to the class.
        scientific: whether the numbers of a run depend on it, which makes it part of the run's identity.
        absent_at_default: whether the identity leaves it out where it has its default, so that an option added later
            leaves the identity of earlier runs as it was.
    """
    metadata = {
        "within": within,
        "fixed": fixed,
        "scientific": scientific,
        "absent_at_default": absent_at_default,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def nested(kind: Callable[[], Any], **metadata: bool) -> Any:
    """A field that holds the settings class `kind`."""
    return field(default_factory=kind, metadata=metadata)


def default_of(declared: Any) -> Any:
    """The default of a dataclass's field, whichever way it was declared."""
    return declared.default_factory() if callable(declared.default_factory) else declared.default


class Settings:
    """Base of the settings classes: refuses at birth what its fields refuse.

    `group` is the key under which an object lies in the configuration, "" for the whole.

    Raises:
        ValueError: a value out of its field's range, an empty text, or a number that is not finite.
    """

    group = ""

    def __post_init__(self) -> None:
        for declared in fields(self):  # type: ignore[arg-type]
            _check(self.key(declared.name), getattr(self, declared.name), declared, self.group)

    def key(self, name: str) -> str:
        """The field `name` as one types it."""
        return f"{self.group}.{name}" if self.group else name


def _check(key: str, value: Any, declared: Any, group: str) -> None:
    within = declared.metadata.get("within")
    if value is None or (isinstance(value, str) and value == MISSING):
        return
    if declared.metadata.get("fixed") and value != declared.default:
        raise ValueError(f"{key}={value} cannot be set by itself: it belongs to the choice of {group}, {group}=…")
    if isinstance(value, str) and not value.strip():
        raise ValueError(f"{key} is empty: give it a value{f', {within.words}' if within else ''}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}={value} is out of range: it must be a finite number")
    if within is not None and not within.holds(value):
        raise ValueError(f"{key}={value} is out of range: it must be {within.words}")


def walk(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value below `settings` with its key, depth first; nested settings are walked through, not given."""
    for name, value in vars(settings).items():
        if is_dataclass(value):
            yield from walk(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
