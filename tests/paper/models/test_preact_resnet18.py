"""The residual network has the layers of its paper, in their order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rais.batch_norm import Weighted, WeightedBatchNorm2d
from rais.paper import models
from rais.paper.models.preact_resnet18 import PreActBlock, PreActResNet18

WIDTHS = [64, 64, 64, 128, 128, 256, 256, 512, 512]  # maps before the first block, then after each


def parameters_of_the_architecture(channels: int, classes: int) -> int:
    """Convolutions without bias, two numbers a map for each normalisation, one layer with bias."""
    count = channels * 9 * 64
    for before, after in zip(WIDTHS, WIDTHS[1:], strict=False):
        count += 2 * before + 9 * before * after + 2 * after + 9 * after * after
        count += before * after if before != after else 0
    return count + 2 * 512 + (512 + 1) * classes


@pytest.mark.parametrize(("channels", "classes"), [(3, 10), (1, 100)])
def test_parameter_count(channels, classes):
    model = PreActResNet18(channels=channels, classes=classes, size=32)
    count = sum(p.numel() for p in model.parameters())
    assert count == parameters_of_the_architecture(channels, classes)
    if (channels, classes) == (3, 10):
        assert count == 11_172_170 == 11_171_146 + 2 * 512


@pytest.mark.parametrize("size", [28, 32])
def test_output_shape(size):
    model = PreActResNet18(channels=3, classes=7, size=size).eval()
    with torch.no_grad():
        assert model(torch.rand(2, 3, size, size)).shape == (2, 7)
        assert model.blocks(model.stem(torch.rand(1, 3, size, size))).shape == (1, 512, 4, 4)


def block_by_hand(block: PreActBlock, x: Tensor, stride: int) -> Tensor:
    a = F.batch_norm(x, None, None, block.norm1.weight, block.norm1.bias, training=True).clamp_min(0)
    h = F.conv2d(a, block.conv1.weight, stride=stride, padding=1)
    h = F.batch_norm(h, None, None, block.norm2.weight, block.norm2.bias, training=True).clamp_min(0)
    h = F.conv2d(h, block.conv2.weight, padding=1)
    return h + (x if block.shortcut is None else F.conv2d(a, block.shortcut.weight, stride=stride))


@pytest.mark.parametrize(("maps", "stride", "has_shortcut"), [((4, 4), 1, False), ((4, 8), 2, True), ((4, 8), 1, True)])
def test_block_by_hand(maps, stride, has_shortcut):
    block = PreActBlock(*maps, stride=stride).double()
    for norm in (block.norm1, block.norm2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = torch.randn(3, maps[0], 7, 7, dtype=torch.float64)
    assert (block.shortcut is not None) == has_shortcut
    torch.testing.assert_close(block(x), block_by_hand(block, x, stride), rtol=1e-10, atol=1e-10)


def test_network_is_stem_blocks_and_head():
    model = PreActResNet18(channels=3, classes=4, size=28).eval()
    assert [(b.conv1.in_channels, b.conv1.out_channels) for b in model.blocks] == list(
        zip(WIDTHS, WIDTHS[1:], strict=False)
    )
    assert [b.conv1.stride[0] for b in model.blocks] == [1, 1, 2, 1, 2, 1, 2, 1]
    x = torch.rand(2, 3, 28, 28)
    with torch.no_grad():
        h = F.conv2d(x, model.stem.weight, padding=1)
        for block in model.blocks:
            h = block(h)
        pooled = F.adaptive_avg_pool2d(model.norm(h).relu(), 1).flatten(1)
        torch.testing.assert_close(model(x), F.linear(pooled, model.fc.weight, model.fc.bias))


def test_convolutions_start_with_variance_two_over_fan_out():
    model = models.build("preact_resnet18", channels=3, classes=10, size=32, seed=0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_every_normalisation_takes_weights():
    model = models.build("preact_resnet18", channels=1, classes=2, size=28, seed=0).double()
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 8 * 2 + 1 and all(type(norm) is WeightedBatchNorm2d for norm in norms)
    x = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    with torch.no_grad():
        logits = Weighted(model)(x, torch.tensor([1.0, 2.0]))
        repeated = model(x[[0, 1, 1]])
    torch.testing.assert_close(logits, repeated[:2], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("size", [27, 64, 0])
def test_other_sizes_are_refused_at_build(size):
    with pytest.raises(ValueError, match=rf"28x28 or 32x32 pixels, not {size}x{size}"):
        PreActResNet18(channels=3, classes=10, size=size)
