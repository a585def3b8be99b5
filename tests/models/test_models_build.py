"""Models are a function of their name, sizes and seed, and disturb no global state."""

from __future__ import annotations

import pytest
import torch

from rais import models, rng
from rais.models.lenet5 import LeNet5

SIZES = {"channels": 1, "classes": 10, "size": 28}


def parameters(seed: int) -> torch.Tensor:
    model = models.build("lenet5", **SIZES, seed=seed)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_same_seed_same_parameters_whatever_the_global_generator_holds():
    torch.manual_seed(1)
    first = parameters(7)
    torch.manual_seed(2)
    assert torch.equal(first, parameters(7))


def test_other_seed_other_parameters():
    assert (parameters(0) == parameters(1)).float().mean() < 0.01


def test_parameters_come_from_the_stream_named_init():
    torch.manual_seed(rng.generator(3, "init").initial_seed())
    direct = torch.cat([p.detach().flatten() for p in LeNet5(**SIZES).parameters()])
    assert torch.equal(direct, parameters(3))


def test_global_generator_is_left_alone():
    state = torch.get_rng_state()
    models.build("lenet5", **SIZES, seed=0)
    assert torch.equal(state, torch.get_rng_state())


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown model 'lenet': choose one of lenet5"):
        models.build("lenet", **SIZES, seed=0)


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"classes": 0}])
def test_counts_below_one(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        models.build("lenet5", **(SIZES | wrong), seed=0)
