"""A small convolutional network without normalisation: three 3×3 convolutions, then one hidden layer.

It is this project's own [ours], for a part of CIFAR-10 on a CPU: quick enough for one core, and able to fit
its training set. With no normalisation and no dropout, every example has a gradient of its own.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SIZES = (28, 32)


class SmallCNN(nn.Module):
    """Map x, float (m, channels, size, size), to logits (m, classes).

    32, 64 and 128 feature maps, each followed by ReLU and 2×2 max-pooling, then 256 hidden units. For CIFAR-10
    it has 620 362 parameters. Raises ValueError where `size` is neither 28 nor 32.
    """

    def __init__(self, *, channels: int, classes: int, size: int) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"small_cnn takes 28x28 or 32x32 pixels, not {size}x{size}: resize the images")
        self.conv1 = nn.Conv2d(channels, 32, kernel_size=3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)
        self.conv3 = nn.Conv2d(64, 128, kernel_size=3, padding=1)
        self.fc1 = nn.Linear(128 * (size // 8) ** 2, 256)
        self.fc2 = nn.Linear(256, classes)

    def forward(self, x: Tensor) -> Tensor:
        # ReLU after the pooling gives the same values for a quarter of the work.
        x = F.relu(F.max_pool2d(self.conv1(x), 2))  # (m, 32, size/2, size/2)
        x = F.relu(F.max_pool2d(self.conv2(x), 2))  # (m, 64, size/4, size/4)
        x = F.relu(F.max_pool2d(self.conv3(x), 2))  # (m, 128, size/8, size/8)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))
