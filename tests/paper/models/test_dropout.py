"""Dropout with its own stream: nn.Dropout's semantics, and masks that depend on the seed alone."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from rais import rng
from rais.gradnorm import exact_norms
from rais.paper.models.dropout import Dropout, dropout_or_nothing, seed_dropout


def seeded(p: float, seed: int = 0, name: str = "dropout/a") -> Dropout:
    layer = Dropout(p)
    layer.seed(seed, name)
    return layer


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_each_number_is_dropped_with_probability_p_and_the_mean_stays(p):
    n = 200_000
    output = seeded(p)(torch.ones(n, dtype=torch.float64))
    torch.testing.assert_close(output.unique(), torch.tensor([0, 1 / (1 - p)], dtype=torch.float64))
    five_sigma = 5 * (p / (1 - p) / n) ** 0.5  # of a mean of numbers with variance p/(1 − p)
    assert abs(output.mean().item() - 1) < five_sigma
    assert output.var().item() == pytest.approx(p / (1 - p), rel=0.05)
    pairs = output.view(-1, 2) > 0
    assert (pairs[:, 0] & pairs[:, 1]).double().mean().item() == pytest.approx((1 - p) ** 2, abs=0.01)


def test_mask_is_the_one_that_the_stream_says():
    x = torch.randn(3, 4)
    kept = torch.rand(3, 4).bernoulli_(0.75, generator=rng.generator(5, "dropout/b"))
    assert torch.equal(seeded(0.25, 5, "dropout/b")(x), x * (kept / 0.75))


def test_gradient_is_the_mask():
    x = torch.ones(1000, requires_grad=True)
    output = seeded(0.3)(x)
    output.sum().backward()
    assert torch.equal(x.grad, output.detach())


def test_identity_where_nothing_is_dropped():
    x = torch.randn(5)
    assert Dropout(0.0)(x) is x
    assert Dropout(0.5).eval()(x) is x
    assert isinstance(dropout_or_nothing(0.0), nn.Identity)
    assert dropout_or_nothing(0.25).p == 0.25


def test_masks_depend_on_seed_and_name_and_not_on_the_global_generator():
    def masks(seed: int, name: str, noise: int) -> Tensor:
        torch.manual_seed(noise)
        layer = seeded(0.5, seed, name)
        return torch.stack([layer(torch.ones(64)) for _ in range(3)])

    first = masks(1, "dropout/a", noise=0)
    assert torch.equal(first, masks(1, "dropout/a", noise=1))
    assert not torch.equal(first, masks(2, "dropout/a", noise=0))
    assert not torch.equal(first, masks(1, "dropout/b", noise=0))
    assert not torch.equal(first[0], first[1])


def test_global_generator_is_left_alone():
    state = torch.get_rng_state()
    seeded(0.5)(torch.ones(10))
    assert torch.equal(state, torch.get_rng_state())


def test_layers_of_a_model_have_streams_of_their_own():
    model = nn.Sequential(Dropout(0.5), nn.Sequential(Dropout(0.5)))
    seed_dropout(model, 3)
    x = torch.ones(64)
    first, second = model[0](x), model[1](x)
    assert not torch.equal(first, second)
    assert torch.equal(first, seeded(0.5, 3, "dropout/0")(x))
    assert torch.equal(second, seeded(0.5, 3, "dropout/1.0")(x))


@pytest.mark.parametrize("used_before_loading", [False, True])
def test_state_continues_the_stream_through_a_file(used_before_loading):
    x = torch.ones(64)
    layer = seeded(0.5)
    layer(x)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    expected = [layer(x) for _ in range(2)]
    file.seek(0)
    other = seeded(0.5, 9, "dropout/other")
    if used_before_loading:
        other(x)
    other.load_state_dict(torch.load(file, weights_only=True))
    again = Dropout(0.5)
    again.load_state_dict(other.state_dict())  # a state that was loaded and not used yet is passed on
    assert all(torch.equal(other(x), value) and torch.equal(again(x), value) for value in expected)


def test_state_before_the_first_use():
    layer, other = seeded(0.5), Dropout(0.5)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(torch.ones(64)), layer(torch.ones(64)))


def test_state_of_another_kind_of_device_starts_the_stream_afresh():
    layer, other = seeded(0.5), Dropout(0.5)
    position = ("cuda", torch.zeros(16, dtype=torch.uint8))
    other.set_extra_state({"stream": layer.get_extra_state()["stream"], "position": position})
    assert torch.equal(other(torch.ones(64)), layer(torch.ones(64)))


def test_copy_continues_by_itself():
    layer = seeded(0.5)
    layer(torch.ones(8))
    twin = copy.deepcopy(layer)
    assert torch.equal(twin(torch.ones(64)), layer(torch.ones(64)))


def test_unseeded_dropout_says_what_to_do():
    with pytest.raises(RuntimeError, match=r"models\.build.*seed_dropout"):
        Dropout(0.5)(torch.ones(3))


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_probability_out_of_range(p):
    with pytest.raises(ValueError, match=rf"dropout={p} .* in \[0, 1\)"):
        dropout_or_nothing(p)


class Scale(nn.Module):
    """Without a formula for its gradient, so that torch.func has to be used."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(4, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@pytest.mark.parametrize("last", [nn.Identity, Scale])
def test_per_example_norms_draw_a_mask_for_each_example(last):
    model = nn.Sequential(nn.Linear(4, 4), Dropout(0.5), last()).double()
    seed_dropout(model, 0)
    inputs, targets = torch.ones(20, 4, dtype=torch.float64), torch.zeros(20)
    norms = exact_norms(model, lambda z, y: z.square().sum(1) - y, inputs, targets)
    assert len(norms.unique()) > 3


@pytest.mark.gpu
def test_model_that_moves_to_the_gpu_draws_there():
    layer, x = seeded(0.5), torch.ones(1000)
    layer(x)
    first = layer(x.cuda())
    assert first.is_cuda and 300 < (first == 0).sum().item() < 700
    assert torch.equal(first, seeded(0.5)(x.cuda()))
    other = Dropout(0.5)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x.cuda()), layer(x.cuda()))
