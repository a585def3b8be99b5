"""A DataLoader whose minibatches a sampler draws; each batch comes with its draw.

The data set stays as it is, with its transforms, workers and any collate function. A batch comes back with the ticket
of its draw, so that several draws, and several loops, may be in flight and none meets another's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from rais import rng
from rais.gain.state import below
from rais.loop.flight import Flight
from rais.loop.ranks import Ranks
from rais.sampling.base import Sampler
from rais.sampling.draw import Draw

VERSION = 1
OURS = ("batch_size", "shuffle", "batch_sampler", "drop_last")

Rows = tuple[int, list[int]]  # a draw's ticket, and the examples to load


class Loader:
    """Yields `(draw, batch)`, ⌈n/m⌉ of them for each `for` loop, or until the engine's budget is reached.

        loader = Loader(dataset, RAIS(n=len(dataset), m=64, seed=0), num_workers=2)
        engine = Engine(optimizer, loader)
        for draw, (x, y) in loader:
            out = model(x)
            engine.backward(draw, cross_entropy(out, y, reduction="none"), out)
            engine.step()

    A loop that was left early is taken up again by the next one, with the draws that were in flight; so are draws that
    a whole loop took and did not step with, before new ones. Random transforms
    see generators (torch's, NumPy's and Python's) that are seeded for each draw, so that a run can be resumed bit for
    bit, and its workers' random numbers do not depend on how many there are.

    Args:
        dataset: a map-style data set, of n examples.
        sampler: its m is the size of the minibatch, on several ranks of all their parts together.
        group: the process group of a data-parallel run; every rank then loads its own part of each draw.
        dataloader_kwargs: those of torch's DataLoader: num_workers, collate_fn, pin_memory and so on.

    >>> import torch
    >>> from rais.sampling import Uniform
    >>> dataset = torch.utils.data.TensorDataset(torch.arange(100))
    >>> loader = Loader(dataset, Uniform(n=100, m=25, seed=0))
    >>> for draw, (x,) in loader:
    ...     assert torch.equal(x, draw.index)
    >>> len(loader)
    4

    Raises:
        ValueError: a data set of another length than n or without one; an argument that the draws decide
            (batch_size, shuffle, batch_sampler, drop_last, in_order=False); m smaller than the ranks.
        RuntimeError: while iterating, a loaded batch of another length than its draw.
    """

    def __init__(self, dataset: Dataset[Any], sampler: Sampler, *, group: Any = None, **dataloader_kwargs: Any) -> None:
        if not isinstance(sampler, Sampler):
            raise ValueError(
                f"the sampler is a {type(sampler).__name__}: pass one of rais, RAIS(n=…, m=…, seed=…) for one"
            )
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
            raise ValueError(
                f"{type(dataset).__name__} is no map-style data set: examples are picked by their number, which needs "
                "__getitem__ and __len__"
            )
        if len(dataset) != sampler.n:
            raise ValueError(f"the data set has {len(dataset)} examples, the sampler n={sampler.n}: they must be equal")
        if given := [name for name in OURS if name in dataloader_kwargs]:
            raise ValueError(f"{', '.join(given)}: the sampler decides that; its m is the batch size, leave it out")
        if not dataloader_kwargs.get("in_order", True):
            raise ValueError("in_order=False would give a batch another draw's weights: leave it out")
        self.sampler, self.ranks = sampler, Ranks(group)
        if sampler.m < self.ranks.count:
            raise ValueError(
                f"m={sampler.m} is the minibatch of all {self.ranks.count} ranks: it must be at least that"
            )
        self.engine: Any = None
        self.flight = Flight()
        seed = sampler.generator.initial_seed()
        # Without a generator of its own, each `for` loop would move torch's global one.
        settings = {"generator": rng.generator(seed, "workers"), **dataloader_kwargs}
        settings["collate_fn"] = _Collate(settings.get("collate_fn") or default_collate)
        self._loader = DataLoader(_Examples(dataset, seed), batch_sampler=cast(Any, _Draws(self)), **settings)

    def __len__(self) -> int:
        """⌈n/m⌉, the minibatches that make up as many examples as the data set has."""
        return -(-self.sampler.n // self.sampler.m)

    def __iter__(self) -> Iterator[tuple[Draw, Any]]:
        self.flight.begin_loop()
        if self._is_over:
            return
        for ticket, batch in self._loader:
            whole = self.flight.of(ticket)
            if whole is None:
                continue  # another loop over this loader has stepped with it
            draw = self.ranks.own_part(whole)
            rows = lengths_of(batch)
            if rows and len(draw.index) not in rows:
                raise RuntimeError(
                    f"the loaded batch has {rows[0]} rows, its draw {len(draw.index)} examples: collate_fn must keep "
                    "every example, in order"
                )
            if self.engine is None:
                self.flight.finish(whole)
            else:
                self.engine.weigh(draw)
                self.engine.mark("loader")
            try:
                yield draw, batch
            except GeneratorExit:  # left early: its weights are nobody's
                if self.engine is not None:
                    self.engine.weighing.end()
                raise
            if self._is_over:
                return
        self.flight.is_over = True

    @property
    def _is_over(self) -> bool:
        return self.engine is not None and self.engine.is_done

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state and the draws in flight: flat, for torch.load(weights_only=True).

        An engine's state holds both; with one, there is no need to save the loader beside it.
        """
        state: dict[str, Any] = {"kind": "Loader", "version": VERSION}
        for name, part in (("sampler", self.sampler), ("flight", self.flight)):
            state.update((f"{name}.{key}", value) for key, value in part.state_dict().items())
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken: the draws in flight come first.

        Raises:
            ValueError: the state of something else, or of other settings; nothing is overwritten then.
        """
        for name, value in (("kind", "Loader"), ("version", VERSION)):
            if state.get(name) != value:
                raise ValueError(f"this state has {name}={state.get(name)!r}, a loader needs {name}={value!r}")
        self.flight.check_state(below("flight", state), self.sampler.n, self.sampler.m)
        self.sampler.load_state_dict(below("sampler", state))
        self.flight.load_state_dict(below("flight", state), self.sampler.device)


class _Draws:
    """The batch sampler: asks for a draw whenever a worker is to load one."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Rows]:
        loader = self.loader
        for _ in range(len(loader) - loader.flight.done % len(loader)):
            whole = loader.flight.next(loader.sampler)
            assert whole.ticket is not None
            yield whole.ticket, loader.ranks.own_part(whole).index.tolist()


class _Examples(Dataset[Any]):
    """The data set as the workers see it: examples by draw, with random numbers that the draw's ticket decides."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset, self.seed = dataset, seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitems__(self, rows: Rows) -> tuple[int, Sequence[Any]]:
        ticket, index = rows
        with rng.all_seeded(self.seed, f"transforms/{ticket}"):
            if hasattr(self.dataset, "__getitems__"):
                return ticket, self.dataset.__getitems__(index)
            return ticket, [self.dataset[i] for i in index]


class _Collate:
    """The collate function, past which the ticket goes."""

    def __init__(self, collate: Callable[[Any], Any]) -> None:
        self.collate = collate

    def __call__(self, loaded: tuple[int, Sequence[Any]]) -> tuple[int, Any]:
        ticket, examples = loaded
        return ticket, self.collate(examples)


def lengths_of(batch: Any) -> list[int]:
    """What may be the number of examples in a batch, the likeliest first: the first two dimensions of its tensors and
    arrays, as in (m, …) or (time, m), and the lengths of its sequences. Nothing is known of a packed sequence."""
    if isinstance(batch, Tensor | np.ndarray):
        return list(batch.shape[:2])
    if isinstance(batch, PackedSequence):
        return []
    if isinstance(batch, Mapping):
        batch = list(batch.values())
        return [rows for each in batch for rows in lengths_of(each)]
    if isinstance(batch, list | tuple):
        return [*(rows for each in batch for rows in lengths_of(each)), len(batch)]
    return []
