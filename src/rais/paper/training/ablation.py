"""RAIS with one cure of its recipe taken out, for the ablation and for nothing else.

Each cure is part of how RAIS works and no option of the library. What it does is seen by running without it: the class
here that lacks it takes the place of the library's. `without=CURE` in the settings chooses it.

| cure         | what is done without it                                                                            |
|--------------|----------------------------------------------------------------------------------------------------|
| extra_visit  | (PT) is solved for the visits that were made, without a surprise that was not                       |
| window       | the set is learned anew when all |D| visits are new, for the first time after |D| of them           |
| unit         | the moments are averaged as they are, not in units of the mean norm                                |
| start        | the averages start at the first minibatch, not at the first importance draw                        |
| fast_average | ρ is the slow average alone                                                                        |
"""

from __future__ import annotations

from torch import Tensor

from rais.gain import Adaptive, Minibatch, Phi, RunningMean
from rais.sampling import RAIS, Draw
from rais.sampling.uncertainty import UncertaintySet, learn


class WithoutExtraVisit(RAIS):
    def learn_set(self, start: Tensor | None) -> UncertaintySet:
        return learn(*self.recent.contents(), self.features.mean, start)


class WithoutWindow(RAIS):
    solves_per_window = 1


class WithoutUnit(Adaptive):
    def update(self, batch: Minibatch) -> Tensor:
        return super().update(batch if batch.draw.mean_norm is None else _in_unit(batch, 1.0))


class WithoutStart(Adaptive):
    """While draws are uniform nothing says what norms to expect: the unit is the minibatch's mean."""

    def takes_parts(self, draw: Draw) -> bool:
        return super().takes_parts(draw if draw.mean_norm is not None else draw._replace(mean_norm=1.0))

    def update(self, batch: Minibatch) -> Tensor:
        known = batch.draw.mean_norm is not None
        return super().update(batch if known else _in_unit(batch, batch.norm.detach().double().mean()))


class WithoutFastAverage(Adaptive):
    """Both averages are the slow one."""

    def __init__(self, phi: Phi, *, alpha: float = 0.01) -> None:
        super().__init__(phi, alpha=alpha)
        self.moments = RunningMean(2, (alpha, alpha), device=phi.device)


def _in_unit(batch: Minibatch, unit: float | Tensor) -> Minibatch:
    return batch._replace(draw=batch.draw._replace(mean_norm=unit))


SAMPLERS: dict[str | None, type[RAIS]] = {"extra_visit": WithoutExtraVisit, "window": WithoutWindow}
GAINS: dict[str | None, type[Adaptive]] = {
    "unit": WithoutUnit,
    "start": WithoutStart,
    "fast_average": WithoutFastAverage,
}
