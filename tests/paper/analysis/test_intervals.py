"""Spreads over seeds: by hand where the seeds are few, by enumeration and by coverage where they are resampled."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rais.paper.analysis import intervals
from rais.paper.analysis.intervals import SEEDS, mean_spread, ratio_of_medians, ratio_spread

INF = math.inf


def test_ratio_of_medians_by_hand():
    assert ratio_of_medians([10, 30, 20], [5, 4, 100]) == 4
    assert ratio_of_medians([10, 20], [5, 5]) == 3


def test_the_median_of_what_is_known():
    assert intervals.median([3, np.nan, 1]) == 2 and intervals.median([1, INF, INF]) == INF
    assert math.isnan(intervals.median([])) and math.isnan(intervals.median([np.nan]))


def test_one_run_that_never_arrives_does_not_poison_the_median():
    assert ratio_of_medians([10, INF, 20], [5, 4, INF]) == 4


def test_a_median_that_never_arrives():
    assert ratio_of_medians([10, 20, 30], [5, INF, INF]) == 0
    assert ratio_of_medians([10, INF, INF], [5, 4, 3]) == INF
    assert math.isnan(ratio_of_medians([INF, INF, 1], [5, INF, INF]))
    assert math.isnan(ratio_of_medians([], []))


def test_few_seeds_have_the_range_of_their_own_ratios():
    # The medians are 20 and 5; the ratios of one seed are 2, 7.5 and 0.2.
    assert ratio_spread([10, 30, 20], [5, 4, 100]) == (0.2, 7.5)
    assert ratio_spread([10, INF], [INF, 5]) == (0, INF)
    assert np.isnan(ratio_spread([10], [5])).all()
    assert np.isnan(ratio_spread([10, INF], [5, INF])).all(), "one of two ratios is unknown"


def test_unknown_ratios_are_as_bad_as_they_can_be_for_either_end():
    values = np.array([*range(1, 981), *[np.nan] * 20], float)
    assert intervals._ends(values, intervals.TAILS) == (5, 975), "20 below all others, and 20 above"


def test_costs_are_paired():
    with pytest.raises(ValueError, match="paired by seed"):
        ratio_spread([1, 2], [1, 2, 3])


def test_a_constant_ratio_has_an_interval_without_width_only_if_paired():
    uniform = np.arange(1.0, 1.0 + SEEDS)
    assert ratio_spread(uniform, uniform / 2) == (2, 2)
    low, high = ratio_spread(uniform, uniform[::-1] / 2)
    assert low < 2 < high


def test_the_interval_is_that_of_an_enumeration_of_all_resamples():
    # The median of eight draws out of eight values is at most the mean of two neighbours as often as counting says: all
    # 6 435 multisets of eight, each as often as its permutations.
    values = np.array([1.0, 2.0, 4.0, 7.0, 11.0, 16.0, 22.0, 29.0])
    multisets = list(itertools.combinations_with_replacement(range(8), 8))
    medians = np.array([np.median(values[list(chosen)]) for chosen in multisets])
    counts = np.array([math.factorial(8) / math.prod(map(math.factorial, np.bincount(c))) for c in multisets]) / 8**8
    assert counts.sum() == pytest.approx(1)
    order = np.argsort(medians)
    cumulated = counts[order].cumsum()
    low, high = ratio_spread(values, np.ones(8))
    assert low in medians[order][np.abs(cumulated - 0.025) < 0.006]
    assert high in medians[order][np.abs(cumulated - 0.975) < 0.006]


@pytest.mark.parametrize("seeds", [8, 10])
def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says(seeds):
    random = np.random.default_rng(3)
    covered = []
    for _ in range(100):
        shared = random.normal(0, 0.2, seeds)  # what seed k of both arms has in common
        uniform, arm = (np.exp(x + shared + random.normal(0, 0.1, seeds)) for x in (math.log(3), 0))
        low, high = ratio_spread(uniform, arm)
        covered.append(low <= 3 <= high)
    assert 0.88 < np.mean(covered) <= 1


def test_five_seeds_range_covers_the_median_of_their_ratios_as_often_as_counting_says():
    # The median lies outside the range of five only if all five lie on one side of it: 1 − 2/2⁵ = 0.94.
    random = np.random.default_rng(4)
    covered = [
        low <= 3 <= high for low, high in (ratio_spread(3 * random.lognormal(size=5), np.ones(5)) for _ in range(2000))
    ]
    assert np.mean(covered) == pytest.approx(0.9375, abs=0.02)


def test_resamples_in_which_both_medians_are_infinite_are_counted():
    # One run in ten never arrives: both medians are infinite in almost no resample, and the interval is finite.
    finite = np.linspace(1, 2, 10)
    one, four = finite.copy(), finite.copy()
    one[0], four[:4] = INF, INF
    low, high = ratio_spread(3 * one, one)
    assert (low, high) == (pytest.approx(3, rel=0.7), pytest.approx(3, rel=0.7)) and np.isfinite([low, high]).all()
    # Four in ten: both medians are infinite in more than one resample in forty, so there is no interval.
    assert np.isnan(ratio_spread(3 * four, four)).all()


def test_an_arm_that_half_the_time_does_not_arrive_has_a_lower_end_of_nothing():
    uniform, arm = np.full(10, 10.0), np.full(10, 5.0)
    arm[:4] = INF
    assert ratio_spread(uniform, arm) == (0, 2)
    assert ratio_spread(arm, uniform) == (0.5, INF)


def test_mean_of_few_and_of_many():
    assert mean_spread([1, 5, 3]) == (1, 5)
    assert np.isnan(mean_spread([1])).all() and np.isnan(mean_spread([])).all()
    assert mean_spread(np.full(9, 2.0)) == (2, 2)
    values = np.random.default_rng(5).normal(size=40)
    low, high = mean_spread(values)
    half = 1.96 * values.std() / math.sqrt(40)
    assert (low, high) == (pytest.approx(values.mean() - half, abs=0.05), pytest.approx(values.mean() + half, abs=0.05))


def test_the_same_costs_give_the_same_spread():
    costs = np.random.default_rng(6).lognormal(size=(2, 12))
    assert ratio_spread(*costs) == ratio_spread(*costs)
