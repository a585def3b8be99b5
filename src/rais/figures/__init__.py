"""The figures of the paper, one file each, drawn from records alone.

FIGURES names them with the runs they need; `draw` makes one, or says which runs are missing and which
command makes them. Nothing here trains, and nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from rais.figures import fig1_oracle, fig2_approximation, fig4_curves, fig7_two_by_two
from rais.figures.style import save
from rais.load import Records

__all__ = ["FIGURES", "Entry", "MissingRuns", "draw", "figures_for", "save"]


class MissingRuns(LookupError):
    """A figure's runs are not among the records; the text names them and the command that makes them."""


@dataclass(frozen=True)
class Entry:
    """One figure: `make(records, task)`, the tasks it can show, best first, and the arms it cannot do without.

    Where there are no tasks or no arms, any will do. With `diagnostic` the runs have to be diagnostic ones.
    """

    make: Callable[[Records, str], Figure]
    tasks: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    diagnostic: bool = False

    def task(self, records: Records) -> str | None:
        """The first of `tasks` with complete runs of all `arms`."""
        runs = records.diagnostics if self.diagnostic else records.comparable
        present = [task for task in self.tasks or runs.tasks if set(self.arms) <= set(runs.arms(task))]
        return next((task for task in present if runs.arms(task)), None)


FIGURES = {
    "fig1_oracle": Entry(fig1_oracle.make, ("mnist", "mnist_6000"), ("uniform", "oracle")),
    "fig2_approximation": Entry(fig2_approximation.make, diagnostic=True),
    "fig4_mnist": Entry(fig4_curves.make, ("mnist",)),
    "fig4_digits": Entry(fig4_curves.make, ("digits",)),
    "fig7_two_by_two": Entry(fig7_two_by_two.make, ("mnist", "digits"), tuple(fig7_two_by_two.CELLS.values())),
}


def figures_for(records: Records) -> dict[str, Entry]:
    """FIGURES, and the learning curves `fig4_<task>` of every other task among the complete runs."""
    return FIGURES | {f"fig4_{task}": Entry(fig4_curves.make, (task,)) for task in records.comparable.tasks}


def draw(name: str, records: Records) -> Figure:
    """The figure `name` of `figures_for(records)`. Raises MissingRuns where its runs are not there."""
    entry = figures_for(records)[name]
    task = entry.task(records)
    if task is None:
        arms = ", ".join(entry.arms) or "at least one arm"
        raise MissingRuns(
            f"{name} needs complete{' diagnostic' if entry.diagnostic else ''} runs of {arms} on "
            f"{' or '.join(entry.tasks) or 'any task'}: python scripts/train.py --multirun experiment={name}"
        )
    return entry.make(records, task)
