"""Streams depend on the seed and the name alone, and leave the global generator as it was."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
import torch

from rais import rng


def test_same_seed_and_name_give_the_same_numbers():
    first = torch.rand(100, generator=rng.generator(3, "sampling"))
    torch.rand(7)
    assert torch.equal(first, torch.rand(100, generator=rng.generator(3, "sampling")))


def test_streams_differ_by_seed_and_by_name():
    keys = [
        (seed, name) for seed in (-1, 0, 1, 2, 11) for name in ("init", "sampling", "augmentation", "evaluation", "1")
    ]
    draws = {tuple(torch.randint(0, 2**31, (4,), generator=rng.generator(*key)).tolist()) for key in keys}
    assert len(draws) == len(keys)


def test_seed_is_the_sha256_of_seed_and_name():
    expected = int(hashlib.sha256(b"5/init").hexdigest()[:16], 16) // 2
    assert rng.generator(5, "init").initial_seed() == expected


def test_generator_leaves_the_global_one_alone():
    state = torch.get_rng_state()
    torch.rand(3, generator=rng.generator(0, "sampling"))
    assert torch.equal(state, torch.get_rng_state())


def test_seeded_draws_from_the_named_stream():
    with rng.seeded(4, "init"):
        drawn = torch.rand(50)
    assert torch.equal(drawn, torch.rand(50, generator=rng.generator(4, "init")))


def test_seeded_restores_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(10)
    torch.manual_seed(0)
    with rng.seeded(4, "init"):
        torch.rand(1000)
    assert torch.equal(torch.rand(10), expected)


def test_seeded_restores_the_global_generator_after_an_error():
    state = torch.get_rng_state()
    with pytest.raises(KeyError), rng.seeded(4, "init"):
        torch.rand(1)
        raise KeyError
    assert torch.equal(state, torch.get_rng_state())


def numbers_of_all() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.rand()), random.random()


def test_all_seeded_fixes_every_global_generator_by_seed_and_name():
    def inside(seed: int, name: str) -> tuple[float, float, float]:
        with rng.all_seeded(seed, name):
            return numbers_of_all()

    first = inside(4, "transforms/0")
    assert first == inside(4, "transforms/0")
    for other in (inside(5, "transforms/0"), inside(4, "transforms/1")):
        assert all(a != b for a, b in zip(first, other, strict=True))


def test_all_seeded_puts_every_global_generator_back_also_after_an_error():
    states = np.random.get_state(), random.getstate(), torch.get_rng_state()
    expected = numbers_of_all()
    np.random.set_state(states[0])
    random.setstate(states[1])
    torch.set_rng_state(states[2])
    with pytest.raises(KeyError), rng.all_seeded(4, "transforms/0"):
        numbers_of_all()
        raise KeyError
    assert numbers_of_all() == expected


@pytest.mark.parametrize("seed", [1.0, "1", None])
def test_seed_must_be_an_integer(seed):
    with pytest.raises(TypeError):
        rng.generator(seed, "init")
    with pytest.raises(TypeError), rng.seeded(seed, "init"):
        pass
