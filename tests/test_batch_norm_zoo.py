"""`prepare` on models that others made: every classification family of torchvision, and models of timm.

Each model is converted, or refused by the name of a layer; converted, it has the same state_dict keys, and with
weights of 1 the outputs, gradients and running statistics of the original.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from rais.batch_norm import Weighted, WeightedBatchNorm, prepare

pytestmark = pytest.mark.slow

# The smallest model of each family, the side of its images, and its own settings.
TORCHVISION: dict[str, tuple[int, dict[str, Any]]] = {
    "alexnet": (64, {}),
    "convnext_tiny": (32, {}),
    "densenet121": (32, {}),
    "efficientnet_b0": (32, {}),
    "efficientnet_v2_s": (32, {}),
    "googlenet": (64, {"init_weights": False}),
    "inception_v3": (75, {"init_weights": False, "aux_logits": False}),
    "maxvit_t": (224, {}),
    "mnasnet0_5": (32, {}),
    "mobilenet_v2": (32, {}),
    "mobilenet_v3_small": (32, {}),
    "regnet_y_400mf": (32, {}),
    "regnet_x_400mf": (32, {}),
    "resnet18": (32, {}),
    "resnext50_32x4d": (32, {}),
    "wide_resnet50_2": (32, {}),
    "shufflenet_v2_x0_5": (32, {}),
    "squeezenet1_1": (32, {}),
    "swin_t": (32, {}),
    "swin_v2_t": (32, {}),
    "vgg11": (32, {"init_weights": False}),
    "vgg11_bn": (32, {"init_weights": False}),
    "vit_b_16": (32, {"image_size": 32}),
}
TIMM = [
    "resnet18",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "regnetx_002",
    "densenet121",
    "ghostnet_100",
    "repvgg_a0",
    "mixnet_s",
    "lcnet_050",
    "dla34",
    "xcit_nano_12_p16_224",
    "mobilenetv4_conv_small",
]
REFUSED_IN_FORWARD = {"levit_128s": r"\(WeightedBatchNorm1d\) is given \d+ examples and 3 weights"}


def images(side: int) -> Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def step(call: Any, model: nn.Module, x: Tensor) -> tuple[list[Tensor], list[Tensor | None]]:
    """Outputs and gradients, with the same masks of dropout in every call."""
    torch.manual_seed(1)
    outputs = [leaf for leaf in tree_leaves(call(x)) if isinstance(leaf, Tensor)]
    sum((output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum() for output in outputs).backward()
    return [output.detach() for output in outputs], [p.grad for p in model.parameters()]


def assert_converted(model: nn.Module, x: Tensor) -> None:
    layers = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not layers:
        classes = [type(module) for module in model.modules()]
        assert [type(module) for module in prepare(model).modules()] == classes
        Weighted(model)
        return
    model = model.double().train()
    for (
        layer
    ) in layers:  # the last ones see three numbers per channel, some nearly equal: rounding errors would explode
        layer.eps = 0.01
    original, keys = copy.deepcopy(model), list(model.state_dict())
    prepare(model)
    assert sum(isinstance(module, WeightedBatchNorm) for module in model.modules()) == len(layers)
    assert list(model.state_dict()) == keys
    expected, actual = step(original, original, x), step(lambda x: Weighted(model)(x, torch.ones(len(x))), model, x)
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-7, atol=1e-9)
    largest = max(gradient.abs().max().item() for gradient in expected[1] if gradient is not None)
    for mine, theirs in zip(actual[1], expected[1], strict=True):
        assert (mine is None) == (theirs is None)
        if theirs is not None:  # a bias before a normalisation has a gradient of rounding errors only
            torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-10 * largest)
    for (name, mine), theirs in zip(model.named_buffers(), original.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9, msg=name)
    weighted = step(lambda x: Weighted(model)(x, torch.tensor([0.1, 1.0, 3.0])), model, x)[0][0]
    assert weighted.isfinite().all() and (weighted - expected[0][0]).abs().max() > 1e-9


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    models = pytest.importorskip("torchvision").models
    side, settings = TORCHVISION[name]
    torch.manual_seed(0)
    assert_converted(models.get_model(name, weights=None, num_classes=10, **settings), images(side))


def test_no_family_of_torchvision_is_missing() -> None:
    models = pytest.importorskip("torchvision").models
    families = {models.get_model_builder(name).__module__ for name in models.list_models(module=models)}
    assert families == {models.get_model_builder(name).__module__ for name in TORCHVISION}


def of_timm(name: str) -> nn.Module:
    torch.manual_seed(0)
    settings = {"img_size": 32} if name.startswith(("xcit", "levit")) else {}
    return pytest.importorskip("timm").create_model(name, pretrained=False, num_classes=10, **settings)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    assert_converted(of_timm(name), images(32))


def test_timms_layers_that_are_refused() -> None:
    layers = pytest.importorskip("timm").layers
    synchronised = layers.convert_sync_batchnorm(nn.Sequential(layers.BatchNormAct2d(4)))
    for model, title in ((nn.Sequential(layers.EvoNorm2dB0(4)), "EvoNorm2dB0"), (synchronised, "SyncBatchNormAct")):
        with pytest.raises(ValueError, match=rf"^0 \({title}\) may normalise"):
            prepare(model)
        with pytest.raises(ValueError, match=rf"^0 \({title}\) would normalise"):
            Weighted(model)
    prepare(nn.Sequential(layers.EvoNorm2dS0(32), layers.FrozenBatchNormAct2d(4), layers.LayerNorm2d(4)))


@pytest.mark.parametrize("name", REFUSED_IN_FORWARD)
def test_timm_refused_when_examples_are_not_dimension_0(name: str) -> None:
    model = prepare(of_timm(name))
    with pytest.raises(ValueError, match=REFUSED_IN_FORWARD[name]):
        Weighted(model)(images(32).float(), torch.ones(3))
