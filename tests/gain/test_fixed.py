"""Ratios that are given: the oracle's by hand, a replay's segments, and that none of them passes for another."""

from __future__ import annotations

import pytest
import torch

from rais import gain
from rais.sampling import Oracle


def test_exact_gain_of_the_oracle() -> None:
    v = torch.tensor([1.0, 2.0, 5.0])
    oracle = Oracle(3, 2, measure=lambda: (v, torch.tensor(4.0)), generator=torch.Generator().manual_seed(0))
    oracle.draw()
    uniform, sampled = 30 / 3, (8 / 3) ** 2
    truth = (uniform / 2 + 0.5 * 4) / (sampled / 2 + 0.5 * 4)
    assert gain.Exact(oracle).update(None).item() == pytest.approx(truth, rel=1e-12)


def test_replay_ends_every_segment_at_the_recorded_t_hat() -> None:
    replay = gain.Replay([3, 5], [2.0, 0.5])
    assert [replay.update(None).item() for _ in range(7)] == [2, 2, 2, 0.5, 0.5, 0.5, 0.5]
    with pytest.raises(ValueError, match="segments"):
        gain.Replay([], [])


def test_replay_resumes_in_the_middle_of_a_segment_of_the_same_record_alone() -> None:
    first, second = (gain.Replay([3, 5], [2.0, 0.5]) for _ in range(2))
    for _ in range(2):
        first.update(None)
    second.load_state_dict(first.state_dict())
    assert [second.update(None).item() for _ in range(2)] == [2, 0.5]
    with pytest.raises(ValueError, match=r"ends=\[3, 5\].* ends=\[3, 6\]"):
        gain.Replay([3, 6], [2.0, 0.5]).load_state_dict(first.state_dict())


def test_a_given_ratio_is_no_kind_of_off() -> None:
    replay = gain.Replay([1], [2.0])
    assert not isinstance(replay, gain.Off) and not issubclass(gain.Exact, gain.Off)
    with pytest.raises(ValueError, match="kind='Replay'.* kind='Off'"):
        gain.Off().load_state_dict(replay.state_dict())
    assert gain.Off().diagnostics() == {} and not gain.Off.needs_graph and not gain.Off.needs_norms


@pytest.mark.parametrize("make", [lambda: gain.Off(), lambda: gain.Replay([1, 2], [1.5, 1.5])])
def test_writing_into_a_ratio_changes_no_later_one(make) -> None:
    ratio = make()
    expected = ratio.update(None).clone()
    ratio.update(None).fill_(7.0)
    assert ratio.update(None) == expected
