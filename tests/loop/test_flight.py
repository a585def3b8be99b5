"""Draws in flight are the sampler's own: what a loop does to the tensors it was handed changes none of them."""

from __future__ import annotations

import torch

from rais import RAIS
from rais.loop.flight import Flight
from rais.sampling.side import Side


def test_writing_into_a_draw_leaves_the_one_in_flight_as_it_was() -> None:
    sampler = RAIS(100, 10, visits=50, side=Side(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])), seed=0)
    flight = Flight()
    draw = flight.next(sampler)
    before = draw.index.clone(), draw.weight.clone(), draw.side.clone()
    for tensor in (draw.index, draw.weight, draw.side):
        tensor.fill_(7)
    kept = flight.whole(draw)
    assert torch.equal(kept.index, before[0]) and torch.equal(kept.weight, before[1])
    assert torch.equal(kept.side, before[2])
    flight.begin_loop()
    again = flight.next(sampler)
    again.side.fill_(7)
    assert torch.equal(flight.whole(again).side, before[2])
