"""One process to a run: the lock on a run's folder.

The file `run.lock` names its owner, and the kernel's own lock on it lasts as long as that process lives: what a
killed owner left is taken over. The kernel may know nothing of an owner on another machine, therefore a file that
names one is always respected.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from rais.paper.records.layout import LOCK


class Locked(OSError):
    """Another process holds the run; the text names it."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock on the run in `folder`, which is made; it is removed again where nothing was put into it.

    Raises:
        Locked: another process holds it.
        OSError: the folder cannot be written; the message names it and the cure.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _acquire(path)
    except Locked:
        raise
    except OSError as error:
        raise OSError(
            f"the record folder {folder} cannot be written ({error.strerror}): set `runs` to a folder that can, as in "
            "runs=elsewhere/runs"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _acquire(path: Path) -> int:
    """The open and locked file at `path`, naming this process."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _is_at(file, path):  # Its owner ended, and removed it, between the two lines above.
                os.close(file)
                continue
            owner = _read(file)
            if owner.get("host", socket.gethostname()) != socket.gethostname():
                raise BlockingIOError
        except BlockingIOError:
            owner = _read(file)
            os.close(file)
            raise Locked(_explain(path, owner)) from None
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        content = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}).encode() + b"\n"
        os.ftruncate(file, 0)
        os.pwrite(file, content, 0)
        os.fsync(file)
        return file


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _read(file: int) -> dict[str, object]:
    """What the lock says of its owner; nothing where it is being written, or was cut by a power failure."""
    try:
        owner = json.loads(os.pread(file, 4096, 0))
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _explain(path: Path, owner: dict[str, object]) -> str:
    pid, host, since = (owner.get(name, "?") for name in ("pid", "host", "since"))
    return (
        f"process {pid} on {host} holds the run {path.parent} since {since}: wait for it or end it; if it is gone, "
        f"delete {path}"
    )
