"""LeNet-5 with ReLU and max-pooling: 6 and 16 feature maps, then 120 and 84 hidden units.

The poster trains LeNet-5 on MNIST [seen]; ReLU and max-pooling in place of the original's saturating units
and averages are this project's choice [ours]. It returns logits, from one 28×28 or 32×32 image of any
number of channels each. Dropout and batch normalisation are off unless asked for [ours].
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from rais.batch_norm import WeightedBatchNorm2d
from rais.paper.models.dropout import dropout_or_nothing

PADDING = {28: 2, 32: 0}  # of the first convolution, by input size: both give 28×28 feature maps


class LeNet5(nn.Module):
    """Map x, float (m, channels, size, size), to logits (m, classes).

    For one channel and ten classes it has 61 706 parameters.

    Args:
        dropout: probability in [0, 1) of a hidden unit of the two linear layers to be dropped.
        batch_norm: whether convolutions are normalised, by importance weights where they are given; 44 parameters
            more.

    Raises ValueError where `size` is neither 28 nor 32, or `dropout` is out of range.
    """

    def __init__(
        self, *, channels: int, classes: int, size: int, dropout: float = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        if size not in PADDING:
            raise ValueError(f"lenet5 takes 28x28 or 32x32 pixels, not {size}x{size}: resize the images")
        self.conv1 = nn.Conv2d(channels, 6, kernel_size=5, padding=PADDING[size])
        self.norm1 = WeightedBatchNorm2d(6) if batch_norm else nn.Identity()
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.norm2 = WeightedBatchNorm2d(16) if batch_norm else nn.Identity()
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.drop1 = dropout_or_nothing(dropout)
        self.fc2 = nn.Linear(120, 84)
        self.drop2 = dropout_or_nothing(dropout)
        self.fc3 = nn.Linear(84, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)  # (m, 6, 14, 14)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)  # (m, 16, 5, 5)
        x = self.drop1(F.relu(self.fc1(x.flatten(1))))
        return self.fc3(self.drop2(F.relu(self.fc2(x))))
