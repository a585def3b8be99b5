"""Golden runs, replayed: a change that moves a run's numbers fails here before any record is trained.

On the machine that wrote them they must be equal to the last bit. Elsewhere rounding differs, and after some hundred
steps the draws with it, so the curves are compared by tolerance.
"""

from __future__ import annotations

import json

import pytest

import golden

WRITTEN = json.loads(golden.FILE.read_text(encoding="utf-8"))


def test_every_golden_run_is_written() -> None:
    assert list(WRITTEN["runs"]) == list(golden.RUNS)


@pytest.mark.parametrize("name", golden.RUNS)
def test_run_is_what_it_was(name: str) -> None:
    written, found = WRITTEN["runs"][name], golden.golden(name)
    if WRITTEN["machine"] == golden.machine():
        assert found == written
        return
    assert found["first_indices"] == written["first_indices"]
    assert found["t_hat"] == pytest.approx(written["t_hat"], rel=0.1)
    assert sum(found["loss"]) == pytest.approx(sum(written["loss"]), rel=0.2)
