"""scripts/targets.py: the line for a task's file, and what keeps it from being used."""

from __future__ import annotations

import pytest

import targets
from falling import GRID, falling


def test_lines_and_doubts(run_writer, tmp_path, capsys):
    for variant, rate in (("", 0.5), ("lr_half", 0.4), ("lr_twice", 0.3)):
        for seed in range(100, 105):
            run_writer("uniform", seed, GRID, falling(rate), variant=variant, target_loss=None)
    assert targets.main(["--pilots", str(tmp_path / "records")]) == 0
    assert "conf/task/digits.yaml\n  target_loss: 0.0235  # nats" in capsys.readouterr().out
    run_writer("uniform", 105, GRID, falling(0.1), target_loss=None)  # far behind: the target is out of its reach
    assert targets.main(["--pilots", str(tmp_path / "records")]) == 1
    assert "  but only 5 of 6 pilots reach it" in capsys.readouterr().out


def test_no_pilots(tmp_path):
    with pytest.raises(SystemExit, match="targets: no records under"):
        targets.main(["--pilots", str(tmp_path)])
