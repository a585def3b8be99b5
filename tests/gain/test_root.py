"""√r beside r."""

from __future__ import annotations

import torch

from rais import gain
from rais.rng import generator
from rais.sampling import Draw


def test_it_is_the_root_of_the_multiplier() -> None:
    source = generator(0, "evaluation")
    w = torch.zeros(2, requires_grad=True)
    plain, root = gain.Adaptive(gain.FromParts([w], m=8)), gain.Root(gain.FromParts([w], m=8))
    for _ in range(20):
        norm = torch.rand(8, generator=source)
        batch = gain.Minibatch(Draw(torch.arange(8), 0.5 / norm, mean_norm=0.5), norm, norm)
        r = plain.update(batch)
        assert root.update(batch) == r.sqrt()
    assert r != 1
