"""LeNet-5 has the layers its name promises, for both input sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rais import rng
from rais.batch_norm import WeightedBatchNorm2d
from rais.paper import models
from rais.paper.models.dropout import Dropout
from rais.paper.models.lenet5 import LeNet5


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
    conv1, conv2, fc1, fc2, fc3 = (layer for layer in model.children() if not isinstance(layer, nn.Identity))
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


def test_defaults_are_the_plain_network_to_the_last_bit():
    """Same names, same numbers from the seed and same logits as its five layers made one after the other."""
    model = models.build("lenet5", channels=1, classes=10, size=28, seed=4)
    with rng.seeded(4, "init"):
        layers = {
            "conv1": nn.Conv2d(1, 6, 5, padding=2),
            "conv2": nn.Conv2d(6, 16, 5),
            "fc1": nn.Linear(400, 120),
            "fc2": nn.Linear(120, 84),
            "fc3": nn.Linear(84, 10),
        }
    state = {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    x = h = torch.rand(3, 1, 28, 28)
    for name in ("conv1", "conv2"):
        h = nn.functional.max_pool2d(layers[name](h).relu(), 2)
    h = layers["fc2"](layers["fc1"](h.flatten(1)).relu()).relu()
    assert torch.equal(model(x), layers["fc3"](h))


def test_options_leave_the_initialisation_as_it_was():
    plain = models.build("lenet5", channels=1, classes=10, size=28, seed=4)
    other = models.build("lenet5", channels=1, classes=10, size=28, seed=4, dropout=0.5, batch_norm=True)
    assert all(torch.equal(other.state_dict()[key], value) for key, value in plain.state_dict().items())
    assert sum(p.numel() for p in other.parameters()) == 61_706 + 2 * (6 + 16)


def test_equals_the_same_layers_with_dropout_and_batch_normalisation():
    model = models.build("lenet5", channels=1, classes=10, size=28, seed=0, dropout=0.25, batch_norm=True)
    conv1, norm1, conv2, norm2, fc1, drop1, fc2, drop2, fc3 = model.children()
    assert type(norm1) is type(norm2) is WeightedBatchNorm2d
    first, second = Dropout(0.25), Dropout(0.25)
    first.seed(0, "dropout/drop1")
    second.seed(0, "dropout/drop2")
    sequence = nn.Sequential(
        conv1, nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), conv2, nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), fc1, nn.ReLU(), first, fc2, nn.ReLU(), second, fc3,
    )  # fmt: skip
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(model(x), sequence(x), rtol=0, atol=0)
    torch.testing.assert_close(model.eval()(x), sequence.eval()(x), rtol=0, atol=0)


def test_dropout_out_of_range():
    with pytest.raises(ValueError, match=r"dropout=1\.5 is out of range"):
        LeNet5(channels=1, classes=10, size=28, dropout=1.5)
