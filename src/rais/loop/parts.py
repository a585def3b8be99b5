"""Squared gradients of the parts of a minibatch, heard while the backward passes run.

Hooks on the parameters see each part's gradient before it is accumulated, averaged over ranks, unscaled or clipped.
The gradient of the whole is looked at as the last part's backward ends. So no graph is kept, and nothing depends on
what the loop does with `.grad` before or afterwards: other losses, unscaling, clipping.

| paper   | code         | shape | unit                                                            |
|---------|--------------|-------|-----------------------------------------------------------------|
| m_k     | sizes        | (k,)  | examples of part k                                              |
| ‖g_k‖²  | close()      | (k,)  | of the mean loss of part k, (1/m_k) Σ_{j∈k} weight_j ∇f_j       |
|         | factors      | (k,)  | what the part's mean loss was multiplied by before its backward |
| ‖g‖²    | whole_sq     | ()    | of the mean loss of all parts so far                            |
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rais.gain import SquaredParts, inner
from rais.loop.ranks import Ranks


class PartSquares:
    """Listens from `open` to `close`, while a backward is on, to the part that was begun last."""

    def __init__(self) -> None:
        self.handles: list[torch.utils.hooks.RemovableHandle] = []
        self.sizes: list[int] = []
        self.factors: list[float | Tensor] = []
        self.norms: list[list[Tensor]] = []
        self.before: list[Tensor | None] = []  # what `.grad` held before the first part
        self.whole_sq: Tensor | None = None
        self.is_listening = False

    @property
    def is_open(self) -> bool:
        return bool(self.handles)

    def open(self, parameters: Sequence[Tensor]) -> None:
        self.handles = [p.register_hook(self._listen) for p in parameters]

    def starts(self, parameters: Sequence[Tensor]) -> None:
        """A backward of the minibatch starts now."""
        if not self.before:
            self.before = [None if p.grad is None else p.grad.clone() for p in parameters]
        self.is_listening = True

    def ends(self, parameters: Sequence[Tensor], factor: float | Tensor) -> None:
        """It has ended; the mean loss of the minibatch was multiplied by `factor`."""
        self.is_listening = False
        own = [
            p.grad if before is None else p.grad - before
            for p, before in zip(parameters, self.before, strict=True)
            if p.grad is not None
        ]
        if own:
            self.whole_sq = inner(own, own) / factor**2

    def begin(self, size: int, factor: float | Tensor) -> None:
        """What is heard from now on is `factor` times the gradient of the mean loss of `size` examples."""
        self.sizes.append(size)
        self.factors.append(factor)
        self.norms.append([])

    def add(self, gradients: Sequence[Tensor | None]) -> None:
        """Take in gradients that no backward pass brings."""
        for gradient in gradients:
            if gradient is not None:
                self._hear(gradient)

    def _listen(self, gradient: Tensor) -> None:
        if self.is_listening:
            self._hear(gradient)

    def _hear(self, gradient: Tensor) -> None:
        values = gradient.coalesce().values() if gradient.is_sparse else gradient
        values = values.detach()
        self.norms[-1].append(torch.linalg.vector_norm(values, dtype=torch.promote_types(values.dtype, torch.float32)))

    def of_whole(self, m: int, firsts: Sequence[int], ranks: Ranks) -> SquaredParts:
        """The squares of the parts since `open`, those of all ranks, beside that of the minibatch of m that they make.
        `firsts`: where each part begins in it. Nothing is listened to any more."""
        assert self.whole_sq is not None
        whole_sq = self.whole_sq
        sizes, part_sq = self.close(whole_sq.device)
        if ranks.count > 1:
            sizes, part_sq = ranks.share_parts(m, firsts, sizes, part_sq)
            whole_sq = ranks.agreed(whole_sq)
        return SquaredParts(sizes, part_sq, whole_sq)

    def close(self, device: torch.device) -> tuple[list[int], Tensor]:
        """m_k and ‖g_k‖² (k,) float64 of the parts since `open`; nothing is listened to any more."""
        squares = []
        for norms, factor in zip(self.norms, self.factors, strict=True):
            each = torch.stack([x.to(device, torch.float64) for x in norms]) if norms else torch.zeros(1)
            squares.append((each.to(device, torch.float64) / factor).square().sum())
        sizes = self.sizes
        self.drop()
        return sizes, torch.stack(squares)

    def drop(self) -> None:
        for handle in self.handles:
            handle.remove()
        self.handles, self.sizes, self.factors, self.norms = [], [], [], []
        self.before, self.whole_sq, self.is_listening = [], None, False
