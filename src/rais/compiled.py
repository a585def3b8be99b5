"""Small loops of the CPU step, compiled by numba where it is installed; tensor operations do the same without it.

Between two steps a model's forward and backward push everything else out of the processor's caches. Each small tensor
operation then takes ten times as long as in a benchmark alone, and a step of importance sampling is some forty of
them. As one loop they touch a fraction of the code. Each such loop is in a file `loops.py` beside the tensor
operations that it replaces, and is tested against them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

try:
    import numba
except ImportError:  # also where the installed NumPy is too new for it
    numba = None

Array = np.ndarray[Any, Any]
HALF = (torch.float16, torch.bfloat16)
F = TypeVar("F", bound=Callable[..., Any])


def loop(function: F) -> F:
    """`function`, of arrays and numbers, compiled at its first call; where it can be kept, once for all processes."""
    if numba is None:
        return function
    options = {"error_model": "numpy", "nogil": True}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # no folder to keep it in
        return numba.njit(**options)(function)  # type: ignore[no-any-return]


def array(x: Tensor) -> Array:
    """The numbers of `x`, on the CPU, as loops take them: in place, or widened where they are of half precision."""
    if x.requires_grad:
        x = x.detach()
    return (x.float() if x.dtype in HALF else x).numpy()


def serves(device: torch.device) -> bool:
    """Whether compiled loops work on tensors of this device."""
    return numba is not None and device.type == "cpu"
