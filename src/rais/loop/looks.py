"""When the host looks at the device, and what it found there.

A look waits for an accelerator, so it comes every so many steps: it reads t̂ for the budget and the torch scheduler, and
tells whether gradients are finite. Looks come at steps that the state fixes, hence a resumed run looks when an
uninterrupted one does.

| paper | code | unit                                               |
|-------|------|----------------------------------------------------|
| t̂     | t    | iterations of uniform SGD, as the last look saw it |
"""

from __future__ import annotations

import math

from torch import Tensor

from rais.sampling.base import NonFiniteNorm

SHOWN = 32  # examples named in an error
MOST_SKIPPED = 100  # steps in a row without a finite gradient: training has diverged


class Looks:
    """Looks every `every` steps, and oftener when `budget`, in t̂, comes near."""

    def __init__(self, every: int, budget: float | None) -> None:
        self.every, self.budget = every, budget
        self.t = 0.0
        self.next = 0  # the step, made or skipped, at which the next look is due
        self.skipped = self.skipped_in_a_row = 0

    def is_due(self, made: int) -> bool:
        """Whether the step after `made` ones and those skipped is looked at."""
        return made + self.skipped >= self.next

    def found(self, t: float, ratio: float, made: int) -> None:
        """Take in what a look after `made` steps found, and fix the next one."""
        self.t = t
        ahead = self.every if self.budget is None else min(self.every, steps_until(self.budget - t, ratio))
        self.next = made + self.skipped + max(ahead - 1, 0)

    def made(self) -> None:
        self.skipped_in_a_row = 0

    def skip(self, index: Tensor) -> None:
        """Count a step with the examples `index` (m,) that was not made.

        Raises:
            NonFiniteNorm: the hundredth in a row.
        """
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MOST_SKIPPED:
            shown = ", ".join(map(str, index[:SHOWN].tolist())) + (", …" if len(index) > SHOWN else "")
            raise NonFiniteNorm(
                f"{MOST_SKIPPED} steps in a row had gradients or norms that are not finite: training has diverged, so "
                "lower the learning rate; or an example holds such values, the last minibatch was of the examples "
                f"{shown}"
            )


def steps_until(left: float, ratio: float) -> int:
    """Steps after which t̂ cannot have moved by more than `left`, while r does not double."""
    return math.ceil(left / (2 * max(ratio, 1e-3)))
