"""Where data sets lie on disk, and the error for those that cannot be had.

There is one folder for all of them: the one that RAIS_DATA names, or a cache in the user's home. Nothing here
reads or downloads.
"""

from __future__ import annotations

import os
from pathlib import Path


class DataUnavailable(RuntimeError):
    """A data set can be neither read nor downloaded; the one-line text carries the cure."""


def cure(layout: str = "in torchvision's layout") -> str:
    """Return what to do about data that cannot be had, with the present value of RAIS_DATA.

    `layout` goes on after "a folder" and says what is looked for in it.
    """
    present = os.environ.get("RAIS_DATA") or "not set"
    return f"set RAIS_DATA (now {present}) to a folder {layout}, or use task=digits, which needs no data"


def root(path: str | Path | None = None) -> Path:
    """Return the folder of all data sets: `path` if given, else $RAIS_DATA if set, else ~/.cache/rais.

    Raises DataUnavailable where `path` or $RAIS_DATA is given and is not a folder that can be read. The
    cache need not exist: fetching creates it.
    """
    named = path or os.environ.get("RAIS_DATA")
    if not named:
        return Path.home() / ".cache" / "rais"
    origin = "path" if path else "RAIS_DATA"
    folder = Path(named).expanduser()
    if not folder.is_dir():
        raise DataUnavailable(f"{origin}={folder} is not a folder: {cure()}")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise DataUnavailable(f"{origin}={folder} is a folder without permission to read it: {cure()}")
    return folder
