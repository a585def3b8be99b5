"""RAIS with Lightning: manual optimisation, since the engine makes the step; everything else stays Lightning's.

python examples/with_lightning.py
"""

from __future__ import annotations

import common
import lightning
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

import rais


class Classifier(lightning.LightningModule):
    automatic_optimization = False

    def __init__(self, network: nn.Module, loader: rais.Loader, **settings) -> None:
        super().__init__()
        self.network, self.loader, self.settings = network, loader, settings

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=2.5e-4)

    def on_fit_start(self) -> None:
        self.engine = rais.Engine(self.optimizers(), self.loader, model=self.network, **self.settings)

    def training_step(self, batch: tuple) -> None:
        draw, (x, y) = batch
        self.engine.weigh(draw)  # its weights for batch normalisation: Lightning fetches batches ahead
        out = self.network(x)
        self.manual_backward(self.engine.loss(draw, cross_entropy(out, y, reduction="none"), out))
        self.engine.step()
        self.trainer.should_stop = self.engine.is_done


def main(mnist: bool, epochs: float, uniform: bool) -> float:
    x, y, *test = common.data(mnist)
    n, m = len(x), 32
    sampler = rais.Uniform(n, m, seed=0) if uniform else rais.RAIS(n, m, seed=0)
    loader = rais.Loader(TensorDataset(x, y), sampler)
    model = Classifier(common.network(x.shape[-1]), loader, scheduler=common.schedule, budget=epochs * n / m)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    lightning.Trainer(max_epochs=-1, accelerator="cpu", devices=1, **quiet).fit(model, loader)
    used = model.engine.iteration * m / n
    return common.report(model.network, x, y, *test, f"{used:6.2f} epochs of examples")


if __name__ == "__main__":
    main(**vars(common.arguments(__doc__.splitlines()[0])))
