"""Z2CNN has the layers its docstring names, in their order, with and without its options."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rais.batch_norm import WeightedBatchNorm2d
from rais.paper import models
from rais.paper.models.dropout import Dropout
from rais.paper.models.z2cnn import Z2CNN

SIZES = {"channels": 1, "classes": 10, "size": 28}


@pytest.mark.parametrize(("channels", "classes"), [(1, 10), (3, 7)])
def test_output_shape(channels, classes):
    model = models.build("z2cnn", channels=channels, classes=classes, size=28, seed=0)
    assert model(torch.rand(2, channels, 28, 28)).shape == (2, classes)


@pytest.mark.parametrize(("batch_norm", "total"), [(True, 21_750), (False, 21_510)])
def test_parameter_count(batch_norm, total):
    hidden = (1 * 9 + 1) * 20 + 5 * (20 * 9 + 1) * 20
    top, norms = (20 * 16 + 1) * 10, 6 * 2 * 20 if batch_norm else 0
    model = Z2CNN(**SIZES, batch_norm=batch_norm)
    assert sum(p.numel() for p in model.parameters()) == hidden + top + norms == total


@pytest.mark.parametrize("batch_norm", [True, False])
def test_equals_the_layers_written_out(batch_norm):
    model = models.build("z2cnn", **SIZES, seed=0, dropout=0.0, batch_norm=batch_norm)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [conv.kernel_size[0] for conv in convolutions] == [3] * 6 + [4]
    x = h = torch.rand(3, 1, 28, 28)
    for layer, conv in enumerate(convolutions[:-1], start=1):
        h = F.conv2d(h, conv.weight, conv.bias)
        h = F.batch_norm(h, None, None, training=True) if batch_norm else h
        h = F.relu(h)
        h = F.max_pool2d(h, 2) if layer == 2 else h
    h = F.conv2d(h, convolutions[-1].weight, convolutions[-1].bias)
    torch.testing.assert_close(model(x), h[:, :, 0, 0], rtol=1e-5, atol=1e-5)


def test_dropout_follows_every_hidden_layer_but_the_second():
    model = Z2CNN(**SIZES)
    kinds = [type(m) for m in model.hidden if isinstance(m, nn.Conv2d | Dropout | nn.MaxPool2d)]
    one = [nn.Conv2d, Dropout]
    assert kinds == [*one, nn.Conv2d, nn.MaxPool2d, *one, *one, *one, *one]
    assert {m.p for m in model.modules() if isinstance(m, Dropout)} == {0.3}


def test_normalisation_takes_weights():
    model = Z2CNN(**SIZES)
    assert sum(type(m) is WeightedBatchNorm2d for m in model.modules()) == 6


@pytest.mark.parametrize("size", [27, 32, 0])
def test_other_sizes_are_refused_at_build(size):
    with pytest.raises(ValueError, match=rf"28x28 pixels, not {size}x{size}"):
        Z2CNN(channels=1, classes=10, size=size)
