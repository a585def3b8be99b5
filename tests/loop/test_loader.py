"""The loader: every batch with its own draw, bit-identical resume with draws in flight, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import loader_run
import loops
import rais
from rais.loop.loader import lengths_of
from rais.rng import generator


class Numbers(Dataset):
    """Example i is i, with three random numbers of the three generators that transforms use."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[int, torch.Tensor]:
        import random

        return i, torch.tensor([torch.rand(()).item(), np.random.rand(), random.random()])


def uniform(n: int, m: int) -> rais.Uniform:
    return rais.Uniform(n, m, seed=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_batch_comes_with_its_draw_in_the_order_of_the_sampler(workers: int) -> None:
    loader = rais.Loader(Numbers(50), uniform(50, 8), num_workers=workers)
    reference = uniform(50, 8)
    for _ in range(2):  # two epochs
        count = 0
        for draw, (index, _) in loader:
            assert torch.equal(index, draw.index) and torch.equal(index, reference.draw().index)
            count += 1
        assert count == len(loader) == 7


def test_random_transforms_do_not_depend_on_the_workers_and_leave_the_global_generators_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    alone = [noise for _, (_, noise) in rais.Loader(Numbers(30), uniform(30, 6))]
    together = [noise for _, (_, noise) in rais.Loader(Numbers(30), uniform(30, 6), num_workers=2)]
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
    assert len(torch.cat(alone).unique()) == 3 * 30
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loop_that_was_left_early_is_taken_up_with_the_draws_in_flight(workers: int) -> None:
    loader, reference = rais.Loader(Numbers(40), uniform(40, 8), num_workers=workers), uniform(40, 8)
    seen = []
    for draw, _ in loader:
        seen.append(draw.index)
        if len(seen) == 2:
            break
    seen += [draw.index for draw, _ in loader]
    assert all(torch.equal(index, reference.draw().index) for index in seen) and len(seen) == 5


def test_the_loader_ends_at_the_engine_s_budget() -> None:
    x, y = loops.data(64, torch.float32)
    model = loops.network(torch.float32)
    loader = rais.Loader(TensorDataset(x, y), uniform(64, 8))
    engine = rais.Engine(torch.optim.SGD(model.parameters(), lr=0.1), loader, budget=11)
    epochs = 0
    while not engine.is_done:
        epochs += 1
        for draw, (inputs, target) in loader:
            out = model(inputs)
            engine.backward(draw, torch.nn.functional.cross_entropy(out, target, reduction="none"), out)
            engine.step()
    assert epochs == 2 and engine.iteration == 11


def check_resume(folder: Path, cuts: list[int]) -> None:
    whole = loader_run.proceed(loader_run.build(), folder, tuple(cuts))
    assert whole["ratios"].max() > 1  # importance draws were made
    path = os.pathsep.join([str(Path(loader_run.__file__).parent), *sys.path])
    command = [sys.executable, loader_run.__file__, str(folder), *map(str, cuts)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})
    for cut in cuts:
        in_flight = torch.load(folder / f"{cut}.pt", weights_only=True)["engine"]["flight.ticket"]
        assert len(in_flight) == min(4, -cut % 15)  # as many as the workers hold, and what is left of the epoch
        resumed = torch.load(folder / f"{cut}.end.pt", weights_only=True)
        for name in ("drawn", "ratios"):
            assert torch.equal(resumed[name], whole[name][cut:]), (cut, name)
        assert torch.equal(resumed["parameters"], whole["parameters"]), cut


def test_resume_in_a_fresh_process_is_bit_identical_with_two_workers_and_draws_in_flight(tmp_path: Path) -> None:
    check_resume(tmp_path, [4, 37, 68])


@pytest.mark.slow
def test_resume_is_bit_identical_at_twenty_random_cuts(tmp_path: Path) -> None:
    cuts = 1 + torch.randperm(loader_run.STEPS - 1, generator=generator(0, "cuts"))[:20]
    check_resume(tmp_path, sorted(cuts.tolist()))


def test_the_state_alone_restores_sampler_and_draws() -> None:
    first, second = (rais.Loader(Numbers(40), uniform(40, 8)) for _ in range(2))
    iterator = iter(first)
    next(iterator)
    second.load_state_dict(first.state_dict())
    assert torch.equal(next(iterator)[0].index, next(iter(second))[0].index)


class Endless(IterableDataset):
    def __iter__(self):
        yield from range(10)


@pytest.mark.parametrize(
    ("dataset", "settings", "message"),
    [
        (Numbers(39), {}, "39 examples, the sampler n=40"),
        (Endless(), {}, "Endless is no map-style data set"),
        (Numbers(40), {"batch_size": 8}, "batch_size: the sampler decides that"),
        (Numbers(40), {"shuffle": True, "drop_last": True}, "shuffle, drop_last: the sampler decides"),
        (Numbers(40), {"batch_sampler": [[1]]}, "batch_sampler: the sampler decides"),
        (Numbers(40), {"in_order": False, "num_workers": 1}, "in_order=False"),
    ],
)
def test_what_does_not_fit_the_draws_is_refused(dataset, settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        rais.Loader(dataset, uniform(40, 8), **settings)


def test_a_batch_of_another_length_is_refused() -> None:
    loader = rais.Loader(Numbers(40), uniform(40, 8), collate_fn=lambda rows: torch.tensor([i for i, _ in rows[1:]]))
    with pytest.raises(RuntimeError, match="has 7 rows, its draw 8 examples"):
        next(iter(loader))


def test_what_may_be_the_length_of_a_batch() -> None:
    assert lengths_of({"ids": torch.ones(3, 5), "mask": torch.ones(3)}) == [3, 5, 3]
    assert lengths_of([["a", "b"], (torch.tensor(1.0), np.ones(4))]) == [2, 4, 2, 2]
    assert lengths_of("ab") == []


def tuples(rows):
    return tuple(zip(*rows, strict=True))


def by_name(rows):
    return {"number": [i for i, _ in rows], "noise": [noise for _, noise in rows]}


def time_first(rows):
    return torch.stack([noise for _, noise in rows], dim=1)  # (time, m)


def packed(rows):
    return torch.nn.utils.rnn.pack_sequence([noise for _, noise in rows])


@pytest.mark.parametrize("collate", [tuples, list, by_name, time_first, packed])
def test_batches_of_lists_and_of_other_layouts(collate) -> None:
    assert len(list(rais.Loader(Numbers(40), uniform(40, 8), collate_fn=collate))) == 5


@pytest.mark.parametrize("settings", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
def test_a_look_into_the_loader_from_within_its_loop_moves_no_weights(settings) -> None:
    loader = rais.Loader(Numbers(80), rais.RAIS(80, 8, seed=0), **settings)
    engine = rais.Engine(torch.optim.SGD(loops.network().parameters(), lr=0.1), loader, gain="off")
    seen = []
    for k, (draw, (index, _)) in enumerate(loader):
        assert torch.equal(index, draw.index)
        seen.append(index)
        if k in (1, 5):
            looked, (at, _) = next(iter(loader))
            assert torch.equal(at, looked.index)
    assert len(seen) >= 8 and engine.iteration == 0


def test_a_draw_that_the_loop_leaves_out_does_not_shorten_the_next_loop() -> None:
    x, y = loops.data(80)
    model = loops.network()
    loader = rais.Loader(TensorDataset(x, y), rais.RAIS(80, 8, seed=0))
    engine = rais.Engine(torch.optim.SGD(model.parameters(), lr=0.1), loader)
    lengths, unused = [], []
    for _ in range(3):
        lengths.append(0)
        for k, (draw, (inputs, targets)) in enumerate(loader):
            lengths[-1] += 1
            if k < len(unused):
                assert draw.ticket == unused[k], "draws that were not stepped with come again, first"
            if k % 4 == 3:
                continue
            out = model(inputs)
            engine.backward(draw, torch.nn.functional.cross_entropy(out, targets, reduction="none"), out)
            engine.step()
        unused = list(loader.flight.draws)
        state = engine.state_dict()
        assert state["flight.done"] == 0, "a resume after a whole loop begins a whole loop"
    assert lengths == [10, 10, 10]


def test_a_loop_that_was_left_leaves_no_weights_behind() -> None:
    x, y = loops.data(80)
    model = rais.prepare(loops.network(batch_norm=True))
    sampler = rais.RAIS(80, 8, seed=0)
    loader = rais.Loader(TensorDataset(x, y), sampler)
    engine = rais.Engine(torch.optim.SGD(model.parameters(), lr=0.1), loader, model=model)
    draw, (inputs, targets) = next(iter(loader))
    model(x[:5])  # would be refused by the weights of eight examples
    out = model(inputs)
    with pytest.raises(RuntimeError, match="the weights of other examples"):
        engine.backward(draw, torch.nn.functional.cross_entropy(out, targets, reduction="none"), out)
