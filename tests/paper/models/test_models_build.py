"""Models are a function of their name, sizes and seed, and disturb no global state."""

from __future__ import annotations

import pytest
import torch

from rais import rng
from rais.paper import models
from rais.paper.models.dropout import Dropout
from rais.paper.models.lenet5 import LeNet5

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


@pytest.mark.parametrize(
    ("name", "option", "message"),
    [
        ("lenet5", "drop", "lenet5 has no option 'drop': choose from dropout, batch_norm"),
        ("small_cnn", "dropout", "small_cnn has no option 'dropout': choose from maps, hidden"),
    ],
)
def test_unknown_option_lists_the_known_ones(name, option, message):
    with pytest.raises(ValueError, match=message):
        models.build(name, **SIZES, seed=0, **{option: 0.5})


def test_options_reach_the_model():
    with pytest.raises(ValueError, match="dropout=2 is out of range"):
        models.build("z2cnn", **SIZES, seed=0, dropout=2)


@pytest.mark.parametrize("name", sorted(models.MODELS))
def test_every_model_trains_a_step_with_importance_weights_in_both_memory_formats(name):
    logits = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = models.build(name, **SIZES, seed=0).to(memory_format=memory_format)
        x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(0)).to(memory_format=memory_format)
        logits.append(models.Weighted(model.train())(x, torch.tensor([0.5, 2.0, 1.0])))
        logits[-1].square().sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    if not any(isinstance(module, Dropout) for module in model.modules()):  # masks are drawn in memory order
        torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


def test_dropout_is_drawn_from_the_seed_alone():
    def logits(seed: int, noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        model = models.build("lenet5", **SIZES, seed=seed, dropout=0.5)
        return model(torch.ones(2, 1, 28, 28))

    assert torch.equal(logits(0, 1), logits(0, 2))
    assert not torch.equal(logits(0, 1)[0], logits(0, 1)[1])
