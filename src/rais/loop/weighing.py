"""The weights of the minibatch at hand, as the weighted layers of a model see them: until its backward is over."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rais.batch_norm import Weighted
from rais.loop.minibatch import span
from rais.sampling.draw import Draw


class Weighing:
    """Hands weights to `model`; does nothing where it is None."""

    def __init__(self, model: nn.Module | None, device: torch.device) -> None:
        self.weighted = None if model is None else Weighted(model)
        self.device = device
        self.context: Any = None
        self.whose: Any = None

    def begin(self, draw: Draw) -> None:
        """From now on the layers see the weights of `draw`."""
        if self.weighted is not None:
            self.end()
            self.context = self.weighted.weights(draw.weight.to(self.device))
            self.context.__enter__()
            self.whose = span(draw)

    def end(self) -> None:
        self.whose = None
        if self.context is not None:
            self.context.__exit__(None, None, None)
            self.context = None

    def check(self, draw: Draw) -> None:
        """Refuse a forward that saw the weights of other examples.

        Raises:
            RuntimeError: they are not those of `draw`.
        """
        if self.weighted is not None and self.whose != span(draw):
            raise RuntimeError(
                "batch normalisation has the weights of other examples than these: for micro-batches, call "
                "part = engine.part(draw, i, k) right before the forward of each"
            )
