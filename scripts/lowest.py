"""The lowest versions that pyproject.toml allows, as requirements: `make test-lowest` installs them.

Tools without a lower bound are left to pip. The extras are those of the lock.
"""

from __future__ import annotations

import re
from pathlib import Path

import tomllib

EXTRAS = ("train", "wandb", "sweep", "notebooks", "dev")


def lowest(text: str) -> list[str]:
    """Each dependency of a pyproject.toml `text` and of its EXTRAS, at its lower bound.

    >>> lowest('[project]\ndependencies = ["numpy>=1.26,<3"]\n[project.optional-dependencies]')
    ['numpy==1.26']
    """
    project = tomllib.loads(text)["project"]
    optional = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for extra in EXTRAS for line in optional.get(extra, []))]
    return [re.sub(r">=([\w.]+).*", r"==\1", line) for line in lines]


if __name__ == "__main__":
    print(*lowest((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8")), sep="\n")
