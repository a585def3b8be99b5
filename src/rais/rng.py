"""Named streams of random numbers, each a function of (seed, name) alone.

Initialisation, sampling, augmentation and evaluation draw from streams of their own, so that one of them
can change without moving the others, and two methods with the same seed start from the same parameters.
This is the only file of the package that seeds anything.
"""

from __future__ import annotations

import hashlib
import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def generator(seed: int, name: str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a new generator on `device`, seeded from the SHA-256 of "seed/name".

    The hash makes streams of neighbouring seeds and of different names unrelated [ours]. A run uses
    "init", "sampling", "augmentation/crop" and so on, "dropout/…" for each such layer, and "evaluation". Raises
    TypeError where `seed` is no integer.
    """
    return torch.Generator(device=device).manual_seed(_stream_seed(seed, name))


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Seed torch's global CPU generator inside the block and restore its state after it, also after an error.

    For torch's layer initialisers, which take no generator. Generators of other devices are neither seeded
    nor touched: build on the CPU, then move. Raises TypeError where `seed` is no integer.
    """
    stream_seed = _stream_seed(seed, name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed)
        yield


@contextmanager
def all_seeded(seed: int, name: str) -> Iterator[None]:
    """`seeded`, and the global generators of NumPy and of Python as well, which come back as they were.

    For what others wrote and nobody can hand a generator to: the transforms of a user's data set. Raises TypeError
    where `seed` is no integer.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with seeded(seed, name):
            number = int(torch.randint(2**32, ()))
            np.random.seed(number)
            random.seed(number)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _stream_seed(seed: int, name: str) -> int:
    digest = hashlib.sha256(f"{operator.index(seed)}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # 63 bits: a positive int64
