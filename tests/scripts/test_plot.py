"""scripts/plot.py: tables, figures, the table in the README, and what it says when something is missing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import plot
from rais.paper import figures

ROOT = Path(__file__).resolve().parents[2]
CURVE = ((0, 1000, 2000), {"train_loss": [2.0, 0.5, 0.1], "test_error": [0.9, 0.2, 0.1], "gain_ratio": [1, 1, 1]})
BEGIN, END = "<!-- speedup:begin -->", "<!-- speedup:end -->"
README = f"before\n{BEGIN}\nold\n{END}\nafter\n"


@pytest.fixture
def root(run_writer, tmp_path):
    for seed in (0, 1):
        for arm in ("uniform", "rais"):
            run_writer(arm, seed, *CURVE)
    run_writer("oracle", 0, *CURVE, status="running")
    return tmp_path / "records"


def run(*arguments: object) -> int:
    return plot.main([str(argument) for argument in arguments])


def test_everything_is_written_and_named(root, tmp_path, capsys):
    assert run("--records", root, "--pilots", tmp_path / "none", "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    written = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert written == [
        "out/figures/by_loss.png",
        "out/figures/curves_digits.png",
        "out/figures/seconds.png",
        "out/figures/speedup.png",
        "out/tables/by_loss.csv",
        "out/tables/final.csv",
        "out/tables/speedup.csv",
        "out/tables/steadiness.csv",
    ]
    assert all(path in printed for path in written)
    for name in ("oracle", "approximation", "two_by_two", "headroom", "ablation", "learning_rate"):
        assert f"skipped: {name} needs" in printed
    assert "experiment=two_by_two\n" in printed and " ; python scripts/train.py --multirun exp" in printed
    assert "left out, interrupted: " in printed and "oracle/seed0-oracle0" in printed
    table = pd.read_csv(tmp_path / "out/tables/speedup.csv")
    assert table["arm"].tolist() == ["uniform", "oracle", "rais"]
    assert table["status"].tolist()[0] == "the median run does not reach the target"


def test_infinity_is_written_inf(run_writer, tmp_path):
    for seed in (0, 1):
        run_writer("uniform", seed, *CURVE)
        run_writer("rais", seed, CURVE[0], {"train_loss": [2, 0.5, 0.01]})
    assert run("--records", tmp_path / "records", "--pilots", tmp_path / "none", "--out", tmp_path, "speedup") == 0
    rais = (tmp_path / "tables/speedup.csv").read_text().splitlines()[2]
    assert rais.startswith("digits,rais,2,2,inf,inf,inf,inf,inf,inf,")


def test_all_tables_of_many_records(many_records, many_pilots, tmp_path):
    assert run("--records", many_records, "--pilots", many_pilots, "--out", tmp_path, "two_by_two") == 0
    assert [path.name for path in sorted(tmp_path.glob("figures/*"))] == ["two_by_two.png"]
    tables = {path.stem: pd.read_csv(path, keep_default_na=False) for path in tmp_path.glob("tables/*.csv")}
    expected = {name for module in figures.FIGURES.values() for name in module.NEEDS.tables}
    assert set(tables) in (expected, expected - {"rises"})
    phi = tables["phi"].set_index(["arm", "estimator"])
    assert len(phi) == 2 * 3 and float(phi.loc[("rais", "consecutive"), "bias"]) == pytest.approx(0.07, abs=0.02)
    assert len(tables["two_by_two"]) == 4
    assert set(tables["sensitivity"]["sweep"]) == {"visits", "alpha", "batch_size", "features"}
    assert tables["targets"][["task", "n_seeds"]].values.tolist() == [["digits", 5], ["mnist", 5]]
    assert set(tables["ablation"]["without"]) == {"", "extra_visit", "fast_average"}


def test_a_figure_of_each_task_and_one_of_them(root, run_writer, tmp_path):
    for task in ("mnist", "mnist_6000"):
        for arm in ("uniform", "oracle"):
            run_writer(arm, 0, *CURVE, task=task)
    arguments = ("--records", root, "--pilots", tmp_path / "none", "--out", tmp_path, "--pdf")
    assert run(*arguments, "oracle", "curves_digits") == 0
    names = sorted(path.name for path in tmp_path.glob("figures/*"))
    drawn = ("curves_digits", "oracle_mnist", "oracle_mnist_6000")
    assert names == [f"{name}.{suffix}" for name in drawn for suffix in ("pdf", "png")]


def test_an_unknown_figure_names_the_valid_ones(root, tmp_path):
    with pytest.raises(SystemExit, match=r"no figure fig10: choose from curves_digits, "):
        run("--records", root, "--out", tmp_path, "fig10")
    assert not (tmp_path / "tables").exists()


def test_no_records(tmp_path):
    with pytest.raises(SystemExit, match=r"plot: no records under .*make reproduce"):
        run("--records", tmp_path / "nowhere", "--out", tmp_path)


def test_only_unfinished_runs(run_writer, tmp_path, capsys):
    run_writer("rais", 0, *CURVE, status="interrupted")
    assert run("--records", tmp_path / "records", "--pilots", tmp_path / "none", "--out", tmp_path) == 0
    assert "skipped: curves" in capsys.readouterr().out


def test_the_table_in_the_readme_is_replaced_and_then_up_to_date(root, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(README)
    assert run("--records", root, "--readme", readme, "--check") == 1
    assert "run `make figures`" in capsys.readouterr().err
    assert readme.read_text() == README
    run("--records", root, "--pilots", tmp_path / "none", "--out", tmp_path, "--readme", readme, "oracle")
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| task | arm |") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert run("--records", root, "--readme", readme, "--check") == 0


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, README + README])
def test_a_readme_without_its_two_marks(root, tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(SystemExit, match="must hold the lines .* once each|has no marks"):
        run("--records", root, "--readme", tmp_path / "README.md", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists(), "it is said before anything is drawn"


def test_check_without_a_readme(capsys):
    with pytest.raises(SystemExit):
        run("--check")
    assert "--check needs --readme FILE" in capsys.readouterr().err


@pytest.mark.skipif(not (ROOT / "results/records").is_dir(), reason="no records are committed yet")
def test_the_committed_files_show_the_committed_records():
    files = [
        word for name in ("README.md", "results/README.md", "docs/choosing.md") for word in ("--readme", ROOT / name)
    ]
    assert run("--records", ROOT / "results/records", "--out", ROOT / "results", *files, "--check") == 0


@pytest.mark.skipif(not (ROOT / "results/tables").is_dir(), reason="no tables are committed yet")
def test_every_committed_task_has_a_target():
    table = pd.read_csv(ROOT / "results/tables/speedup.csv").fillna({"status": ""})
    assert table.loc[table["status"].str.contains("no target"), "task"].tolist() == []
