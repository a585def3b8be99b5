"""Which examples get drawn, kept along a run for figure 5.

It counts the draws made with importance (those of weight 1 in the uniform phase tell nothing), and measures the
loss-layer norms of a fixed random part of the training set. All of it goes into `examples.npz` beside the record,
written anew at every evaluation, with the images that were drawn least and most: a figure needs no data.

| array    | shape        | meaning                                                                       |
|----------|--------------|-------------------------------------------------------------------------------|
| drawn    | (n,)         | int32, draws of each example with importance                                  |
| labels   | (n,)         | int32                                                                         |
| epoch    | (evals,)     | float32, examples used / n                                                    |
| norms    | (evals, K)   | float32, loss-layer norms of the same K random examples                       |
| index    | (2k,)        | int32, the k least and then the k most often drawn, rarest and oftenest first |
| images   | (2k, c, h, w)| uint8                                                                         |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rais import rng
from rais.gradnorm import softmax_cross_entropy_norm
from rais.sampling import Draw

if TYPE_CHECKING:
    from rais.paper.records.write import Record
    from rais.paper.training.parts import Parts

SHOWN = 24  # images at each end
MEASURED = 2_000


class Trace:
    """Counts of a run on the data of `parts`, and the norms measured so far."""

    def __init__(self, parts: Parts) -> None:
        n, device = len(parts.data.train), parts.device
        self.drawn = torch.zeros(n, dtype=torch.int32, device=device)
        self.order = torch.randperm(n, generator=rng.generator(0, "evaluation", device), device=device)
        self.epochs: list[float] = []
        self.norms: list[Tensor] = []

    def count(self, draw: Draw) -> None:
        """Take in a minibatch: each draw whose weight is not exactly 1."""
        self.drawn.index_add_(0, draw.index, (draw.weight != 1).to(torch.int32))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that was counted and measured so far."""
        return {"drawn": self.drawn.clone(), "epochs": list(self.epochs), "norms": list(self.norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken."""
        self.drawn.copy_(state["drawn"])
        self.epochs, self.norms = list(state["epochs"]), list(state["norms"])

    def write(self, parts: Parts, record: Record, *, epoch: float) -> None:
        """Measure norms at the current parameters and write everything kept so far."""
        split = parts.data.train
        self.epochs.append(epoch)
        self.norms.append(loss_layer_norms(parts, self.order[:MEASURED]).cpu())
        # Among equally often drawn examples, and most are never drawn, a random choice.
        ranked = self.order[self.drawn[self.order].argsort(stable=True)]
        shown = torch.cat([ranked[:SHOWN], ranked[-SHOWN:].flip(0)])
        record.write_examples(
            {
                "drawn": self.drawn.cpu().numpy(),
                "labels": split.labels.to(torch.int16).cpu().numpy(),
                "epoch": torch.tensor(self.epochs, dtype=torch.float64).numpy(),
                "norms": torch.stack(self.norms).numpy(),
                "index": shown.cpu().numpy(),
                "images": split.images[shown].cpu().numpy(),
            }
        )


@torch.no_grad()
def loss_layer_norms(parts: Parts, index: Tensor) -> Tensor:
    """‖softmax(z_i) − y_i‖₂ of the training examples `index` (k,), float32, without augmentation, the model as it is
    used for evaluation."""
    was_training = parts.model.training
    parts.model.eval()
    batches = (parts.data.train.batch(i) for i in index.split(500))
    norms = torch.cat([softmax_cross_entropy_norm(parts.model(x), y) for x, y in batches])
    parts.model.train(was_training)
    return norms
