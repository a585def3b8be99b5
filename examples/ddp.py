"""RAIS with DistributedDataParallel: the same loop, and m is the minibatch of all ranks together.

torchrun --nproc-per-node 2 examples/ddp.py
"""

from __future__ import annotations

import common
import torch
import torch.distributed as dist
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import TensorDataset

import rais


def main(mnist: bool, epochs: float, uniform: bool) -> float:
    dist.init_process_group("gloo")
    x, y, *test = common.data(mnist)
    n, m = len(x), 32
    model = DistributedDataParallel(common.network(x.shape[-1]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=2.5e-4)
    sampler = rais.Uniform(n, m, seed=0) if uniform else rais.RAIS(n, m, seed=0)  # the same seed on every rank

    loader = rais.Loader(TensorDataset(x, y), sampler, group=dist.group.WORLD)
    engine = rais.Engine(optimizer, loader, scheduler=common.schedule, budget=epochs * n / m)
    while not engine.is_done:
        for draw, (inputs, labels) in loader:  # this rank's part of each minibatch
            out = model(inputs)
            engine.backward(draw, cross_entropy(out, labels, reduction="none"), out)
            engine.step()
        if dist.get_rank() == 0:
            used = engine.iteration * m / n
            text = f"{used:6.2f} epochs of examples  {engine.t * m / n:6.2f} equivalent  r {engine.ratio.item():.2f}"
            common.report(model.module, x, y, *test, text)
    loss = common.report(model.module, x, y, *test, f"rank {dist.get_rank()} of {dist.get_world_size()}:")
    dist.destroy_process_group()
    return loss


if __name__ == "__main__":
    main(**vars(common.arguments(__doc__.splitlines()[0])))
