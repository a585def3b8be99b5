"""RAIS with the Hugging Face Trainer: its training_step makes the whole step, and leaves it no gradient to step with.

python examples/with_transformers.py
"""

from __future__ import annotations

import tempfile

import common
import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import rais


class Trainer(transformers.Trainer):
    """Trains with `loader`'s draws until t̂ has reached `budget`."""

    def __init__(self, *args: object, loader: rais.Loader, budget: float, **settings: object) -> None:
        super().__init__(*args, **settings)
        self.loader, self.budget, self.engine = loader, budget, None

    def get_train_dataloader(self) -> rais.Loader:
        return self.loader

    def training_step(self, model: nn.Module, inputs: tuple, num_items_in_batch: object = None) -> Tensor:
        if self.engine is None:  # the optimizer is ready only now
            self.engine = rais.Engine(self.optimizer, self.loader, scheduler=common.schedule, budget=self.budget)
        draw, (x, y) = inputs
        out = model(x)
        loss = self.engine.loss(draw, cross_entropy(out, y, reduction="none"), out)
        self.accelerator.backward(loss)
        self.engine.step()
        self.control.should_training_stop = self.engine.is_done
        return loss.detach()


def main(mnist: bool, epochs: float, uniform: bool) -> float:
    x, y, *test = common.data(mnist)
    n, m = len(x), 32
    sampler = rais.Uniform(n, m, seed=0) if uniform else rais.RAIS(n, m, seed=0)
    model = common.network(x.shape[-1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=2.5e-4)
    optimizers = optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    folder = tempfile.gettempdir()
    settings = transformers.TrainingArguments(folder, num_train_epochs=epochs, use_cpu=True, report_to="none")
    loader = rais.Loader(TensorDataset(x, y), sampler)
    trainer = Trainer(model, settings, loader=loader, budget=epochs * n / m, optimizers=optimizers)
    trainer.train()
    return common.report(model, x, y, *test, f"{trainer.engine.iteration * m / n:6.2f} epochs of examples")


if __name__ == "__main__":
    main(**vars(common.arguments(__doc__.splitlines()[0])))
