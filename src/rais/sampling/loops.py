"""The sampler's work for a round of minibatches as compiled loops, for the CPU; see compiled.py.

Each function does what the tensor operations of its namesake do. All numbers are added up in float64.

| code                | namesake               | shapes                                                            |
|---------------------|------------------------|-------------------------------------------------------------------|
| sample              | Categorical.sample     | u (3, m); tops, blocks, table as there; result (m,) int64         |
| set_weights         | Categorical.set        | index, weight (k,)                                                |
| visit               | Features.update        | index, norm (k,); results before, after (q, k)                    |
| copied              | base.checked           | norm (m,); results a float32 copy, its smallest and largest       |
| mean_of_repeats     | base.mean_of_repeats   | index, value (m,); results distinct, where, mean                  |
"""

from __future__ import annotations

import numpy as np

from rais.compiled import Array, loop

BRANCH = 64


@loop
def sample(n: int, u: Array, tops: Array, blocks: Array, table: Array) -> Array:
    cumulative = np.cumsum(tops)
    chosen = np.empty(u.shape[1], np.int64)
    for j in range(u.shape[1]):
        top = min(np.searchsorted(cumulative, u[0, j] * cumulative[-1], side="right"), len(cumulative) - 1)
        block = _child(blocks, top, u[1, j] * tops[top])
        chosen[j] = min(_child(table, block, u[2, j] * blocks[block]), n - 1)
    return chosen


@loop
def _child(weights: Array, parent: int, target: float) -> int:
    """The first of the 64 children that lifts the sum above `target`; after rounding, the last of any weight."""
    begin, total, last = parent * BRANCH, 0.0, parent * BRANCH
    for k in range(begin, begin + BRANCH):
        total += weights[k]
        if total > target:
            return k
        if weights[k] > 0:
            last = k
    return last


@loop
def set_weights(table: Array, blocks: Array, tops: Array, index: Array, weight: Array) -> None:
    for j in range(len(index)):
        table[index[j]] = weight[j]
    for j in range(len(index)):
        block = index[j] // BRANCH
        blocks[block] = _sum_of_children(table, block)
    for j in range(len(index)):
        top = index[j] // BRANCH // BRANCH
        tops[top] = _sum_of_children(blocks, top)


@loop
def _sum_of_children(weights: Array, parent: int) -> float:
    begin, total = parent * BRANCH, 0.0
    for k in range(begin, begin + BRANCH):
        total += weights[k]
    return total


@loop
def mean_of_repeats(index: Array, value: Array) -> tuple[Array, Array, Array]:
    order = np.argsort(index, kind="mergesort")
    distinct, where, mean = np.empty_like(index), np.empty_like(index), np.empty(len(index))
    k = -1
    for j in order:
        if k < 0 or index[j] != distinct[k]:
            k += 1
            distinct[k], mean[k] = index[j], 0.0
        mean[k] += value[j]
        where[j] = k
    counts = np.zeros(k + 1, np.int64)
    for j in range(len(index)):
        counts[where[j]] += 1
    return distinct[: k + 1], where, mean[: k + 1] / counts


@loop
def copied(norm: Array) -> tuple[Array, float, float]:
    copy, low, high = np.empty(len(norm), np.float32), np.inf, -np.inf
    for j in range(len(norm)):
        copy[j] = norm[j]
        low, high = min(low, norm[j]), max(high, norm[j])
        if norm[j] != norm[j]:
            return copy, np.nan, np.nan
    return copy, low, high


@loop
def features_of(past: Array, count: int, fixed: Array, every: Array) -> None:
    """All features of one example, (11 + fixed,): means over 1, 2, 4, 8, 16 norms, variances and deviations, `fixed`.

    Centred on the newest norm, so that nearly equal norms lose no digits. [features recalled]"""
    newest = np.float64(past[0])
    total = square = 0.0
    age = 0
    for w in range(5):
        end = min(count, 1 << w)
        while age < end:
            x = past[age] - newest
            total += x
            square += x * x
            age += 1
        share = 1.0 / max(end, 1)
        offset = total * share
        every[w] = newest + offset
        if w >= 2:
            every[w + 3] = max(square * share - offset * offset, 0.0)
            every[w + 6] = np.sqrt(every[w + 3])
    for j in range(len(fixed)):
        every[11 + j] = fixed[j]


@loop
def visit(
    position: int,
    past: Array,
    count: Array,
    fixed: Array,
    columns: Array,
    index: Array,
    norm: Array,
    total: Array,
    next_total: Array,
    before: Array,
    after: Array,
) -> None:
    every = np.empty(11 + len(fixed))
    for j in range(len(index)):
        i = index[j]
        features_of(past[i], count[i], fixed, every)
        for k in range(len(columns)):
            before[k, j] = every[columns[k]]
        for age in range(15, 0, -1):
            past[i, age] = past[i, age - 1]
        past[i, 0] = norm[j]
        count[i] = min(count[i] + 1, 16)
        features_of(past[i], count[i], fixed, every)
        for k in range(len(columns)):
            after[k, j] = every[columns[k]]
            change = np.float64(after[k, j]) - np.float64(before[k, j])
            total[k] += change
            if i < position:
                next_total[k] += change
