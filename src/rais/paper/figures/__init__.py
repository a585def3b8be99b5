"""The figures of the paper, one file each, drawn from records alone.

FIGURES names them with the runs they need; `draw` makes one, or says which runs are missing and which
command makes them. Nothing here trains, and nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure

from rais.paper.figures import (
    fig1_oracle,
    fig2_approximation,
    fig3_smoothing,
    fig4_curves,
    fig5_examples,
    fig6_uncertainty,
    fig7_learning_rate,
    fig7_sensitivity,
    fig7_two_by_two,
    fig8_levels,
    fig8_speedup,
    fig9_outliers,
)
from rais.paper.figures.style import save
from rais.paper.records.read import Records

__all__ = ["FIGURES", "Entry", "MissingRuns", "draw", "figures_for", "save"]


class MissingRuns(LookupError):
    """A figure's runs are not among the records; the text names them and the command that makes them."""


@dataclass(frozen=True)
class Entry:
    """One figure: `make(records, task)`, the tasks it can show, best first, and the runs it cannot do without.

    Those are the complete headline runs of `arms`; with `kind` "diagnostics", "traced" or "variants" the runs of that
    part of `Records`. Of variants only those count whose label begins with one of `labels`. Where there are no tasks
    or no arms, any will do. `experiments` make the runs; none stands for the one named like the figure.
    """

    make: Callable[[Records, str], Figure]
    tasks: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    kind: str = "comparable"
    labels: tuple[str, ...] = ("",)
    experiments: tuple[str, ...] = ()

    def task(self, records: Records) -> str | None:
        """The first of `tasks` with complete runs of all `arms`."""
        chosen: Records = getattr(records, self.kind)
        runs = chosen.where(chosen.runs["variant"].str.startswith(self.labels))
        present = [task for task in self.tasks or runs.tasks if set(self.arms) <= set(runs.arms(task))]
        return next((task for task in present if runs.arms(task)), None)

    def needs(self, name: str) -> str:
        """What the figure `name` needs, and the commands that make it."""
        kind = {"diagnostics": " diagnostic", "traced": " traced"}.get(self.kind, "")
        arms = ", ".join(self.arms) or "at least one arm"
        labels = f" with a variant {', '.join(f'{label}*' for label in self.labels)}" if self.kind == "variants" else ""
        tasks = " or ".join(self.tasks) or "any task"
        commands = [
            f"python scripts/train.py --multirun experiment={made_by}" for made_by in self.experiments or [name]
        ]
        return f"{name} needs complete{kind} runs of {arms}{labels} on {tasks}: {' ; '.join(commands)}"


FIGURES = {
    "fig1_oracle": Entry(fig1_oracle.make, ("mnist", "mnist_6000"), ("uniform", "oracle")),
    "fig2_approximation": Entry(fig2_approximation.make, kind="diagnostics"),
    "fig3_smoothing": Entry(fig3_smoothing.make, ("mnist", "digits"), ("uniform", "smoothed_0.1")),
    "fig4_mnist": Entry(fig4_curves.make, ("mnist",)),
    "fig4_digits": Entry(fig4_curves.make, ("digits",)),
    "fig5_examples": Entry(fig5_examples.make, ("mnist",), ("rais",), kind="traced"),
    "fig6_uncertainty": Entry(
        fig6_uncertainty.make, ("digits",), ("rais",), kind="variants", labels=(fig6_uncertainty.LABEL,)
    ),
    "fig7_two_by_two": Entry(fig7_two_by_two.make, ("mnist", "digits"), tuple(fig7_two_by_two.CELLS.values())),
    "fig7_sensitivity": Entry(
        fig7_sensitivity.make,
        ("mnist",),
        ("rais",),
        kind="variants",
        labels=tuple(f"{sweep}_" for sweep in fig7_sensitivity.PANELS),
        experiments=tuple(f"sweep_{sweep}" for sweep in fig7_sensitivity.PANELS),
    ),
    "fig7_learning_rate": Entry(
        fig7_learning_rate.make,
        ("mnist",),
        ("uniform",),
        kind="variants",
        labels=("lr_",),
        experiments=("sweep_lr",),
    ),
    "fig8_speedup": Entry(fig8_speedup.make, arms=("uniform", "rais"), experiments=("fig4_digits",)),
    "fig8_levels": Entry(fig8_levels.make, arms=("uniform", "rais"), experiments=("fig4_digits",)),
    "fig9_outliers": Entry(
        fig9_outliers.make, ("digits_hot",), ("rais",), kind="variants", labels=tuple(fig9_outliers.LABELS)
    ),
}


def figures_for(records: Records) -> dict[str, Entry]:
    """FIGURES, and those of every other task: `fig4_<task>` of headline runs, `fig5_<task>` of traced ones."""
    curves = {f"fig4_{task}": Entry(fig4_curves.make, (task,)) for task in records.comparable.tasks}
    traced = [task for task in records.traced.tasks if task not in FIGURES["fig5_examples"].tasks]
    examples = {f"fig5_{task}": Entry(fig5_examples.make, (task,), ("rais",), kind="traced") for task in traced}
    return FIGURES | curves | examples


def draw(name: str, records: Records) -> Figure:
    """The figure `name` of `figures_for(records)`. Raises MissingRuns where its runs are not there."""
    entry = figures_for(records)[name]
    task = entry.task(records)
    if task is None:
        raise MissingRuns(entry.needs(name))
    return entry.make(records, task)
