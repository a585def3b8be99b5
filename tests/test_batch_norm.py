"""Weighted batch normalisation against torch's own, against repeated batches, and against the formula in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from rais.batch_norm import Weighted, WeightedBatchNorm2d
from rais.gradnorm import PerExampleNorms, exact_norms

M, C, SIDE = 6, 4, 5
SETTINGS = [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.3, "eps": 1e-2}]


def images(seed: int, dtype: torch.dtype = torch.float32, m: int = M) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(m, C, SIDE, SIDE, generator=generator, dtype=torch.float64)
    return (x * torch.arange(1, C + 1)[:, None, None] + 2).to(dtype)


def pair(dtype: torch.dtype = torch.float32, **settings: object) -> tuple[nn.BatchNorm2d, WeightedBatchNorm2d]:
    """torch's layer and the weighted one, with the same parameters, none of them 0 or 1."""
    plain, ours = nn.BatchNorm2d(C, **settings).to(dtype), WeightedBatchNorm2d(C, **settings).to(dtype)
    if plain.affine:
        nn.init.normal_(plain.weight, generator=torch.Generator().manual_seed(0))
        nn.init.normal_(plain.bias, generator=torch.Generator().manual_seed(1))
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def gradients(output: Tensor, x: Tensor, layer: nn.Module, direction: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad((output * direction).sum(), [x, *layer.parameters()]))


def assert_same_buffers(ours: nn.Module, theirs: nn.Module, **tolerance: float) -> None:
    assert [name for name, _ in ours.named_buffers()] == [name for name, _ in theirs.named_buffers()]
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other, **tolerance)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("training", [True, False])
def test_without_weights_it_is_torchs_layer_to_the_last_bit(settings, training):
    plain, ours = pair(**settings)
    for step in range(3):
        a, b = images(step).requires_grad_(), images(step).requires_grad_()
        expected, actual = plain.train(training)(a), ours.train(training)(b)
        direction = images(step + 10)
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)
        torch.testing.assert_close(
            gradients(actual, b, ours, direction), gradients(expected, a, plain, direction), rtol=0, atol=0
        )
    assert_same_buffers(ours, plain, rtol=0, atol=0)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
# In float32 the sums behind a gradient are rounded: torch's own are 4e-6 of their largest from the truth here.
@pytest.mark.parametrize(
    ("dtype", "of_values", "of_gradients"), [(torch.float32, 1e-6, 1e-5), (torch.float64, *[1e-12] * 2)]
)
def test_weights_of_one_are_torchs_layer(settings, memory_format, dtype, of_values, of_gradients):
    plain, ours = pair(dtype, **settings)
    weighted = Weighted(ours)
    for step in range(3):
        a = images(step, dtype).contiguous(memory_format=memory_format).requires_grad_()
        b = images(step, dtype).contiguous(memory_format=memory_format).requires_grad_()
        expected, actual = plain(a), weighted(b, torch.ones(M))
        direction = images(step + 10, dtype)
        torch.testing.assert_close(actual, expected, rtol=of_values, atol=of_values)
        for mine, theirs in zip(
            gradients(actual, b, ours, direction), gradients(expected, a, plain, direction), strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=of_gradients * theirs.abs().max().item())
        assert actual.is_contiguous(memory_format=memory_format)
    assert_same_buffers(ours, plain, rtol=of_values, atol=of_values)


@pytest.mark.parametrize("value", [0.01, 3.7])
def test_size_of_equal_weights_changes_the_variance_correction_only(value):
    plain, ours = pair(torch.float64, momentum=1.0)
    x = images(0, torch.float64)
    torch.testing.assert_close(Weighted(ours)(x, torch.full((M,), value)), plain(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.running_mean, plain.running_mean)
    biased = x.var((0, 2, 3), correction=0)
    count = max(2.0, value * M * SIDE**2)
    torch.testing.assert_close(ours.running_var, biased * count / (count - 1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("settings", SETTINGS)
def test_integer_weights_are_torchs_layer_on_the_repeated_batch(settings):
    plain, ours = pair(torch.float64, **settings)
    times = torch.tensor([1, 3, 0, 2, 1, 4])
    for step in range(2):
        x = images(step, torch.float64).requires_grad_()
        repeated = x.detach().repeat_interleave(times, 0).requires_grad_()
        target = images(step + 10, torch.float64)
        actual, expected = Weighted(ours)(x, times.float()), plain(repeated)
        torch.testing.assert_close(actual.repeat_interleave(times, 0), expected, rtol=1e-10, atol=1e-10)

        losses = (actual - target).square().sum((1, 2, 3))
        mine = torch.autograd.grad((times * losses).sum(), [x, *ours.parameters()])
        loss = (expected - target.repeat_interleave(times, 0)).square().sum()
        theirs = torch.autograd.grad(loss, [repeated, *plain.parameters()])
        summed = torch.zeros_like(x).index_add_(0, torch.arange(M).repeat_interleave(times), theirs[0])
        torch.testing.assert_close(mine[0], summed, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(mine[1:], theirs[1:], rtol=1e-9, atol=1e-9)
    assert_same_buffers(ours, plain, rtol=1e-6, atol=1e-12)


def reference(x: Tensor, weight: Tensor, layer: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
    """Output, μ and σ², channel by channel, as the formula has it."""
    outputs, means, variances = [], [], []
    for channel in range(x.shape[1]):
        values = x[:, channel].flatten(1)
        every = weight[:, None].expand_as(values)
        mean = (every * values).sum() / every.sum()
        variance = (every * (values - mean) ** 2).sum() / every.sum()
        normal = (x[:, channel] - mean) / (variance + layer.eps) ** 0.5
        outputs.append(layer.weight[channel] * normal + layer.bias[channel])
        means.append(mean)
        variances.append(variance)
    return torch.stack(outputs, 1), torch.stack(means), torch.stack(variances)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_any_weights_against_the_formula(dtype, tolerance, memory_format):
    _, ours = pair(dtype)
    exact = copy.deepcopy(ours).double()
    weight = torch.tensor([0.2, 5.0, 0.9, 0.0, 1e-4, 2.0])
    x = images(0, dtype).contiguous(memory_format=memory_format).requires_grad_()
    same = x.detach().double().requires_grad_()
    actual, (expected, mean, variance) = Weighted(ours)(x, weight), reference(same, weight.double(), exact)
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)
    for mine, theirs in zip(
        gradients(actual, x, ours, images(9, dtype)),
        gradients(expected, same, exact, images(9, torch.float64)),
        strict=True,
    ):
        torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())
    count = weight.double().sum() * SIDE**2
    torch.testing.assert_close(ours.running_mean.double(), 0.1 * mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.running_var.double(), 0.9 + 0.1 * variance * count / (count - 1), rtol=1e-5, atol=0)


def test_example_of_weight_zero_leaves_no_trace_but_is_normalised():
    plain, ours = pair(torch.float64)
    x = images(0, torch.float64).requires_grad_()
    weight = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0])
    output = Weighted(ours)(x, weight)
    others = weight > 0
    torch.testing.assert_close(output[others], plain(x[others]), rtol=1e-10, atol=1e-10)
    assert_same_buffers(ours, plain, rtol=1e-10, atol=0)
    assert torch.isfinite(output).all()
    (gradient,) = torch.autograd.grad(output[others].square().sum(), x)
    assert (gradient[2] == 0).all() and (gradient[others] != 0).any()


def test_variance_is_accurate_where_the_mean_is_large():
    """Σ w x²/Σ w − μ² would be off by more than the variance itself."""
    _, ours = pair(momentum=1.0)
    x = images(0) + 1e4
    weight = torch.tensor([0.5, 2.0, 1.0, 0.1, 3.0, 1.0])
    output = Weighted(ours)(x, weight)
    expected, _, variance = reference(x.double(), weight.double(), ours)
    count = weight.double().sum() * SIDE**2
    torch.testing.assert_close(ours.running_var.double(), variance * count / (count - 1), rtol=1e-4, atol=0)
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=1e-2)


def test_correction_of_the_running_variance_is_at_most_twofold():
    _, ours = pair(torch.float64, momentum=1.0)
    x = images(0, torch.float64)
    Weighted(ours)(x, torch.full((M,), 1e-6))
    torch.testing.assert_close(ours.running_var, 2 * x.var((0, 2, 3), correction=0))


def test_gradients_by_finite_differences():
    layer = WeightedBatchNorm2d(2, track_running_stats=False).double()
    weighted, weight = Weighted(layer), torch.tensor([0.3, 2.0, 1.0])
    x = images(0, torch.float64, m=3)[:, :2, :2, :3].contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: weighted(x, weight), (x, *layer.parameters()))


def test_graph_can_be_used_twice():
    """As the gain ratio does, with half of the minibatch."""
    _, ours = pair()
    x = images(0).requires_grad_()
    output = Weighted(ours)(x, torch.rand(M) + 0.1)
    output.sum().backward(retain_graph=True)
    (half,) = torch.autograd.grad(output[: M // 2].square().mean(), x)
    assert torch.isfinite(half).all() and half[M // 2 :].abs().sum() > 0


def test_no_gradient_goes_to_the_weights():
    _, ours = pair()
    weight = torch.ones(M, requires_grad=True)
    Weighted(ours)(images(0).requires_grad_(), weight).sum().backward()
    assert weight.grad is None


def test_state_is_interchangeable_with_torchs_layer():
    plain, ours = pair()
    Weighted(ours)(images(0), torch.rand(M) + 0.1)
    plain.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours.eval()(images(1)), plain.eval()(images(1)), rtol=0, atol=0)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(C, 3, 3), WeightedBatchNorm2d(3), nn.ReLU())
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        if self.fails:
            raise KeyError("on purpose")
        return x.mean((2, 3))


def test_weights_hold_for_one_forward_only():
    net = Net()
    weighted, plain = Weighted(net), copy.deepcopy(net)
    weighted(images(0), torch.rand(M) + 0.1)
    net.load_state_dict(plain.state_dict())
    torch.testing.assert_close(net(images(1)), plain(images(1)), rtol=0, atol=0)
    net.fails = True
    with pytest.raises(KeyError):
        weighted(images(0), torch.ones(M))
    assert net.body[1].importance is None


def test_weights_reach_layers_inside_and_matter():
    net = Net()
    first, second = torch.tensor([9.0, 1, 1, 1, 1, 1]), torch.tensor([1.0, 1, 1, 1, 1, 9])
    assert (Weighted(net)(images(0), first) - Weighted(net)(images(0), second)).abs().max() > 1e-3


def test_eval_mode_is_torchs_layer_whatever_the_weights():
    net = Net()
    Weighted(net)(images(0), torch.rand(M) + 0.1)
    before = copy.deepcopy(net.eval().state_dict())
    torch.testing.assert_close(Weighted(net)(images(1), torch.rand(M)), net(images(1)), rtol=0, atol=0)
    plain = nn.BatchNorm2d(3).eval()
    plain.load_state_dict(net.body[1].state_dict())
    x = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(net.body[1](x), plain(x), rtol=0, atol=0)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_model_without_such_layers_is_called_as_it_is():
    model = nn.Sequential(nn.Flatten(), nn.Linear(C * SIDE**2, 3))
    torch.testing.assert_close(Weighted(model)(images(0), torch.full((M,), -1.0)), model(images(0)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.zeros(M), "from 0 to 0: they must be finite"),
        (torch.tensor([1.0, 1, 1, -0.5, 1, 1]), "from -0.5 to 1"),
        (torch.tensor([1.0, 1, 1, float("inf"), 1, 1]), "to inf"),
        (torch.tensor([1.0, 1, 1, float("nan"), 1, 1]), "nan"),
        (torch.ones(M + 1), rf"shape \(7,\): {M} examples need shape \({M},\)"),
        (torch.ones(M, 1), rf"shape \(6, 1\): {M} examples"),
        (torch.ones(()), r"shape \(\)"),
    ],
)
def test_weights_that_cannot_be(weight, message):
    net = Net()
    with pytest.raises(ValueError, match=message):
        Weighted(net)(images(0), weight)
    assert net.body[1].importance is None and net.body[1].num_batches_tracked == 0


def test_inputs_that_cannot_be():
    layer = WeightedBatchNorm2d(2)
    with pytest.raises(ValueError, match=r"one number per channel, input \(1, 2, 1, 1\).*larger minibatch"):
        Weighted(layer)(torch.ones(1, 2, 1, 1), torch.ones(1))
    with pytest.raises(ValueError, match="4D"):
        Weighted(layer)(torch.ones(3, 2), torch.ones(3))
    assert layer.num_batches_tracked == 0


def test_per_example_norms_in_eval_mode_use_the_closed_formula_and_are_right():
    torch.manual_seed(0)
    net = Net().double()
    Weighted(net)(images(0, torch.float64), torch.rand(M) + 0.1)
    nn.init.normal_(net.body[1].weight)
    x, y = images(1, torch.float64), torch.arange(M) % 3
    with pytest.raises(ValueError, match=r"body\.1 \(WeightedBatchNorm2d\).*model\.eval\(\)"):
        PerExampleNorms(net, "sum")
    net.eval()
    with PerExampleNorms(net, "sum") as norms:  # it would refuse a layer without formula
        cross_entropy(net(x), y, reduction="sum").backward()

    parameters = {name: p.detach() for name, p in net.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(torch.func.functional_call(net, parameters, (x[None],)), y[None])

    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(parameters, x, y)
    expected = sum(gradient.flatten(1).square().sum(1) for gradient in each.values()).sqrt()
    torch.testing.assert_close(norms.squared().sqrt(), expected, rtol=1e-10, atol=0)
    by_function = exact_norms(net, lambda z, y: cross_entropy(z, y, reduction="none"), x, y)
    torch.testing.assert_close(by_function, expected, rtol=1e-10, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gpu_equals_cpu(memory_format):
    _, ours = pair()
    on_gpu, weight = copy.deepcopy(ours).cuda(), torch.rand(M) + 0.1
    x = images(0).requires_grad_()
    y = images(0).cuda().contiguous(memory_format=memory_format).requires_grad_()
    expected, actual = Weighted(ours)(x, weight), Weighted(on_gpu)(y, weight.cuda())
    torch.testing.assert_close(actual.cpu(), expected, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(
        gradients(actual, y, on_gpu, images(9).cuda()), gradients(expected, x, ours, images(9)), strict=True
    ):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())
    assert_same_buffers(on_gpu.cpu(), ours, rtol=1e-5, atol=1e-6)
