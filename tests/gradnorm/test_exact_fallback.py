"""Exact norms of models that torch.func cannot do, that change their input in place, or that recompute activations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rais.gradnorm import PerExampleNorms, exact_norms, norms_and_gradient


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def by_loop(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Norms, and the gradient of the mean loss, by .backward() on one example at a time."""
    norms, parameters = [], list(model.parameters())
    total = [torch.zeros_like(p) for p in parameters]
    for x, y in zip(inputs.split(1), labels.split(1), strict=True):
        model.zero_grad()
        cross_entropy(model(x.clone()), y).sum().backward()
        dense = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in parameters]
        norms.append(torch.cat([g.flatten() for g in dense]).norm())
        total = [sum_ + g / len(inputs) for sum_, g in zip(total, dense, strict=True)]
    model.zero_grad()
    return torch.stack(norms), total


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell, self.out = kind(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x)[0][:, -1])


class Words(nn.Module):
    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(9, 4, **settings), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.embedding(x).mean(1))


class InPlace(nn.Module):
    """Normalises its input in place and calls a layer twice."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.first, self.last, self.twice = nn.Linear(4, 4), nn.Linear(4, 3), twice

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).div_(0.25)
        hidden = self.first(x).tanh()
        return self.last(self.first(hidden) if self.twice else hidden)


class DataDependent(nn.Module):
    """A branch on a value, which torch.func refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.factor, self.out = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x * self.factor if x.sum() > 0 else x)


class Recomputed(nn.Module):
    def __init__(self, reentrant: bool, again: str = "") -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.reentrant, self.again = reentrant, again

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x).relu()
        hidden = checkpoint(lambda h: self.b(h).relu(), hidden, use_reentrant=self.reentrant)
        if self.again == "checkpoint":
            hidden = checkpoint(lambda h: self.b(h).relu(), hidden, use_reentrant=self.reentrant)
        elif self.again == "plain":
            hidden = self.b(hidden).relu()
        return self.c(hidden)


IMAGES, SEQUENCES, TOKENS = torch.rand(5, 4), torch.randn(5, 7, 4), torch.randint(9, (5, 7))
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "lstm": (lambda: Recurrent(nn.LSTM), SEQUENCES),
    "gru": (lambda: Recurrent(nn.GRU), SEQUENCES),
    "rnn": (lambda: Recurrent(nn.RNN), SEQUENCES),
    "embedding": (Words, TOKENS),
    "sparse_embedding": (lambda: Words(sparse=True), TOKENS),
    "renormalised_embedding": (lambda: Words(max_norm=1.0), TOKENS),
    "in_place": (lambda: InPlace(twice=False), IMAGES),
    "in_place_twice": (lambda: InPlace(twice=True), IMAGES),
    "data_dependent": (DataDependent, IMAGES - 0.5),
    "checkpoint": (lambda: Recomputed(False), IMAGES),
    "checkpoint_twice": (lambda: Recomputed(False, "checkpoint"), IMAGES),
    "checkpoint_and_plain": (lambda: Recomputed(False, "plain"), IMAGES),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("chunk", [256, 2])
def test_equals_backward_on_one_example_at_a_time(name: str, chunk: int) -> None:
    make, inputs = MODELS[name]
    torch.manual_seed(0)
    model, labels, before = make(), torch.arange(5) % 3, inputs.clone()
    expected, mean = by_loop(model, inputs, labels)
    torch.testing.assert_close(exact_norms(model, cross_entropy, inputs, labels, chunk=chunk), expected)
    batches = list(zip(inputs.split(chunk), labels.split(chunk), strict=True))
    norms, gradient = norms_and_gradient(model, cross_entropy, batches)
    torch.testing.assert_close(norms, expected)
    torch.testing.assert_close(gradient, mean)
    assert torch.equal(inputs, before), "the caller's inputs were changed"


def test_an_error_of_the_model_itself_comes_out() -> None:
    class Broken(Recurrent):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        exact_norms(Broken(nn.GRU), cross_entropy, SEQUENCES, torch.zeros(5, dtype=torch.long))


@pytest.mark.parametrize("with_formula", [True, False])
def test_a_reentrant_checkpoint_is_refused_by_the_name_of_its_module(with_formula: bool) -> None:
    model = Recomputed(True)
    if not with_formula:
        model.a = nn.Sequential(nn.Linear(4, 6), nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)))
    with pytest.raises(ValueError, match=r"^b \(Linear\) runs under.*use_reentrant=False\)$") as raised:
        exact_norms(model, cross_entropy, IMAGES, torch.arange(5) % 3)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("reentrant", [False, True])
def test_listening_to_a_checkpointed_model(reentrant: bool) -> None:
    torch.manual_seed(0)
    model, labels = Recomputed(reentrant), torch.arange(5) % 3
    expected, mean = by_loop(model, IMAGES, labels)
    with PerExampleNorms(model, "mean") as norms:
        cross_entropy(model(IMAGES), labels).mean().backward()
    torch.testing.assert_close(norms.squared().sqrt(), expected)
    torch.testing.assert_close([p.grad for p in model.parameters()], mean)


@pytest.mark.parametrize("again", ["checkpoint", "plain"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_listening_refuses_a_layer_used_twice_under_a_checkpoint(reentrant: bool, again: str) -> None:
    model = Recomputed(reentrant, again)
    with pytest.raises(ValueError, match=r"b \(Linear\) is called more than once"), PerExampleNorms(model, "sum"):
        cross_entropy(model(IMAGES), torch.arange(5) % 3).sum().backward()
