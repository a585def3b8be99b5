"""scripts/plot.py: tables, figures, the table in the README, and what it says when something is missing."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import plot

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
    assert run("--records", root, "--out", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    written = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert written == [
        "out/figures/fig4_digits.pdf",
        "out/figures/fig4_digits.png",
        "out/figures/fig8_levels.pdf",
        "out/figures/fig8_levels.png",
        "out/figures/fig8_speedup.pdf",
        "out/figures/fig8_speedup.png",
        "out/tables/final.csv",
        "out/tables/levels.csv",
        "out/tables/speedup.csv",
    ]
    assert all(path in printed for path in written)
    for name in ("fig1_oracle", "fig2_approximation", "fig4_mnist", "fig7_two_by_two"):
        assert f"skipped: {name} needs" in printed and f"--multirun experiment={name}\n" in printed
    assert "skipped: fig7_sensitivity needs" in printed and " ; python scripts/train.py --multirun exp" in printed
    assert "left out, interrupted: " in printed and "oracle/seed0-oracle0" in printed
    table = pd.read_csv(tmp_path / "out/tables/speedup.csv")
    assert table["arm"].tolist() == ["uniform", "oracle", "rais"]
    assert table["examples_speedup"].tolist()[::2] == [1, 1]


def test_the_diagnostic_two_by_two_and_sensitivity_tables(many_records, tmp_path):
    assert run("--records", many_records, "--out", tmp_path, "fig1_oracle") == 0
    assert [path.name for path in sorted(tmp_path.glob("figures/*"))] == ["fig1_oracle.pdf", "fig1_oracle.png"]
    phi = pd.read_csv(tmp_path / "tables/phi.csv")
    assert len(phi) == 2 * 3 and set(phi["n_seeds"]) == {3}
    assert phi.set_index(["arm", "estimator"]).loc[("rais", "consecutive"), "bias"] == pytest.approx(0.07, abs=0.02)
    assert len(pd.read_csv(tmp_path / "tables/two_by_two.csv")) == 4
    sensitivity = pd.read_csv(tmp_path / "tables/sensitivity.csv", keep_default_na=False)
    assert set(sensitivity["sweep"]) == {"visits", "alpha", "batch_size", "features", "lr"}


def test_a_number_stands_for_all_its_figures(root, tmp_path, capsys):
    assert run("--records", root, "--out", tmp_path, "fig4") == 0
    assert [path.name for path in tmp_path.glob("figures/*.png")] == ["fig4_digits.png"]
    printed = capsys.readouterr().out
    assert "skipped: fig4_mnist needs" in printed and "fig1_oracle" not in printed


def test_an_unknown_figure_names_the_valid_ones(root, tmp_path):
    with pytest.raises(SystemExit, match=r"no figure fig10: choose from fig1_oracle, "):
        run("--records", root, "--out", tmp_path, "fig10")
    assert not (tmp_path / "tables").exists()


def test_no_records(tmp_path):
    with pytest.raises(SystemExit, match=r"plot: no records under .*make reproduce"):
        run("--records", tmp_path / "nowhere", "--out", tmp_path)


def test_only_unfinished_runs(run_writer, tmp_path, capsys):
    run_writer("rais", 0, *CURVE, status="interrupted")
    assert run("--records", tmp_path / "records", "--out", tmp_path) == 0
    assert "skipped: fig4_digits" in capsys.readouterr().out


def test_the_table_in_the_readme_is_replaced_and_then_up_to_date(root, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(README)
    assert run("--records", root, "--readme", readme, "--check") == 1
    assert "run `make figures`" in capsys.readouterr().err
    assert readme.read_text() == README
    run("--records", root, "--out", tmp_path, "--readme", readme, "fig1_oracle")
    text = readme.read_text()
    assert text.startswith(f"before\n{BEGIN}\n| task | arm |") and text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    assert run("--records", root, "--readme", readme, "--check") == 0


@pytest.mark.parametrize("text", ["", BEGIN, END + BEGIN, README + README])
def test_a_readme_without_its_two_marks(root, tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(SystemExit, match="must hold the lines .* once each"):
        run("--records", root, "--readme", tmp_path / "README.md", "--check")


def test_check_without_a_readme(capsys):
    with pytest.raises(SystemExit):
        run("--check")
    assert "--check needs --readme FILE" in capsys.readouterr().err


@pytest.mark.skipif(not (ROOT / "results/records").is_dir(), reason="no records are committed yet")
def test_the_committed_readme_shows_the_committed_records():
    assert run("--records", ROOT / "results/records", "--readme", ROOT / "README.md", "--check") == 0
