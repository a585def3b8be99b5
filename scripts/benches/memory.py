"""Peak memory of exact per-example gradient norms, beside the libraries that offer them.

A peak is what one call adds, at its highest, to the memory that the process held before it: activations, gradients
and whatever a method keeps beside them. Linux tells it in /proc.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benches import norms

HEADER = ("case", "contender", "peak_megabytes", "times_forward_backward")
PROC = Path("/proc/self")


def rows(quick: bool = False) -> Iterator[tuple[str, str, float, float]]:
    """Rows of HEADER, by model, minibatch size and contender.

    Raises:
        RuntimeError: no Linux.
    """
    if not sys.platform.startswith("linux"):
        raise RuntimeError("peak memory is read from /proc/self, which only Linux has: measure it there")
    for case in norms.cases(quick):
        peaks = {name: peak(call) for name, call in case.contenders.items()}
        for name, bytes_ in peaks.items():
            yield case.name, name, bytes_ / 1e6, bytes_ / peaks[norms.PLAIN]


def peak(call: Callable[[], object]) -> int:
    """Bytes that `call` adds at its highest. What its first call makes and keeps does not count."""
    call()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # else it would be given freed pages, which count as held before
    (PROC / "clear_refs").write_text("5")  # the highest is the present one, from now on
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    (line,) = (line for line in (PROC / "status").read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
