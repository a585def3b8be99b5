"""A small convolutional network without normalisation: three 3×3 convolutions, then one hidden layer.

It is this project's own [ours], for a part of CIFAR-10 on a CPU: quick enough for one core, and able to fit
its training set. With no normalisation and no dropout, every example has a gradient of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

SIZES = (28, 32)


class SmallCNN(nn.Module):
    """Map x, float (m, channels, size, size), to logits (m, classes).

    Three convolutions, each followed by ReLU and 2×2 max-pooling, then the hidden layer. For CIFAR-10 it has
    620 362 parameters as it is by default.

    Args:
        maps: feature maps of the three convolutions.
        hidden: units of the hidden layer.

    Raises:
        ValueError: `size` is neither 28 nor 32, `maps` are not three, or a count is below 1.
    """

    def __init__(
        self, *, channels: int, classes: int, size: int, maps: Sequence[int] = (32, 64, 128), hidden: int = 256
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"small_cnn takes 28x28 or 32x32 pixels, not {size}x{size}: resize the images")
        if len(maps) != 3 or min(*maps, hidden) < 1:
            raise ValueError(f"maps={list(maps)} and hidden={hidden}: give three numbers of maps, all 1 or more")
        first, second, third = maps
        self.conv1 = nn.Conv2d(channels, first, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(first, second, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(second, third, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(third * (size // 8) ** 2, hidden)
        self.fc2 = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        # ReLU after the pooling gives the same values for a quarter of the work.
        x = F.relu(F.max_pool2d(self.conv1(x), 2))  # (m, first, size/2, size/2)
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # (m, second, size/4, size/4)
        x = F.relu(F.max_pool2d(self.conv3(x), 2))  # (m, third, size/8, size/8)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))
