"""What the README says can be done: its Python runs, and its commands, settings and links name things that exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from falling import GRID, falling
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
    assert names["engine"].sampler.has_learned, "the first loop ends before RAIS has learned anything"
    exec(blocks[1], names)
    assert names["engine"].is_done and names["engine"].sampler.has_learned
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


def test_each_part_is_put_between_its_marks_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    text = "<!-- claim:begin -->old<!-- claim:end -->\n<!-- speedup:begin -->\n<!-- speedup:end -->\nend\n"
    made = {"claim": lambda: "C\n", "speedup": lambda: "S\n", "scale": lambda: 1 / 0}  # no mark asks for the last
    path = tmp_path / "README.md"
    path.write_text(text)
    filled = readme.filled(path, made)
    assert filled == (
        "<!-- claim:begin -->\nC\n<!-- claim:end -->\n<!-- speedup:begin -->\nS\n<!-- speedup:end -->\nend\n"
    )
    path.write_text(filled)
    assert readme.filled(path, made) == filled
    for broken in ("no marks", text + text, text.replace("claim", "other"), text.replace("<!-- claim:end -->", "")):
        path.write_text(broken)
        with pytest.raises(ValueError, match=r"README\.md (must hold|has no marks)"):
            readme.marked(path, made)


@pytest.fixture
def records(run_writer, tmp_path: Path):
    """Eight seeds on mnist, where rais is at the target after half of uniform's examples; three on digits, where it is
    not; a run of digits whose loss trebles."""
    for seed in range(8):
        run_writer("uniform", seed, GRID, falling(0.5), task="mnist")
        run_writer("rais", seed, GRID, falling(1.0), task="mnist")
    spiked = falling(0.3)
    spiked["train_loss"][5] = 4 * spiked["train_loss"][4]
    for seed in range(3):
        run_writer("uniform", seed, GRID, falling(0.5))
        weights = {"largest_weight": [1.0] * 11, "gain_ratio": [2.0] * 11, "learning_rate": [0.1] * 11}
        run_writer("rais", seed, GRID, {**(spiked if seed else falling(0.3)), **weights})
    run_writer("oracle", 0, GRID, falling(0.5), status="failed")
    return load.load(tmp_path / "records")


def test_the_claim(records, tmp_path: Path) -> None:
    text = readme.claim(records)
    assert text == (
        "**To one training loss on MNIST with LeNet-5, plain SGD takes 2.00× [2.00, 2.00] the examples of RAIS and "
        "2.00× [2.00, 2.00] its time** (8 of 8 seeds reach it; RAIS's test error is -0.07 % [-0.07, -0.07] from that "
        "of SGD; Some CPU, 1 thread).\n"
    )
    assert readme.claim(records.of("digits")) == ""


def test_the_first_table(records) -> None:
    lines = readme.first_table(records).splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert lines[2].startswith(
        "| MNIST, LeNet-5 | 2.00× [2.00, 2.00] | 2.00× [2.00, 2.00] | 8 of 8 | -0.07 % [-0.07, -0.07] | "
        "Some CPU, 1 thread |"
    )
    assert lines[3].startswith("| digits, LeNet-5 | target not reached | target not reached | 0 of 3 | +0.43 %")
    assert "bootstrap interval" in lines[5] and len(lines) == 6
    assert readme.first_table(records.of("other")) == ""


def test_the_table_of_adamw_s_multipliers(run_writer, tmp_path: Path) -> None:
    for arm, last in (("uniform", 0.001), ("rais", 2.0), ("rais_multiplier_off", 0.0001)):
        for seed in range(2):
            run_writer(arm, seed, (0, 1000, 2000), {"train_loss": [2.0, 0.5, last]}, task="mnist_adamw")
    lines = readme.adamw_table(load.load(tmp_path / "records")).splitlines()
    assert [line.split(" | ")[1] for line in lines[2:5]] == [
        readme.ADAMW[arm] for arm in list(readme.ADAMW)[:2] + ["rais"]
    ]
    assert "| 0 of 2 |" in lines[4] and lines[4].startswith("| mnist_adamw | RAIS's draws, r | target not reached |")
    assert readme.adamw_table(load.load(tmp_path / "records").of("mnist")) == ""


def test_the_whole_table(records) -> None:
    lines = readme.speedup_markdown(records).splitlines()
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert lines[2].startswith(
        "| digits | `uniform` | 1 | 1 | 3 of 3 | 0.0067 | 0.07 % | – | 60 s, Some CPU, 1 thread |"
    )
    assert "| mnist | `rais` | 2.00× [2.00, 2.00] |" in lines[5]
    assert "- digits, `oracle`: 1 unfinished, left out." in lines
    assert any(line.startswith("- digits, `rais`: the median run does not reach the target") for line in lines)


def test_the_table_of_weights_and_rises(records) -> None:
    lines = readme.steadiness_markdown(records).splitlines()
    assert "| digits | `rais` | 3 | 1 | 4.00 (0.74 to 4.00) | 0.61 | 2 |" in lines
    assert any(
        line.startswith("- digits, `rais`, seed 1, epoch 5.0: 0.301 → 1.2 (4.0×), largest weight 1, r 2")
        for line in lines
    )


def test_the_table_of_headroom(run_writer, tmp_path: Path) -> None:
    stages = {"oracle_rho": 16, "hindsight_rho": 4, "true_rho": 4, "rho": 4, "rho_slow": 5, "phi": 0.5, "gain_ratio": 2}
    run_writer("rais", 0, GRID, falling(0.5) | {name: [1] + [value] * 10 for name, value in stages.items()})
    lines = readme.headroom_markdown(load.load(tmp_path / "records")).splitlines()
    numbers = "16.00 | 4.00 | 4.00 | 4.00 | 1.00 | 1.25 | 0.50 | 2.00"
    assert lines[2].startswith(f"| digits | `rais` | 1 | {numbers} | the past says little of the next norm")


def test_plain_table(tmp_path: Path) -> None:
    assert readme.plain_table(tmp_path, "scale") == ""
    (tmp_path / "scale.csv").write_text("n,bytes_per_example\n10000,70.1\n100000,69.2\n")
    about = {"command": "python scripts/bench.py --scale 1e5", "hardware": {"cpu": "Some CPU", "threads": 1}}
    (tmp_path / "scale.json").write_text(json.dumps(about))
    lines = readme.plain_table(tmp_path, "scale").splitlines()
    assert lines[0] == "| n | bytes per example |" and lines[2:4] == ["| 10000 | 70.1 |", "| 100000 | 69.2 |"]
    assert lines[-1] == "`python scripts/bench.py --scale 1e5`, Some CPU, 1 thread."


def test_bench_table(tmp_path: Path) -> None:
    assert readme.bench_table(tmp_path) == ""
    head = "name,case,ours_median_ms,ours_iqr_ms,rival,rival_median_ms,ratio,target,met,threads,hardware,versions\n"
    rows = "step,mnist,5,0.1,uniform,4,1.25,<= 1.05,no,1,Some CPU,torch\n(PT),cold,2,0.1,,,,,,1,Some CPU,torch\n"
    (tmp_path / "bench.csv").write_text(head + rows)
    (tmp_path / "bench.json").write_text('{"command": "run me", "hardware": {"cpu": "Some CPU", "threads": 1}}')
    table = readme.bench_table(tmp_path)
    assert "| step | mnist | 5 | uniform | 4 | 1.25 | <= 1.05 | no |" in table
    assert "| (PT) | cold | 2 | – | – | – | – | – |" in table
    assert "`run me`, Some CPU, 1 thread." in table
    assert "(PT)" not in readme.bench_table(tmp_path, "step")


def test_tasks_without_runs_are_listed_with_their_command(tmp_path: Path, run_writer) -> None:
    run_writer("uniform", 0, (0, 10), {"train_loss": [2, 1]}, task="mnist")
    run_writer("uniform", 0, (0, 10), {"train_loss": [2, 1]}, task="svhn", variant="lr_half")
    records = load.load(tmp_path / "records")
    assert readme.unrun_table(records, tmp_path) == ""
    (tmp_path / "tasks.json").write_text('{"command": "run me", "hardware": {"cpu": "Some CPU", "threads": 1}}')
    head, rows = "task,batch_size,seconds_per_step,steps_per_run,hours_per_run\n", "mnist,32,0.01,100,0.1\n"
    (tmp_path / "tasks.csv").write_text(head + rows)
    assert readme.unrun_table(records, tmp_path) == "", "every task was run"
    (tmp_path / "tasks.csv").write_text(head + rows + "svhn,64,2.34,94436,62.7\n")
    table = readme.unrun_table(records, tmp_path)
    assert "| svhn | `python scripts/train.py --multirun experiment=curves task=svhn` | 2.3 s | 63 h |" in table
    assert "mnist" not in table and "`run me`, Some CPU, 1 thread." in table
