"""The residual network has the layers of its paper, in their order."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rais import rng
from rais.batch_norm import Weighted, WeightedBatchNorm2d
from rais.paper import models
from rais.paper.models.preact_resnet import PreActBlock, PreActResNet

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
    model = PreActResNet(channels=channels, classes=classes, size=32)
    count = sum(p.numel() for p in model.parameters())
    assert count == parameters_of_the_architecture(channels, classes)
    if (channels, classes) == (3, 10):
        assert count == 11_172_170 == 11_171_146 + 2 * 512


def test_resnet18_has_the_layers_and_numbers_of_the_list_it_was_first_written_as():
    """Options of width and depth leave its state_dict's keys and the numbers drawn for it as they were."""
    model = models.build("preact_resnet", channels=3, classes=10, size=32, seed=3)
    with rng.seeded(3, "init"):
        stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        blocks = [
            PreActBlock(64, 64, 1), PreActBlock(64, 64, 1), PreActBlock(64, 128, 2), PreActBlock(128, 128, 1),
            PreActBlock(128, 256, 2), PreActBlock(256, 256, 1), PreActBlock(256, 512, 2), PreActBlock(512, 512, 1),
        ]  # fmt: skip
        listed = nn.ModuleDict(
            {"stem": stem, "blocks": nn.Sequential(*blocks), "norm": WeightedBatchNorm2d(512), "fc": nn.Linear(512, 10)}
        )
        for module in listed.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    expected, found = listed.state_dict(), model.state_dict()
    assert list(expected) == list(found)
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_resnet8_has_eight_layers_with_weights_in_three_stages():
    model = models.build("preact_resnet", channels=3, classes=10, size=32, seed=0, widths=[16, 32, 64], blocks=1)
    outside_shortcuts = [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len([name for name in outside_shortcuts if "shortcut" not in name]) == 8
    assert [(b.conv1.in_channels, b.conv1.out_channels, b.conv1.stride[0]) for b in model.blocks] == [
        (16, 16, 1), (16, 32, 2), (32, 64, 2),
    ]  # fmt: skip
    assert sum(p.numel() for p in model.parameters()) == 77_850
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("wrong", [{"widths": []}, {"widths": [16, 0]}, {"blocks": 0}])
def test_stages_without_blocks_or_maps_are_refused(wrong):
    with pytest.raises(ValueError, match="at least one stage and 1 of each"):
        PreActResNet(channels=3, classes=10, size=32, **wrong)


@pytest.mark.parametrize("size", [28, 32])
def test_output_shape(size):
    model = PreActResNet(channels=3, classes=7, size=size).eval()
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
    model = PreActResNet(channels=3, classes=4, size=28).eval()
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
    model = models.build("preact_resnet", channels=3, classes=10, size=32, seed=0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1)


def test_every_normalisation_takes_weights():
    model = models.build("preact_resnet", channels=1, classes=2, size=28, seed=0).double()
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
        PreActResNet(channels=3, classes=10, size=size)
