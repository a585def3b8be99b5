"""LeNet-5 has the layers its name promises, for both input sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rais.models.lenet5 import LeNet5


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 7)])
def test_output_shape(size, channels, classes):
    model = LeNet5(channels=channels, classes=classes, size=size)
    assert model(torch.rand(5, channels, size, size)).shape == (5, classes)


def test_parameter_count_of_the_mnist_model():
    layers = [(1 * 25 + 1) * 6, (6 * 25 + 1) * 16, (400 + 1) * 120, (120 + 1) * 84, (84 + 1) * 10]
    model = LeNet5(channels=1, classes=10, size=28)
    assert sum(p.numel() for p in model.parameters()) == sum(layers) == 61_706


def test_equals_the_same_layers_written_as_a_sequence():
    model = LeNet5(channels=2, classes=4, size=28)
    conv1, conv2, fc1, fc2, fc3 = model.children()
    sequence = nn.Sequential(
        conv1, nn.ReLU(), nn.MaxPool2d(2), conv2, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        fc1, nn.ReLU(), fc2, nn.ReLU(), fc3,
    )  # fmt: skip
    x = torch.rand(3, 2, 28, 28)
    torch.testing.assert_close(model(x), sequence(x), rtol=0, atol=0)


def test_28_pixels_are_32_with_a_border_of_zeros():
    small, large = LeNet5(channels=1, classes=10, size=28), LeNet5(channels=1, classes=10, size=32)
    large.load_state_dict(small.state_dict())
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(small(x), large(nn.functional.pad(x, (2, 2, 2, 2))))


@pytest.mark.parametrize("size", [27, 64, 0])
def test_other_sizes_are_refused_at_build(size):
    with pytest.raises(ValueError, match=rf"28x28 or 32x32 pixels, not {size}x{size}"):
        LeNet5(channels=1, classes=10, size=size)
