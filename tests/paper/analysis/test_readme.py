"""What the README says can be done: its Python runs, and its commands, settings and links name things that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from rais.paper import settings as config
from rais.paper.analysis import readme
from rais.paper.records import read as load

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
GENERATED = re.compile(r"<!-- (\w+):begin -->.*?<!-- \1:end -->", re.DOTALL)
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL))
TRAINING = [line.split("#")[0] for line in SHELL.splitlines() if line.startswith("python scripts/train.py")]


def test_python_blocks_run_and_learn() -> None:
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(blocks) == 2
    names: dict = {}
    torch.manual_seed(0)
    exec(blocks[0], names)
    assert names["sampler"].has_learned, "the first loop ends before RAIS has learned anything"
    exec(blocks[1], names)
    assert names["t_hat"] > 0.9 * 300
    assert all(torch.isfinite(p).all() for p in names["model"].parameters())


@pytest.mark.parametrize("command", TRAINING)
def test_training_commands_compose(command: str) -> None:
    overrides = [word for word in shlex.split(command)[2:] if word != "--multirun"]
    config.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config.from_hydra(compose("config", [re.sub(r"=([^,]*),.*", r"=\1", word) for word in overrides]))


def test_commands_name_what_exists() -> None:
    assert len(TRAINING) >= 4
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    prose = GENERATED.sub("", TEXT)
    assert set(re.findall(r"make ([a-z]+)\b(?= |$|`)", SHELL)) | set(re.findall(r"`make ([a-z]+)`", prose)) <= targets
    for path in re.findall(r"(?:python|\]\() ?((?:scripts|src|conf|results)/[\w./-]+)", TEXT):
        assert (ROOT / path).exists(), path


def test_figures_are_there() -> None:
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT):
        assert (ROOT / path).is_file(), path


def test_fill_puts_each_part_between_its_marks_and_refuses_unknown_ones() -> None:
    text = "<!-- claim:begin -->old<!-- claim:end -->\n<!-- speedup:begin -->\n<!-- speedup:end -->\nend\n"
    made = {"claim": "C\n", "speedup": "S\n"}
    filled = readme.fill(text, made, Path("README.md"))
    assert filled == (
        "<!-- claim:begin -->\nC\n<!-- claim:end -->\n<!-- speedup:begin -->\nS\n<!-- speedup:end -->\nend\n"
    )
    assert readme.fill(filled, made, Path("README.md")) == filled
    for broken in ("no marks", text + text, text.replace("claim", "other")):
        with pytest.raises(ValueError, match=r"README\.md must hold"):
            readme.fill(broken, made, Path("README.md"))


def test_the_claim_also_tells_of_runs_with_a_larger_budget(run_writer, tmp_path: Path) -> None:
    for seed in range(2):
        run_writer("uniform", seed, [0, 10_000], {"train_loss": [2, 0.01], "test_error": [0.9, 0.01]}, task="mnist")
        run_writer("rais", seed, [0, 4_000], {"train_loss": [2, 0.02], "test_error": [0.9, 0.01]}, task="mnist")
        longer = {"train_loss": [2, 0.02, 0.01], "test_error": [0.9, 0.01, 0.01]}
        run_writer("rais", seed, [0, 4_000, 5_000], longer, task="mnist", variant="epochs_12.0", run_id=f"longer{seed}")
    text = readme.claim(load.load(tmp_path / "records"))
    assert "with 0.00× [0.00, 0.00] fewer examples" in text and "2 of 2 never at L*" in text
    assert "With a budget of 12 instead of 10 epochs equivalent, 2 of 2 got there: 2.00× [2.00, 2.00] fewer" in text


def test_bench_table(tmp_path: Path) -> None:
    assert readme.bench_table(tmp_path) == ""
    (tmp_path / "step.csv").write_text("quantity,unit,value,low,high\nratio,1,1.1,1.05,1.15\nsolve,ms,20,20,20\n")
    (tmp_path / "step.json").write_text('{"command": "run me", "hardware": {"cpu": "Some CPU", "threads": 1}}')
    table = readme.bench_table(tmp_path)
    assert "| ratio | 1.100 [1.050, 1.150] |" in table and "| solve | 20.000 ms |" in table
    assert "`run me`, Some CPU, 1 thread." in table


def test_tasks_without_runs_are_listed_with_their_command(tmp_path: Path, run_writer) -> None:
    run_writer("uniform", 0, (0, 10), {"train_loss": [2, 1]}, task="mnist")
    run_writer("uniform", 0, (0, 10), {"train_loss": [2, 1]}, task="svhn", variant="lr_1")
    records = load.load(tmp_path / "records")
    assert readme.unrun_table(records, tmp_path) == ""
    (tmp_path / "tasks.json").write_text('{"command": "run me", "hardware": {"cpu": "Some CPU", "threads": 1}}')
    head, rows = "task,batch_size,seconds_per_step,steps_per_run,hours_per_run\n", "mnist,32,0.01,100,0.1\n"
    (tmp_path / "tasks.csv").write_text(head + rows)
    assert readme.unrun_table(records, tmp_path) == "", "every task was run"
    (tmp_path / "tasks.csv").write_text(head + rows + "svhn,64,2.34,94436,62.7\n")
    table = readme.unrun_table(records, tmp_path)
    assert "| svhn | `python scripts/train.py --multirun experiment=fig4_svhn` | 2.3 s | 63 h |" in table
    assert "mnist" not in table and "`run me`, Some CPU, 1 thread." in table
