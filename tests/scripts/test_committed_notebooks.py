"""The committed notebooks: valid, executed from top to bottom, without errors or traces of the machine that did it.

That they still run is checked by `make notebooks-check`; here only what was committed is read, and the numbers of the
first one are compared with the committed records.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from rais.paper.analysis import speedup as stats
from rais.paper.analysis.pilots import with_targets
from rais.paper.records import read as load

nbformat = pytest.importorskip("nbformat", reason="needs the extra `notebooks`")
notebooks = pytest.importorskip("notebooks", reason="needs the extra `notebooks`")

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("01_reproduce", "02_method", "03_your_own_data")
ABSOLUTE = re.compile(r"(?<![\w./:<])/(?:Users|bin|etc|home|mnt|opt|private|proc|root|srv|tmp|usr|var)\b|\b[A-Z]:\\")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def read(name: str):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def code_cells(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(notebook) -> list[str]:
    """All that can be read in the outputs: streams, tables, Markdown; not the pictures."""
    found = []
    for output in (output for cell in code_cells(notebook) for output in cell.outputs):
        found.append(output.get("text", ""))
        found += [text for kind, text in output.get("data", {}).items() if kind.startswith("text/")]
    return found


def faults(notebook) -> list[str]:
    """What keeps a notebook from being committed; empty for none."""
    cells = code_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    outputs = [output for cell in cells for output in cell.outputs]
    sources = [cell.source for cell in notebook.cells]
    faulty = {
        "cells were not executed once each, in order": counts != list(range(1, len(cells) + 1)),
        "there are no outputs": not outputs,
        "an output is an error": any(output.output_type == "error" for output in outputs),
        "something was written to stderr": any(output.get("name") == "stderr" for output in outputs),
        "an absolute path": any(ABSOLUTE.search(text) for text in [*sources, *texts(notebook)]),
        "metadata beside kernel and language": notebook.metadata != nbformat.from_dict(notebooks.METADATA),
        "metadata of a cell": any(cell.metadata for cell in notebook.cells),
    }
    return [fault for fault, is_there in faulty.items() if is_there]


def test_these_are_all_notebooks() -> None:
    assert sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb")) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_committed_notebook_is_valid_and_was_executed_from_top_to_bottom(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert faults(notebook) == []
    notebooks.refuse_machine_paths(Path(name), notebook)
    pictures = [o for cell in code_cells(notebook) for o in cell.outputs if "image/png" in o.get("data", {})]
    assert pictures


@pytest.mark.parametrize("name", NAMES)
def test_the_files_that_a_notebook_links_to_exist(name: str) -> None:
    links = [link for cell in read(name).cells if cell.cell_type == "markdown" for link in LINK.findall(cell.source)]
    assert links and [link for link in links if not (ROOT / "notebooks" / link).exists()] == []


def test_the_first_notebook_shows_the_numbers_of_the_committed_records() -> None:
    shown = "\n".join(texts(read("01_reproduce")))
    records = with_targets(load.load(ROOT / "results" / "records"), load.load(ROOT / "results" / "pilots"))
    table = stats.speedup_table(records)
    rows = table[(table["arm"] == "rais") & (table["n_seeds"] > 0)]
    numbers = {row["task"]: stats.speedup_text(row, "examples") for _, row in rows.iterrows()}
    stale = {task: number for task, number in numbers.items() if number not in shown}
    assert numbers and not stale, "the records have changed: run `make notebooks`"


def made_up():
    cells = [nbformat.v4.new_markdown_cell("# Words"), *(nbformat.v4.new_code_cell(str(i)) for i in range(2))]
    for count, cell in enumerate(cells[1:], 1):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", text="<b>runs/mnist/rais</b>, 1/2, https://example.org/srv/x")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata = nbformat.from_dict(notebooks.METADATA)
    return notebook


def say(text: str) -> Callable:
    return lambda notebook: notebook.cells[1].outputs[0].update(text=text)


SPOILED: dict[str, tuple[str, Callable]] = {
    "not executed": ("order", lambda notebook: notebook.cells[2].update(execution_count=None)),
    "executed again": ("order", lambda notebook: notebook.cells[1].update(execution_count=3)),
    "cleared": ("no outputs", lambda notebook: [cell.update(outputs=[]) for cell in notebook.cells[1:]]),
    "failed": ("error", lambda notebook: notebook.cells[2].update(outputs=[nbformat.v4.new_output("error")])),
    "warned": ("stderr", lambda notebook: notebook.cells[2].outputs[0].update(name="stderr")),
    "a path": ("absolute", say("saved to /srv/x.png")),
    "a path in quotes": ("absolute", say("open('/srv/x')")),
    "a path of Windows": ("absolute", say("saved to C:\\x.png")),
    "a path in the source": ("absolute", lambda notebook: notebook.cells[1].update(source="load('/srv/records')")),
    "versions": ("kernel", lambda notebook: notebook.metadata.language_info.update(version="3.12.1")),
    "times": ("cell", lambda notebook: notebook.cells[1].metadata.update(execution={"iopub.status.busy": "now"})),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_each_fault_would_be_found(spoiled: str) -> None:
    notebook = made_up()
    assert faults(notebook) == []
    fault, spoil = SPOILED[spoiled]
    spoil(notebook)
    found = faults(notebook)
    assert len(found) == 1 and fault in found[0]
