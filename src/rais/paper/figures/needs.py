"""What a figure file declares of itself: the runs it cannot do without, what makes them, and its tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd

from rais.paper.records.read import Records

KINDS = {"comparable": "", "diagnostics": "diagnostic ", "traced": "traced ", "variants": "", "headroom": "diagnosed "}


@dataclass(frozen=True)
class Needs:
    """The complete headline runs of `arms` on the first of `tasks` that has them; of no tasks or no arms, any will do.

    kind: the part of `Records` that the runs are in. Of variants only those count whose label begins with one of
    `labels`. experiments: files of conf/experiment that make the runs, with their settings. origin: what of it is the
    paper's, with a tag, or `ours`. tables: CSV tables that go with the figure, by name. a_task_each: one figure for
    every task that has the runs, named `<figure>_<task>`. pilots: drawn from results/pilots instead of the records.
    """

    experiments: tuple[str, ...]
    origin: str = "ours"
    tasks: tuple[str, ...] = ()
    arms: tuple[str, ...] = ()
    kind: str = "comparable"
    labels: tuple[str, ...] = ("",)
    tables: dict[str, Callable[[Records], pd.DataFrame]] = field(default_factory=dict)
    a_task_each: bool = False
    pilots: bool = False

    def tasks_in(self, records: Records) -> list[str]:
        """The tasks that can be shown, best first."""
        chosen: Records = getattr(records, self.kind)
        runs = chosen.where(chosen.runs["variant"].str.startswith(self.labels))
        asked = self.tasks or runs.tasks
        return [task for task in asked if runs.arms(task) and set(self.arms) <= set(runs.arms(task))]

    @property
    def commands(self) -> list[str]:
        """What to type to get the runs."""
        return [f"python scripts/train.py --multirun experiment={made_by}" for made_by in self.experiments]

    def in_words(self) -> str:
        """The runs that are needed, such as `complete runs of uniform, oracle on mnist or mnist_6000`."""
        labels = f" with a variant {', '.join(f'{label}*' for label in self.labels)}" if self.labels != ("",) else ""
        arms, tasks = ", ".join(self.arms) or "at least one arm", " or ".join(self.tasks) or "any task"
        return f"complete {KINDS[self.kind]}{'pilot ' if self.pilots else ''}runs of {arms}{labels} on {tasks}"
