"""LeNet-5 with ReLU and max-pooling: 6 and 16 feature maps, then 120 and 84 hidden units.

The poster trains LeNet-5 on MNIST [seen]; ReLU and max-pooling in place of the original's saturating units
and averages are this project's choice [ours]. It returns logits, from one 28×28 or 32×32 image of any
number of channels each.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

PADDING = {28: 2, 32: 0}  # of the first convolution, by input size: both give 28×28 feature maps


class LeNet5(nn.Module):
    """Map x, float (m, channels, size, size), to logits (m, classes).

    For one channel and ten classes it has 61 706 parameters. Raises ValueError where `size` is neither 28
    nor 32.
    """

    def __init__(self, *, channels: int, classes: int, size: int) -> None:
        super().__init__()
        if size not in PADDING:
            raise ValueError(f"lenet5 takes 28x28 or 32x32 pixels, not {size}x{size}: resize the images")
        self.conv1 = nn.Conv2d(channels, 6, kernel_size=5, padding=PADDING[size])
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)  # (m, 6, 14, 14)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)  # (m, 16, 5, 5)
        x = F.relu(self.fc1(x.flatten(1)))
        return self.fc3(F.relu(self.fc2(x)))
