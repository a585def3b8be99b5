"""How far a number can be trusted: spreads over seeds, as pure functions of arrays.

From SEEDS seeds on a spread is a 95 % bootstrap interval; below that it is the range of the seeds, which for five seeds
covers their median in 94 % of cases, where a bootstrap over so few promises more than it holds. Costs may be infinite:
a run that never got there moves a median and breaks nothing.

symbol    code            shape      unit
cost      uniform, arm    (seeds,)   examples or seconds, inf for never; one place is one seed in both
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

SEEDS = 8  # the fewest seeds that get a bootstrap interval [ours]
RESAMPLES = 10_000
UNDEFINED = 1 / 40  # the largest share of ratios inf/inf that an interval may hold [ours]
TAILS = (0.025, 0.975)


def ratio_of_medians(uniform: ArrayLike, arm: ArrayLike) -> float:
    """median(uniform) / median(arm): inf where only uniform's is infinite, 0 where only the arm's, nan where both are
    or where there is no seed."""
    return float(_ratio(*(np.median(x) if len(x) else np.nan for x in (np.asarray(uniform), np.asarray(arm)))))


def median(values: ArrayLike) -> float:
    """The median of those that are known; nan where none is."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if len(known) else float("nan")


def ratio_spread(uniform: ArrayLike, arm: ArrayLike) -> tuple[float, float]:
    """Lower and upper end of the spread of the ratio of medians, costs paired by seed.

    From SEEDS seeds on the 95 % percentile interval of `ratio_of_medians` over resamples of the seeds, the same
    resample for both. Below, the smallest and the largest ratio of one seed. A ratio inf/inf is unknown: it counts as
    0 for the lower end and as infinite for the upper one, and where more than UNDEFINED of the ratios are unknown
    there is no spread. (nan, nan) for that, and for fewer than two seeds. Same costs, same spread.

    Raises:
        ValueError: not one cost a seed in both.
    """
    uniform, arm = np.asarray(uniform, float), np.asarray(arm, float)
    if uniform.shape != arm.shape or uniform.ndim != 1:
        raise ValueError(
            f"costs are paired by seed: {uniform.shape} of uniform and {arm.shape} of the arm do not match"
        )
    if len(arm) < SEEDS:
        return _ends(_ratio(uniform, arm), (0.0, 1.0)) if len(arm) > 1 else (np.nan, np.nan)
    chosen = _resamples(len(arm))
    return _ends(_ratio(np.median(uniform[chosen], axis=1), np.median(arm[chosen], axis=1)), TAILS)


def mean_spread(values: ArrayLike) -> tuple[float, float]:
    """Lower and upper end of the spread of the mean of `values`, shape (seeds,): its 95 % bootstrap interval from SEEDS
    seeds on, below that the smallest and the largest value; (nan, nan) for fewer than two."""
    values = np.asarray(values, float)
    if len(values) < SEEDS:
        return (float(values.min()), float(values.max())) if len(values) > 1 else (np.nan, np.nan)
    return _ends(values[_resamples(len(values))].mean(axis=1), TAILS)


def _resamples(seeds: int) -> NDArray:
    """Places of the seeds in each resample: (RESAMPLES, seeds), always the same."""
    return np.random.default_rng(0).integers(seeds, size=(RESAMPLES, seeds))


def _ratio(uniform: ArrayLike, arm: ArrayLike) -> NDArray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(uniform, arm)


def _ends(values: NDArray, quantiles: tuple[float, float]) -> tuple[float, float]:
    """The two quantiles of `values`, a value that is unknown being as bad as it can be for either."""
    unknown = np.isnan(values)
    if unknown.mean() > UNDEFINED:
        return np.nan, np.nan
    worst = (np.where(unknown, 0.0, values), np.where(unknown, np.inf, values))
    low, high = (np.quantile(v, q, method="inverted_cdf") for v, q in zip(worst, quantiles, strict=True))
    return float(low), float(high)
