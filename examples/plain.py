"""RAIS in a plain training loop.

python examples/plain.py                      # digits, a few seconds
python examples/plain.py --uniform            # plain SGD on them
RAIS_DATA=… python examples/plain.py --mnist  # a folder with MNIST/raw
"""

from __future__ import annotations

import common
import torch
from torch.nn.functional import cross_entropy

import rais


def main(mnist: bool, epochs: float, uniform: bool) -> float:
    x, y, *test = common.data(mnist)
    n, m = len(x), 32
    model = common.network(x.shape[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=2.5e-4)
    sampler = rais.Uniform(n, m, seed=0) if uniform else rais.RAIS(n, m, seed=0)

    engine = rais.Engine(optimizer, sampler, scheduler=common.schedule)
    show_at, loss = n / m, float("nan")
    while engine.t < epochs * n / m:  # t̂, in iterations of plain SGD
        draw = engine.draw()
        out = model(x[draw.index])
        engine.backward(draw, cross_entropy(out, y[draw.index], reduction="none"), out)
        engine.step()
        if engine.t >= show_at:
            show_at += n / m
            used = engine.iteration * m / n
            text = f"{used:6.2f} epochs of examples  {engine.t * m / n:6.2f} equivalent  r {engine.ratio.item():.2f}"
            loss = common.report(model, x, y, *test, text)
    return loss


if __name__ == "__main__":
    main(**vars(common.arguments(__doc__.splitlines()[0])))
