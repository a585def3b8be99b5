"""States continue to the last bit, are read by torch's safe loader, and are refused whole."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gradients import Falling, losses, minibatches
from rais import gain
from rais.gain.pace import InverseSqrt, Pace


def make(estimator: type[gain.Phi], model: nn.Module, **kwargs) -> gain.Adaptive:
    extra = {"model": model, "loss": losses} if estimator is gain.ExactScale else {}
    every = {} if estimator is gain.Consecutive else {"every": 3}
    return gain.Adaptive(estimator(model.parameters(), m=6, **every, **extra), **kwargs)


@pytest.mark.parametrize("estimator", [gain.HalfBatch, gain.ExactScale, gain.Consecutive])
def test_state_continues_to_the_last_bit_through_a_file(estimator: type[gain.Phi], tmp_path) -> None:
    first = second = None
    twice = zip(minibatches(6, 40, True), minibatches(6, 40, True), strict=True)
    for t, ((model, batch, _), (other, same_batch, _)) in enumerate(twice):
        first = first or make(estimator, model)
        if t == 20:
            torch.save(first.state_dict(), tmp_path / "state.pt")
            second = make(estimator, other)
            second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        r = first.update(batch)
        if second is not None:
            assert torch.equal(second.update(same_batch), r)
    assert r != 1


def adaptive(*, alpha: float = 0.01, **kwargs) -> gain.Adaptive:
    problem = Falling()
    made = gain.Adaptive(gain.HalfBatch([problem.w], **{"m": 6, "every": 3, **kwargs}), alpha=alpha)
    for _ in range(5):
        made.update(problem.minibatch(6))
    return made


def test_a_saved_state_does_not_move_with_what_it_was_taken_of() -> None:
    problem = Falling()
    made = gain.Adaptive(gain.HalfBatch([problem.w], m=6))
    made.update(problem.minibatch(6))
    state = made.state_dict()
    before = {name: value.clone() for name, value in state.items() if isinstance(value, torch.Tensor)}
    made.update(problem.minibatch(6))
    assert all(torch.equal(state[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"alpha": 0.003}, r"alpha=0\.01.*alpha=0\.003"),
        ({"every": 4}, "every=3.*every=4"),
        ({"m": 8}, "m=6.*m=8"),
    ],
)
def test_another_setting_is_refused_with_both_values(change: dict, message: str) -> None:
    into = adaptive(**change)
    before = into.state_dict()
    with pytest.raises(ValueError, match=message):
        into.load_state_dict(adaptive().state_dict())
    assert_unchanged(into, before)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda s: s.pop("phi.averages.sums"), "missing.*averages.sums"),
        (lambda s: s.update(more=1), "unknown.*more"),
        (lambda s: s.update({"phi.averages.sums": torch.zeros(2)}), r"sums is a Tensor of shape \(2,\).*\(3,\)"),
        (lambda s: s.update({"phi.iteration": torch.zeros(3)}), "iteration is a Tensor.*a int"),
        (lambda s: s.update({"phi.kind": "Consecutive"}), "kind='Consecutive'.*kind='HalfBatch'"),
        (lambda s: s.update(version=0), "version=0.*version=1"),
        (lambda s: s.clear(), "missing"),
    ],
    ids=["missing", "more", "shape", "type", "kind", "version", "empty"],
)
def test_a_spoilt_state_is_refused_before_anything_is_overwritten(spoil, message: str) -> None:
    state, into = adaptive().state_dict(), adaptive()
    into.moments.sums += 1
    before = into.state_dict()
    spoil(state)
    with pytest.raises(ValueError, match=message) as caught:
        into.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert_unchanged(into, before)


def test_gradients_of_another_model_are_refused() -> None:
    one, other = (gain.Consecutive([nn.Parameter(torch.ones(k))], m=2) for k in (2, 3))
    one.previous = [torch.ones(2)]
    with pytest.raises(ValueError, match=r"\[\(2,\)\].*\[\(3,\)\]"):
        other.load_state_dict(one.state_dict())


def test_pace_continues() -> None:
    one, other = Pace(InverseSqrt(3.4, 100)), Pace(InverseSqrt(3.4, 100))
    one.advance(torch.tensor(1.7, dtype=torch.float64))
    other.load_state_dict(one.state_dict())
    assert other.t_hat.item() == 1.7
    with pytest.raises(ValueError, match="kind='Pace'.*kind='Off'"):
        gain.Off().load_state_dict(one.state_dict())


def assert_unchanged(made: gain.Adaptive, before: dict) -> None:
    after = made.state_dict()
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert torch.equal(after[name], value) if isinstance(value, torch.Tensor) else after[name] == value
