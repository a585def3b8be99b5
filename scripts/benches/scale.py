"""RAIS from 10^4 to 10^8 examples: what a step, an example and a solve cost, and the state written and read.

Norms are made up. The first pass is observed in large pieces, since only its end matters here. Peak memory is that of
the process until the state is written; reading maps the file, whose pages the system can take back at any time.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from rais import RAIS, rng
from rais.sampling.draw import Draw

HEADER = (
    *("n", "batch_size", "bytes_per_example", "microseconds_per_step", "first_solve_seconds", "solve_seconds"),
    *("state_gigabytes", "write_seconds", "read_seconds", "peak_gigabytes"),
)
M, PIECE, STEPS = 128, 1_000_000, 640


def rows(largest: int = 10**8) -> Iterator[tuple[float, ...]]:
    """Rows of HEADER for n = 10^4 … `largest`; a step is a draw and its observation, rounds and solves included."""
    n = 10**4
    while n <= largest:
        yield _row(n)
        n *= 10


def _row(n: int) -> tuple[float, ...]:
    sampler, g = RAIS(n, M, seed=0), rng.generator(0, "evaluation")
    for begin in range(0, n, PIECE):
        index = torch.arange(begin, min(begin + PIECE, n))
        sampler.observe(Draw(index, torch.ones(len(index))), torch.rand(len(index), generator=g))
    first = 0.0
    while not sampler.has_learned:
        first = _seconds(lambda: _step(sampler, g))
    for _ in range(32):  # the round that is under way
        _step(sampler, g)
    step = _seconds(lambda: [_step(sampler, g) for _ in range(STEPS)]) / STEPS
    solve = _seconds(sampler.solve)
    state = sampler.state_dict(copy=False)
    kept = sum(state[name].nbytes for name in ("past", "count", "table", "blocks", "tops"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.pt"
        write = _seconds(lambda: torch.save(sampler.state_dict(copy=False), file))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        size = file.stat().st_size
        read = _seconds(lambda: sampler.load_state_dict(torch.load(file, weights_only=True, mmap=True)))
    return (n, M, kept / n, 1e6 * step, first, solve, size / 1e9, write, read, peak / 1e9)


def _step(sampler: RAIS, g: torch.Generator) -> None:
    draw = sampler.draw()
    sampler.observe(draw, torch.rand(M, generator=g))


def _seconds(function: Callable[[], object]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin
