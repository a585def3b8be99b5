"""Norms of softmax cross-entropies with labels alone as one compiled loop, for the CPU; see compiled.py."""

from __future__ import annotations

import math

import numpy as np

from rais.compiled import Array, loop


@loop
def label_norms(logits: Array, target: Array, ignore_index: int) -> tuple[Array, bool]:
    """‖softmax(z_i) − y_i‖ (b,) from logits (b, C) and target (b,), and whether a label was none.
    [derived, docs/derivations.md: loss-layer norm]"""
    classes = logits.shape[1]
    out = np.empty(len(logits), logits.dtype)
    for i in range(len(logits)):
        y = target[i]
        if y == ignore_index:
            out[i] = 0.0
            continue
        if y < 0 or y >= classes:
            return out, True
        top = np.float64(logits[i].max())
        total = others = square = 0.0
        for k in range(classes):
            p = math.exp(logits[i, k] - top)
            total += p
            if k != y:
                others += p
                square += p * p
        out[i] = math.sqrt(square + others * others) / total
    return out, False
