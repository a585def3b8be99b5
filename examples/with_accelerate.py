"""RAIS with Hugging Face Accelerate: the engine makes the loss, Accelerate its backward pass, the engine the step.

python examples/with_accelerate.py
"""

from __future__ import annotations

import common
import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import rais


def main(mnist: bool, epochs: float, uniform: bool) -> float:
    accelerator = Accelerator(cpu=True)
    x, y, *test = common.data(mnist)
    n, m = len(x), 32
    model = common.network(x.shape[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=2.5e-4)
    model = accelerator.prepare(model)  # neither the optimizer nor the loader: the engine steps, the loader shards
    sampler = rais.Uniform(n, m, seed=0) if uniform else rais.RAIS(n, m, seed=0)

    group = dist.group.WORLD if accelerator.num_processes > 1 else None
    loader = rais.Loader(TensorDataset(x, y), sampler, group=group)
    engine = rais.Engine(optimizer, loader, scheduler=common.schedule, budget=epochs * n / m)
    while not engine.is_done:
        for draw, (inputs, labels) in loader:
            with accelerator.autocast():
                out = model(inputs.to(accelerator.device))
            losses = cross_entropy(out, labels.to(accelerator.device), reduction="none")
            accelerator.backward(engine.loss(draw, losses, out))
            engine.step(scaler=accelerator.scaler)
    used = engine.iteration * m / n
    return common.report(accelerator.unwrap_model(model), x, y, *test, f"{used:6.2f} epochs of examples")


if __name__ == "__main__":
    main(**vars(common.arguments(__doc__.splitlines()[0])))
