"""The figures of the paper, one file each, named by what it shows and drawn from records alone.

Each file declares in NEEDS which runs it cannot do without and which experiments make them; `make(records, task)` draws
it. Nothing here trains, and nothing here imports torch.
"""

from __future__ import annotations

from types import ModuleType

from matplotlib.figure import Figure

from rais.paper.analysis.readme import cells, table_head
from rais.paper.figures import (
    ablation,
    approximation,
    by_loss,
    curves,
    examples,
    headroom,
    learning_rate,
    oracle,
    outliers,
    seconds,
    sensitivity,
    smoothing,
    spaced,
    speedup,
    two_by_two,
    uncertainty,
)
from rais.paper.figures.style import save
from rais.paper.records.read import Records

__all__ = ["FIGURES", "MissingRuns", "draw", "gallery", "map_table", "names", "save"]

# In the order in which results/README.md shows them.
FIGURES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (
        *(curves, speedup, seconds, by_loss, headroom, oracle, approximation, smoothing, examples, uncertainty),
        *(two_by_two, ablation, spaced, sensitivity, learning_rate, outliers),
    )
}


class MissingRuns(LookupError):
    """A figure's runs are not among the records; the text names them and the commands that make them."""


def names(records: Records) -> list[str]:
    """Every figure that there is, a figure of each task by the names `<figure>_<task>` of those it can be drawn for."""
    found = []
    for name, module in FIGURES.items():
        tasks = module.NEEDS.tasks_in(records) if module.NEEDS.a_task_each else []
        found += [f"{name}_{task}" for task in tasks] or [name]
    return found


def draw(name: str, records: Records, pilots: Records | None = None) -> Figure:
    """The figure `name`, one of FIGURES or `<figure>_<task>`, from the runs that its NEEDS name.

    Raises:
        MissingRuns: they are not there.
        KeyError: there is no such figure.
    """
    figure = name if name in FIGURES else max((f for f in FIGURES if name.startswith(f"{f}_")), key=len, default=name)
    module, asked = FIGURES[figure], name[len(figure) + 1 :]
    source = pilots if module.NEEDS.pilots else records
    tasks = [] if source is None else module.NEEDS.tasks_in(source)
    if not tasks or (asked and asked not in tasks):
        raise MissingRuns(f"{name} needs {module.NEEDS.in_words()}: {' ; '.join(module.NEEDS.commands)}")
    return module.make(source, asked or tasks[0])


def map_table() -> str:
    """The map of results/README.md in Markdown: figure, its tables, whose it is, the runs it needs, what makes them."""
    lines = table_head(["figure", "tables", "in the paper, or ours", "needs", "made by"])
    for name, module in FIGURES.items():
        needs = module.NEEDS
        shown = f"`{name}{'_<task>' * needs.a_task_each}`"
        tables = ", ".join(f"`{table}.csv`" for table in needs.tables)
        made_by = ", ".join(f"`experiment={experiment}`" for experiment in needs.experiments)
        lines.append(cells([shown, tables, needs.origin, needs.in_words(), made_by]))
    return "\n".join(lines) + "\n"


def gallery(records: Records, pilots: Records | None) -> str:
    """Every figure that can be drawn, in Markdown: what its file says that it shows, and its pictures."""
    parts = []
    for name, module in FIGURES.items():
        source = pilots if module.NEEDS.pilots else records
        tasks = [] if source is None else module.NEEDS.tasks_in(source)
        shown = [f"{name}_{task}" for task in tasks] if module.NEEDS.a_task_each else [name] * bool(tasks)
        if shown:
            caption = " ".join((module.__doc__ or "").split("\n\nsymbol")[0].split())
            parts.append("\n\n".join([f"### {name}", caption, *(f"![{each}](figures/{each}.png)" for each in shown)]))
    return "\n\n".join(parts) + "\n"
