"""The examples are short, run, and agree with one another."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_examples_are_under_60_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize("name", ["plain", "dataloader"])
def test_rais_reaches_plain_sgd_s_loss_with_fewer_examples(example, name: str, capsys) -> None:
    reached = example(name).main(mnist=False, epochs=6, uniform=False)
    lines = capsys.readouterr().out.splitlines()
    plain = example(name).main(mnist=False, epochs=6, uniform=True)
    assert reached < 1.15 * plain
    assert float(lines[-1].split()[0]) < 5.7  # epochs of examples, of the 6 that plain SGD takes


def test_mnist_without_its_folder_ends_in_one_line(example, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAIS_DATA", raising=False)
    with pytest.raises(SystemExit, match="set RAIS_DATA to a folder"):
        example("plain").main(mnist=True, epochs=1, uniform=False)


@pytest.mark.slow  # tests/loop/test_ranks.py has two ranks in the quick tests
def test_two_ranks_train_as_one_process_does(example, capsys) -> None:
    alone = example("plain").main(mnist=False, epochs=4, uniform=False)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command += [str(EXAMPLES / "ddp.py"), "--epochs", "4"]
    path = os.pathsep.join(p for p in sys.path if p)
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, "GLOO_SOCKET_IFNAME": "lo"}
    )
    assert ended.returncode == 0, ended.stderr
    losses = [float(x) for x in re.findall(r"rank \d of 2:  training loss ([\d.]+)", ended.stdout)]
    assert len(losses) == 2 and losses[0] == losses[1] == pytest.approx(alone, rel=0.02)


@pytest.mark.parametrize("framework", ["accelerate", "lightning", "transformers"])
def test_a_framework_trains_as_the_plain_loop_does(example, framework: str, capsys) -> None:
    pytest.importorskip(framework)
    losses = [example(name).main(mnist=False, epochs=3, uniform=False) for name in ("plain", f"with_{framework}")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
