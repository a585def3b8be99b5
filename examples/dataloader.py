"""RAIS with a DataLoader: transforms, workers and collate functions stay as they are.

python examples/dataloader.py                      # digits, a few seconds
RAIS_DATA=… python examples/dataloader.py --mnist  # a folder with MNIST/raw
"""

from __future__ import annotations

import common
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import rais


def main(mnist: bool, epochs: float, uniform: bool) -> float:
    x, y, *test = common.data(mnist)
    n, m = len(x), 32
    model = common.network(x.shape[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=2.5e-4)
    sampler = rais.Uniform(n, m, seed=0) if uniform else rais.RAIS(n, m, seed=0)

    loader = rais.Loader(TensorDataset(x, y), sampler, num_workers=2, persistent_workers=True)
    engine = rais.Engine(optimizer, loader, scheduler=common.schedule, budget=epochs * n / m)
    while not engine.is_done:
        for draw, (inputs, labels) in loader:  # as many examples as an epoch has
            out = model(inputs)
            engine.backward(draw, cross_entropy(out, labels, reduction="none"), out)
            engine.step()
        used = engine.iteration * m / n
        text = f"{used:6.2f} epochs of examples  {engine.t * m / n:6.2f} equivalent  r {engine.ratio.item():.2f}"
        loss = common.report(model, x, y, *test, text)
    return loss


if __name__ == "__main__":
    main(**vars(common.arguments(__doc__.splitlines()[0])))
