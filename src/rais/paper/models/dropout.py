"""Dropout from a named generator, so that its masks are a function of the seed alone.

nn.Dropout draws from torch's global generator, which belongs to nobody: two methods with the same seed would see
masks that depend on what else was drawn. Each layer here has a stream named after its place in the model, on
whatever device its input is, and its position in that stream is part of the model's state_dict.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rais import rng


class Dropout(nn.Module):
    """In training mode each number of x is 0 with probability `p`, otherwise multiplied by 1/(1 − p); in eval mode,
    and where p is 0, x itself.

    As nn.Dropout but for the source of randomness, the stream that `seed` names. The generator is made at the
    first use on a device; a model that moves to another kind of device starts that device's stream from its
    beginning.

    Raises:
        ValueError: p is not in [0, 1).
        RuntimeError: a mask is needed, but `seed` was never called.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout={p} is out of range: it must be in [0, 1)")
        self.p = p
        self._stream: tuple[int, str] | None = None
        self._generator: torch.Generator | None = None
        self._position: tuple[str, Tensor] | None = None  # kind of device and generator state, from a state_dict

    def seed(self, seed: int, name: str) -> None:
        """Start the stream (seed, name) from its beginning."""
        self._stream, self._generator, self._position = (seed, name), None, None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        kept = torch.empty_like(x).bernoulli_(1 - self.p, generator=self._generator_on(x.device))
        return x * kept.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def _generator_on(self, device: torch.device) -> torch.Generator:
        if self._stream is None:
            raise RuntimeError("dropout has no seed: make the model with models.build, or call seed_dropout on it")
        if self._generator is None or self._generator.device != device:
            self._generator = rng.generator(*self._stream, device)
            if self._position is not None and self._position[0] == device.type:
                self._generator.set_state(self._position[1])
            self._position = None
        return self._generator

    def get_extra_state(self) -> dict[str, Any]:
        position = self._position
        if self._generator is not None:
            position = (self._generator.device.type, self._generator.get_state())
        return {"stream": self._stream, "position": position}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._stream, self._generator, self._position = state["stream"], None, state["position"]


def dropout_or_nothing(p: float) -> nn.Module:
    """Dropout(p); where p is 0 an nn.Identity, which adds nothing to the model's state_dict."""
    return Dropout(p) if p != 0 else nn.Identity()


def seed_dropout(model: nn.Module, seed: int) -> None:
    """Seed every Dropout of `model` from (seed, "dropout/<its name in the model>")."""
    for name, module in model.named_modules():
        if isinstance(module, Dropout):
            module.seed(seed, f"dropout/{name}")
