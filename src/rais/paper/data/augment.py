"""Random crops, flips and rotations of a whole minibatch, on its device.

Every kind draws from a stream of its own, so that switching one off leaves the others' numbers unchanged. The size of
a crop's offset can be chosen from outside: it is a feature of RAIS, which draws it together with the example.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("crop", "flip", "rotate")


class Augment:
    """Crop after zero padding, then flip, then rotate, each example by itself.

    | kind   | what is drawn                                                                        |
    |--------|--------------------------------------------------------------------------------------|
    | crop   | dx, dy uniform in −crop … crop, independently: pixels by which the window is moved   |
    | flip   | left and right exchanged with probability 1/2                                        |
    | rotate | an angle uniform in ±`rotate` degrees, bilinear, zeros outside                       |

    The pad-4 crop and the flip on CIFAR are the paper's [recalled]. `sizes` (K,) float32 holds the distinct sizes
    hypot(dx, dy) / crop of an offset in increasing order, sizes[0] = 0; `shares` (K,) float64 their probabilities
    under uniform offsets, Σ shares = 1. Without crops both have one entry, 0 and 1.

    Args:
        crop: pixels of padding on each side, ≥ 0; 0 switches crops off.
        flip: whether to flip.
        rotate: largest angle in degrees, 0 ≤ rotate ≤ 180; 0 switches rotations off.
        generator: from the name of a stream, "augmentation/crop" and so on, to its generator, as
            `partial(rng.generator, seed, device=device)` is; the generators' device is that of the batches.

    Raises:
        ValueError: crop or rotate out of range.
        TypeError: crop is no integer.
    """

    def __init__(
        self, *, crop: int = 0, flip: bool = False, rotate: float = 0.0, generator: Callable[[str], torch.Generator]
    ) -> None:
        if operator.index(crop) < 0:
            raise ValueError(f"crop={crop} is out of range: give the pixels of padding, 0 or more")
        if not 0 <= rotate <= 180:
            raise ValueError(f"rotate={rotate} is out of range: give the largest angle in degrees, 0 to 180")
        self.crop, self.flip, self.rotate = crop, flip, rotate
        self._generators = {kind: generator(f"augmentation/{kind}") for kind in KINDS}
        self._tabulate_offsets()

    def _tabulate_offsets(self) -> None:
        """List all offsets by their size: those of size k are at first[k] … first[k] + count[k] − 1."""
        device = self._generators["crop"].device
        steps = torch.arange(-self.crop, self.crop + 1, device=device)
        offsets = torch.cartesian_prod(steps, steps)  # ((2·crop + 1)², 2): dy, dx
        squared = offsets.square().sum(1)
        distinct, count = squared.unique(return_counts=True)  # sorted
        self._offsets, self._count = offsets[squared.argsort(stable=True)], count
        self._first = count.cumsum(0) - count
        self.sizes = (distinct.double().sqrt() / max(self.crop, 1)).float()
        self.shares = count.double() / len(offsets)

    def __call__(self, x: Tensor, side: Tensor | None = None) -> Tensor:
        """Return images x, float32 (m, channels, height, width), each one augmented, as a new tensor or x itself.

        `side` (m,) int64 gives for each example the index into `sizes` of the size of its offset, which then is
        uniform among the offsets of that size; None draws uniformly among all. Nothing is awaited from a GPU.
        Raises ValueError where x or `side` has another shape or type or the crop is not smaller than the images, and
        on the CPU IndexError or RuntimeError where a `side` lies outside 0..K-1; a GPU asserts instead.
        """
        if x.dtype != torch.float32 or x.dim() != 4:
            raise ValueError(
                f"images must be float32 (m, channels, height, width), got {x.dtype} of shape {tuple(x.shape)}"
            )
        if side is not None and (side.dtype != torch.int64 or side.shape != x.shape[:1]):
            raise ValueError(
                f"side must be int64 of shape ({len(x)},), got {side.dtype} of shape {tuple(side.shape)}: give one "
                "index into `sizes` per example"
            )
        if self.crop >= min(x.shape[2:]):
            raise ValueError(f"crop={self.crop} leaves nothing of images of {x.shape[2]}x{x.shape[3]} pixels: lower it")
        if self.crop:
            x = _shift(x, self._draw_offsets(len(x), side), self.crop)
        if self.flip:
            x = torch.where(self._uniform("flip", len(x))[:, None, None, None] < 0.5, x.flip(3), x)
        if self.rotate:
            x = _turn(x, (2 * self._uniform("rotate", len(x)) - 1) * math.radians(self.rotate))
        return x

    def _draw_offsets(self, m: int, side: Tensor | None) -> Tensor:
        """Return offsets dy, dx (m, 2), int64; one random number each, with and without `side`."""
        u = self._uniform("crop", m)
        if side is None:
            return self._offsets[(u * len(self._offsets)).long()]
        first, count = self._first.index_select(0, side), self._count.index_select(0, side)
        return self._offsets[first + (u * count).long()]

    def _uniform(self, kind: str, m: int) -> Tensor:
        generator = self._generators[kind]
        return torch.rand(m, dtype=torch.float64, generator=generator, device=generator.device)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every stream."""
        return {kind: generator.get_state() for kind, generator in self._generators.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where `state` was taken. Raises ValueError where it has other entries."""
        if set(state) != set(KINDS):
            raise ValueError(f"this state has the entries {sorted(state)}, augmentation needs {sorted(KINDS)}")
        for kind, generator in self._generators.items():
            generator.set_state(state[kind].cpu())


def _shift(x: Tensor, offsets: Tensor, crop: int) -> Tensor:
    """Return windows of x, padded with `crop` zeros on each side, that are `offsets` (m, 2) = dy, dx off its centre."""
    m, _, height, width = x.shape
    windows = F.pad(x, [crop] * 4).unfold(2, height, 1).unfold(3, width, 1)  # (m, c, 2·crop+1, 2·crop+1, h, w), a view
    dy, dx = (offsets + crop).unbind(1)
    return windows[torch.arange(m, device=x.device), :, dy, dx]


def _turn(x: Tensor, angles: Tensor) -> Tensor:
    """Return images x turned anticlockwise about their centres by `angles` (m,), float64, in radians."""
    height, width = x.shape[2:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # affine_grid's coordinates run from -1 to 1 along both axes: hence the ratios where an image is not square.
    rows = (cos, -sin * (height / width), zero), (sin * (width / height), cos, zero)
    maps = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1).float()  # (m, 2, 3), from output to input
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
