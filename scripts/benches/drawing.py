"""Drawing m of n by weight, m weights changed before each draw, against what is in the box elsewhere.

The rivals know no change of a few weights: they take the whole vector of weights anew. `torch.multinomial` refuses
more than 2^24 categories, and `WeightedRandomSampler` calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import WeightedRandomSampler

from benches.timing import Row, in_turns
from rais import rng
from rais.sampling.categorical import Categorical

M = 128


def rows(quick: bool) -> Iterator[Row]:
    """Ours against each rival, for n from 10^4 to 10^8."""
    for exponent in (4, 5) if quick else (4, 5, 6, 7, 8):
        n = 10**exponent
        seconds = {"ours": _seconds(_ours(n), 50)}
        rivals = _rivals(n)
        for name, make in rivals.items():
            if make is None:
                continue
            rounds = 3 if exponent >= 7 else 100
            both = in_turns({"ours": _ours(n), name: make(n)}, rounds=3 if quick else rounds)
            fastest = exponent >= 5
            yield Row("drawing", f"{M} of 10^{exponent}", both["ours"], name, both[name], 1.0 if fastest else None)
        for name in [name for name, make in rivals.items() if make is None]:
            yield Row("drawing", f"{M} of 10^{exponent}", seconds["ours"], name, note="refuses more than 2^24")


def _seconds(function: Callable[[], object], rounds: int) -> np.ndarray:
    return in_turns({"": function}, rounds=rounds)[""]


def _changes(n: int) -> tuple[torch.Generator, Callable[[], tuple[torch.Tensor, torch.Tensor]]]:
    g = rng.generator(0, "evaluation")
    return g, lambda: (torch.randint(n, (M,), generator=g), torch.rand(M, generator=g))


def _ours(n: int) -> Callable[[], object]:
    g, change = _changes(n)
    categorical = Categorical(n)
    categorical.set_all(torch.rand(n, generator=g))

    def run() -> torch.Tensor:
        index, value = change()
        index = index.unique()
        categorical.set(index, value[: len(index)])
        return categorical.sample(M, g)

    return run


def _rivals(n: int) -> dict[str, Callable[[int], Callable[[], object]] | None]:
    return {
        "torch.multinomial": _multinomial if n <= 2**24 else None,
        "WeightedRandomSampler": _weighted if n <= 2**24 else None,
        "numpy Generator.choice": _choice,
    }


def _multinomial(n: int) -> Callable[[], object]:
    g, change = _changes(n)
    weight = torch.rand(n, generator=g)

    def run() -> torch.Tensor:
        index, value = change()
        weight[index] = value
        return torch.multinomial(weight, M, replacement=True, generator=g)

    return run


def _weighted(n: int) -> Callable[[], object]:
    g, change = _changes(n)
    sampler = WeightedRandomSampler(torch.rand(n, generator=g, dtype=torch.float64), M, generator=g)

    def run() -> list[int]:
        index, value = change()
        sampler.weights[index] = value.double()
        return list(sampler)

    return run


def _choice(n: int) -> Callable[[], object]:
    g, change = _changes(n)
    weight = torch.rand(n, generator=g, dtype=torch.float64).numpy()
    numpy_generator = np.random.default_rng(0)

    def run() -> np.ndarray:
        index, value = change()
        weight[index.numpy()] = value.numpy()
        return numpy_generator.choice(n, M, p=weight / weight.sum())

    return run
