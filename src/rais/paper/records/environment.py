"""What a measured number depends on besides the settings: the commit of the code, versions and hardware.

The commit is that of this project's own checkout. Below another project's checkout, or where git does not trust the
folder, it is unknown, and `commit_unknown` says why and what helps.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGE = Path(__file__).resolve().parents[2]
ROOT = PACKAGE.parents[1]
PACKAGES = ("rais-sgd", "torch", "torchvision", "numpy", "scipy", "numba", "hydra-core")


def environment(device: torch.device) -> dict[str, Any]:
    """`commit`, `dirty`, `commit_unknown` ("" where it is known), `versions` and `hardware`."""
    return {**code_version(), "versions": versions(), "hardware": hardware(device)}


def code_version(root: Path = ROOT) -> dict[str, Any]:
    """The commit checked out at `root` and whether tracked files differ from it; None for both where that is
    unknown, with the reason and the cure in `commit_unknown`."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", root, *arguments], capture_output=True, text=True, check=True, env=environ
        ).stdout.strip()

    environ = {**os.environ, "LC_ALL": "C"}
    for name in ("GIT_DIR", "GIT_WORK_TREE"):  # Set inside git hooks, perhaps those of another repository.
        environ.pop(name, None)
    try:
        top = Path(git("rev-parse", "--show-toplevel"))
        if not top.samefile(root):
            return _unknown(f"{root} lies below another checkout, {top}: run from a clone of this project")
        git("ls-files", "--error-unmatch", "--", "src/rais/__init__.py")
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no", "--", "src", "conf", "scripts")),
            "commit_unknown": "",
        }
    except subprocess.CalledProcessError as error:
        if "dubious ownership" in error.stderr:
            cure = f"git config --global --add safe.directory {root}"
            return _unknown(f"git does not trust {root}, which belongs to another user: {cure}")
        return _unknown(f"{root} is no checkout of this project: run from a clone of it")
    except OSError as error:
        return _unknown(f"git cannot be asked ({error.strerror}): install it and run from a clone of this project")


def _unknown(reason: str) -> dict[str, Any]:
    return {"commit": None, "dirty": None, "commit_unknown": reason}


def code_digest() -> str:
    """SHA-256 of every Python file of the package, by name and content: what runs, committed or not."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of PACKAGES, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads of torch, and the GPU where `device` is one."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }
