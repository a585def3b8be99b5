"""Pre-activation ResNets for small images: stages of residual blocks, the first stage at full size.

Normalisation and ReLU come before each convolution, and a block's input reaches its output through nothing but
additions (He et al. 2016) [recalled]; the form for 32×32 images has a 3×3 stem without pooling [recalled]. Its
batch normalisation takes importance weights, see `rais.batch_norm`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from rais.batch_norm import WeightedBatchNorm2d

SIZES = (28, 32)


class PreActBlock(nn.Module):
    """Map x (m, in_maps, s, s) to (m, out_maps, s/stride, s/stride), s/stride rounded up.

    If the shapes differ, the shortcut is a 1×1 convolution of the pre-activated input, without normalisation.
    """

    def __init__(self, in_maps: int, out_maps: int, stride: int) -> None:
        super().__init__()
        self.norm1 = WeightedBatchNorm2d(in_maps)
        self.conv1 = nn.Conv2d(in_maps, out_maps, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm2 = WeightedBatchNorm2d(out_maps)
        self.conv2 = nn.Conv2d(out_maps, out_maps, kernel_size=3, padding=1, bias=False)
        changes_shape = stride != 1 or in_maps != out_maps
        self.shortcut = nn.Conv2d(in_maps, out_maps, 1, stride=stride, bias=False) if changes_shape else None

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.norm1(x))
        residual = self.conv2(F.relu(self.norm2(self.conv1(activated))))
        return residual + (x if self.shortcut is None else self.shortcut(activated))


class PreActResNet(nn.Module):
    """Map x, float (m, channels, size, size), to logits (m, classes).

    As it is by default this is ResNet-18. For CIFAR-10 it has 11 172 170 parameters; 1 024 of them are the last
    normalisation's, which some published versions leave out. With `widths` 16, 32, 64 and one block a stage it is
    ResNet-8, of 77 850 parameters. Convolutions start from normal numbers of variance 2/(outputs · kernel area)
    (He et al. 2015) [recalled].

    Args:
        widths: feature maps of each stage; each stage but the first halves the image.
        blocks: residual blocks in each stage.

    Raises:
        ValueError: `size` is neither 28 nor 32, or `widths` or `blocks` is empty or below 1.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        size: int,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: int = 2,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"preact_resnet takes 28x28 or 32x32 pixels, not {size}x{size}: resize the images")
        if not widths or min(widths) < 1 or blocks < 1:
            raise ValueError(f"widths={list(widths)} and blocks={blocks}: give at least one stage and 1 of each")
        self.stem = nn.Conv2d(channels, widths[0], kernel_size=3, padding=1, bias=False)
        layers, in_maps = [], widths[0]
        for stage, maps in enumerate(widths):
            for block in range(blocks):
                layers.append(PreActBlock(in_maps, maps, stride=2 if stage > 0 and block == 0 else 1))
                in_maps = maps
        self.blocks = nn.Sequential(*layers)
        self.norm = WeightedBatchNorm2d(in_maps)
        self.fc = nn.Linear(in_maps, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))  # ResNet-18: (m, 512, 4, 4), of 28×28 pixels too; ResNet-8: (m, 64, 8, 8)
        return self.fc(F.relu(self.norm(x)).mean((2, 3)))
