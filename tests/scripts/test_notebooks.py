"""Notebooks: executed by this Python from top to bottom, kept without traces of the machine, or refused by name.

The committed ones are executed by `make notebooks-check`; here are small ones that go well or wrong in known ways.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra `notebooks`")
notebooks = pytest.importorskip("notebooks", reason="needs the extra `notebooks`")


def write(path: Path, *cells: str) -> Path:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    made.metadata = nbformat.from_dict({"kernelspec": {"name": "gone", "display_name": "Gone", "language": "python"}})
    for number, cell in enumerate(made.cells):
        cell["id"] = f"cell{number}"
    nbformat.write(made, path)
    return path


def outputs(path: Path) -> str:
    return str([cell.outputs for cell in nbformat.read(path, as_version=4).cells])


def test_outputs_are_kept_and_a_second_time_nothing_changes(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.ipynb",
        "import os, pathlib, sys\nx = 20",
        "print(x + 1, pathlib.Path('beside.txt').read_text())\nos.path.samefile(sys.executable, here)",
    )
    (tmp_path / "beside.txt").write_text("read from its own folder")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source += f"\nhere = {sys.executable!r}"
    nbformat.write(notebook, path)
    before = path.read_bytes()
    assert notebooks.main(["--check", str(path)]) == 0
    assert path.read_bytes() == before
    assert notebooks.main([str(path)]) == 0
    once = path.read_bytes()
    assert "21 read from its own folder" in outputs(path) and "True" in outputs(path)
    assert b"execution_count" in once and b"iopub" not in once and sys.version.split()[0].encode() not in once
    assert notebooks.main([str(path)]) == 0
    assert path.read_bytes() == once


def test_what_fails_is_named_and_left_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = write(tmp_path / "wrong.ipynb", "print('before')", "1 / 0")
    before = wrong.read_bytes()
    broken = tmp_path / "broken.ipynb"
    broken.write_text("{")
    well = write(tmp_path / "well.ipynb", "print('well')")
    assert notebooks.main([str(wrong), str(broken), str(well)]) == 1
    printed = capfd.readouterr()
    assert f"failed: {wrong}: ZeroDivisionError" in printed.err and f"written: {well}" in printed.out
    assert "failed: " in printed.err.replace(f"failed: {wrong}", "")
    assert wrong.read_bytes() == before and "well" in outputs(well)


@pytest.mark.parametrize("folder", [notebooks.ROOT, Path(sys.prefix), Path.home()])
def test_an_output_that_names_a_folder_of_this_machine_is_refused(folder: Path) -> None:
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1"), nbformat.v4.new_code_cell("2")])
    notebooks.refuse_machine_paths(Path("a.ipynb"), made)
    made.cells[1].outputs = [nbformat.v4.new_output("stream", text=f"saved {folder}/x.png")]
    with pytest.raises(notebooks.NotebookError, match=r"a\.ipynb, cell 2: .*print relative paths"):
        notebooks.refuse_machine_paths(Path("a.ipynb"), made)


def test_no_notebooks_are_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notebooks, "ROOT", tmp_path)
    assert notebooks.main(["--check"]) == 0
    assert "there are no notebooks" in capsys.readouterr().out
