"""The small network has the layers its docstring names, for both input sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rais.paper.models.small_cnn import SmallCNN


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 7)])
def test_output_shape(size, channels, classes):
    model = SmallCNN(channels=channels, classes=classes, size=size)
    assert model(torch.rand(5, channels, size, size)).shape == (5, classes)


def test_parameter_count_of_the_cifar10_model():
    convolutions = (3 * 9 + 1) * 32 + (32 * 9 + 1) * 64 + (64 * 9 + 1) * 128
    linear = (128 * 4 * 4 + 1) * 256 + (256 + 1) * 10
    model = SmallCNN(channels=3, classes=10, size=32)
    assert sum(p.numel() for p in model.parameters()) == convolutions + linear == 620_362


@pytest.mark.parametrize("size", [28, 32])
def test_equals_the_same_layers_written_as_a_sequence(size):
    model = SmallCNN(channels=2, classes=4, size=size)
    conv1, conv2, conv3, fc1, fc2 = model.children()
    sequence = nn.Sequential(
        conv1, nn.ReLU(), nn.MaxPool2d(2), conv2, nn.ReLU(), nn.MaxPool2d(2), conv3, nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), fc1, nn.ReLU(), fc2,
    )  # fmt: skip
    x = torch.rand(3, 2, size, size)
    torch.testing.assert_close(model(x), sequence(x), rtol=0, atol=0)


def test_options_set_the_maps_and_the_hidden_units():
    model = SmallCNN(channels=3, classes=10, size=32, maps=[8, 16, 32], hidden=64)
    assert [tuple(p.shape) for name, p in model.named_parameters() if "weight" in name] == [
        (8, 3, 3, 3), (16, 8, 3, 3), (32, 16, 3, 3), (64, 512), (10, 64),
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [{"maps": [8, 16]}, {"maps": [8, 16, 0]}, {"hidden": 0}])
def test_maps_and_hidden_units_out_of_range(wrong):
    with pytest.raises(ValueError, match="three numbers of maps, all 1 or more"):
        SmallCNN(channels=1, classes=10, size=32, **wrong)


@pytest.mark.parametrize("size", [27, 64, 0])
def test_other_sizes_are_refused_at_build(size):
    with pytest.raises(ValueError, match=rf"28x28 or 32x32 pixels, not {size}x{size}"):
        SmallCNN(channels=1, classes=10, size=size)
