"""Z2CNN, the baseline of Cohen and Welling (2016) for rotated MNIST: seven convolutions and nothing else.

Layers, dropout rate and its places are those of the authors' published Chainer code [seen]; that RAIS's
experiment on rotated MNIST used this network is [recalled]. Initialisation and the constants of batch
normalisation are torch's [ours].
"""

from __future__ import annotations

from torch import Tensor, nn

from rais.batch_norm import WeightedBatchNorm2d
from rais.paper.models.dropout import dropout_or_nothing

SIZE = 28
MAPS = 20


class Z2CNN(nn.Module):
    """Map x, float (m, channels, 28, 28), to logits (m, classes).

    Six layers of 20 unpadded 3×3 convolutions, batch normalisation and ReLU, a 2×2 max-pooling after the second,
    then one 4×4 convolution that covers what is left. Dropout follows every hidden layer but the second.
    For one channel and ten classes it has 21 750 parameters, 21 510 without batch normalisation.

    Args:
        dropout: probability in [0, 1) of a hidden number to be dropped.
        batch_norm: whether hidden layers are normalised, by importance weights where they are given.

    Raises ValueError where `size` is not 28 or `dropout` is out of range.
    """

    def __init__(
        self, *, channels: int, classes: int, size: int, dropout: float = 0.3, batch_norm: bool = True
    ) -> None:
        super().__init__()
        if size != SIZE:
            raise ValueError(f"z2cnn takes {SIZE}x{SIZE} pixels, not {size}x{size}: resize the images")

        def hidden(in_maps: int) -> list[nn.Module]:
            norm = [WeightedBatchNorm2d(MAPS)] if batch_norm else []
            return [nn.Conv2d(in_maps, MAPS, kernel_size=3), *norm, nn.ReLU()]

        layers = [*hidden(channels), dropout_or_nothing(dropout), *hidden(MAPS), nn.MaxPool2d(2)]  # (m, 20, 12, 12)
        for _ in range(4):
            layers += [*hidden(MAPS), dropout_or_nothing(dropout)]
        self.hidden = nn.Sequential(*layers)  # (m, 20, 4, 4)
        self.top = nn.Conv2d(MAPS, classes, kernel_size=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.top(self.hidden(x)).flatten(1)
