"""A few steps of RAIS on made-up numbers, so that a run's clock times training alone."""

from __future__ import annotations

import torch

from rais.gain import Adaptive, FromParts, Minibatch
from rais.gradnorm import softmax_cross_entropy_norm
from rais.sampling import RAIS

STEPS = 32  # a first pass, the first solve, and more


def practise() -> None:
    """Compile or load every loop of the CPU step (compiled.py): half a second of each process, or more.

    To be called before the clock starts: nothing else that is loaded, torch included, is timed either.
    """
    sampler = RAIS(n=64, m=8, seed=0, visits=32)
    ratio = Adaptive(FromParts([torch.zeros(1, requires_grad=True)], m=8))
    logits, labels = torch.arange(80.0).view(8, 10), torch.arange(8)
    for _ in range(STEPS):
        draw = sampler.draw()
        norm = softmax_cross_entropy_norm(logits, labels)
        sampler.observe(draw, norm)
        ratio.update(Minibatch(draw, norm, norm))
