"""Exact per-example norms against two independent references: torch.func and a loop over single examples."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rais.gradnorm import PerExampleNorms, exact_norms, norms_and_gradient

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
B = 5


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Losses of the examples for outputs of any shape; a sum that weights every output differently."""
    flat = outputs.flatten(1)
    weight = torch.linspace(0.5, 1.5, flat.shape[1], dtype=flat.dtype)
    return (weight * (flat - targets.unsqueeze(1)).square()).sum(1)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def norms_by_loop(model: nn.Module, loss: Callable, inputs: Tensor, targets: Tensor) -> Tensor:
    parameters = [p for p in model.parameters() if p.requires_grad]
    norms = []
    for x, y in zip(inputs, targets, strict=True):
        value = loss(model(x.unsqueeze(0)), y.unsqueeze(0)).sum()
        gradient = torch.autograd.grad(value, parameters, allow_unused=True)
        norms.append(torch.cat([g.flatten() for g in gradient if g is not None]).norm())
    return torch.stack(norms)


def norms_by_func(model: nn.Module, loss: Callable, inputs: Tensor, targets: Tensor) -> Tensor:
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def value(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(torch.func.functional_call(model, parameters, (x[None],)), y[None]).sum()

    gradients = torch.func.vmap(torch.func.grad(value), (None, 0, 0))(parameters, inputs, targets)
    return torch.cat([g.flatten(1) for g in gradients.values()], dim=1).norm(dim=1)


def data(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, b: int = B) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(b, *shape, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), torch.randn(b, generator=generator, dtype=torch.float64).to(dtype)


def randomise(model: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Give every parameter and running statistic a value that is neither 0 nor 1."""
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    return model.to(dtype)


def squares(model: nn.Module, inputs: Tensor, targets: Tensor, reduction: str, **kwargs: int) -> Tensor:
    with PerExampleNorms(model, reduction, **kwargs) as norms:
        getattr(squared_error(model(inputs), targets), reduction)().backward()
    return norms.squared()


class TwoConvolutions(nn.Module):
    """Nested, with in-place ReLU behind every layer, frozen and trainable parts."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(inplace=True)),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False),
            nn.ReLU(inplace=True),
            nn.Flatten(),
        )
        self.head = nn.Sequential(nn.Linear(24, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.inner(x).tanh()))


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).tanh())


class TiedByHand(nn.Module):
    """The second use of the weight passes by the layer that owns it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.encoder(x).tanh(), self.encoder.weight.T)


class NeverCalled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.by_hand = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.used(x).tanh(), self.by_hand.weight, self.by_hand.bias)


class TokensFolded(nn.Module):
    """The first layer sees tokens as examples."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.last = nn.Linear(4, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.token(x.reshape(-1, 4)).tanh().reshape(len(x), 6))


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


class OddLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.weight.sum()


def convolution(**kwargs: object) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **kwargs})


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 4), (6,)),
    "linear_without_bias": (lambda: nn.Linear(6, 4, bias=False), (6,)),
    "linear_sequence": (lambda: nn.Linear(6, 4), (7, 6)),
    "linear_short_sequence": (lambda: nn.Linear(16, 14), (3, 16)),
    "linear_grid_without_bias": (lambda: nn.Linear(6, 4, bias=False), (2, 3, 6)),
    "group_norm": (lambda: nn.GroupNorm(2, 6), (6, 4, 3)),
    "group_norm_one_group": (lambda: nn.GroupNorm(1, 6, eps=0.1), (6, 5)),
    "group_norm_flat": (lambda: nn.GroupNorm(2, 6), (6,)),
    "layer_norm": (lambda: nn.LayerNorm(6), (6,)),
    "layer_norm_sequence": (lambda: nn.LayerNorm(6, eps=0.1), (3, 2, 6)),
    "layer_norm_two_dimensions": (lambda: nn.LayerNorm([3, 4]), (2, 3, 4)),
    "layer_norm_whole_example": (lambda: nn.LayerNorm([2, 3, 4]), (2, 3, 4)),
    "layer_norm_without_bias": (lambda: nn.LayerNorm(6, bias=False), (3, 6)),
    "batch_norm_flat": (lambda: nn.BatchNorm1d(6).eval(), (6,)),
    "batch_norm_1d": (lambda: nn.BatchNorm1d(6, eps=0.1).eval(), (6, 5)),
    "batch_norm_2d": (lambda: nn.BatchNorm2d(6).eval(), (6, 3, 4)),
    "conv": (convolution(), (4, 6, 7)),
    "conv_without_bias": (convolution(bias=False), (4, 6, 7)),
    "conv_one_by_one": (convolution(kernel_size=1), (4, 5, 4)),
    "conv_one_by_one_strided": (convolution(kernel_size=1, stride=2), (4, 5, 4)),
    "conv_rectangular": (
        convolution(kernel_size=(2, 3), stride=(2, 1), padding=(0, 2), dilation=(1, 2)),
        (4, 7, 6),
    ),
    "conv_stride_leaves_rest": (convolution(stride=3, padding=1), (4, 9, 8)),
    "conv_groups": (convolution(groups=2, padding=1), (4, 5, 6)),
    "conv_depthwise": (convolution(groups=4, out_channels=8, dilation=2), (4, 7, 6)),
    "conv_same": (convolution(padding="same", dilation=2), (4, 5, 6)),
    "conv_same_even_kernel": (convolution(padding="same", kernel_size=(4, 2)), (4, 6, 5)),
    "conv_valid": (convolution(padding="valid", groups=2, bias=False), (4, 5, 6)),
    "conv_circular": (convolution(padding=(1, 2), padding_mode="circular"), (4, 5, 6)),
    "conv_reflect_same": (convolution(padding="same", padding_mode="reflect"), (4, 5, 6)),
    "conv_replicate": (convolution(padding=2, padding_mode="replicate", stride=2), (4, 5, 6)),
    "conv_ghost": (convolution(in_channels=8, out_channels=32, groups=2), (8, 4, 4)),
    "conv_whole_image": (convolution(kernel_size=(4, 5)), (4, 4, 5)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_both_references(name: str, dtype: torch.dtype) -> None:
    make, shape = LAYERS[name]
    model = randomise(make(), dtype)
    inputs, targets = data(shape, dtype)
    expected = norms_by_loop(model, squared_error, inputs, targets)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(norms_by_func(model, squared_error, inputs, targets), expected, rtol=tolerance, atol=0)
    for reduction in ("sum", "mean"):
        actual = squares(model, inputs, targets, reduction).sqrt()
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=0)
    torch.testing.assert_close(
        exact_norms(model, squared_error, inputs, targets, chunk=2), expected, rtol=tolerance, atol=0
    )


@pytest.mark.parametrize("frozen", ["weight", "bias"])
@pytest.mark.parametrize("name", ["linear", "linear_sequence", "group_norm", "layer_norm", "batch_norm_2d", "conv"])
def test_frozen_parameters_do_not_count(name: str, frozen: str) -> None:
    make, shape = LAYERS[name]
    model = randomise(make())
    inputs, targets = data(shape)
    both = squares(model, inputs, targets, "sum")
    getattr(model, frozen).requires_grad_(False)
    actual = squares(model, inputs, targets, "sum")
    torch.testing.assert_close(actual.sqrt(), norms_by_loop(model, squared_error, inputs, targets), rtol=1e-10, atol=0)
    assert (actual < both).all()


@pytest.mark.parametrize("name", ["linear_sequence", "conv", "conv_groups", "conv_one_by_one", "batch_norm_2d"])
def test_inputs_in_other_memory_orders(name: str) -> None:
    make, shape = LAYERS[name]
    model = randomise(make())
    inputs, targets = data(shape)
    expected = norms_by_loop(model, squared_error, inputs, targets)
    transposed = inputs.transpose(0, -1).contiguous().transpose(0, -1)
    every_other = inputs.repeat_interleave(2, dim=-1)[..., ::2]
    for x in (transposed, every_other):
        assert not x.is_contiguous()
        torch.testing.assert_close(squares(model, x, targets, "mean").sqrt(), expected, rtol=1e-10, atol=0)


def test_channels_last() -> None:
    model = randomise(TwoConvolutions()).to(memory_format=torch.channels_last)
    inputs, targets = data((2, 11, 11))
    expected = norms_by_loop(model, squared_error, inputs, targets)
    actual = squares(model, inputs.to(memory_format=torch.channels_last), targets, "sum").sqrt()
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_nested_model_with_inplace_relu(reduction: str, dtype: torch.dtype) -> None:
    model = randomise(TwoConvolutions(), dtype)
    inputs, targets = data((2, 11, 11), dtype)
    expected = norms_by_loop(model, squared_error, inputs, targets)
    torch.testing.assert_close(
        squares(model, inputs, targets, reduction).sqrt(), expected, rtol=TOLERANCE[dtype], atol=0
    )
    torch.testing.assert_close(
        exact_norms(model, squared_error, inputs, targets), expected, rtol=TOLERANCE[dtype], atol=0
    )


@pytest.mark.parametrize("shape", [(6,), (3, 6), (2, 3, 6)])
def test_every_way_to_change_an_output_in_place(shape: tuple[int, ...]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.one(x)
            hidden.view(-1).mul_(2)
            hidden[..., :3].mul_(3)
            return self.two(hidden.tanh_()).exp_()

    model = randomise(Net())
    inputs, targets = data(shape)
    expected = norms_by_loop(model, squared_error, inputs, targets)
    torch.testing.assert_close(squares(model, inputs, targets, "mean").sqrt(), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(exact_norms(model, squared_error, inputs, targets), expected, rtol=1e-10, atol=0)


def test_weighted_losses() -> None:
    model = randomise(TwoConvolutions())
    inputs, targets = data((2, 11, 11))
    expected = norms_by_loop(model, squared_error, inputs, targets).square()
    weight = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    with PerExampleNorms(model, "mean") as norms:
        (weight * squared_error(model(inputs), targets)).mean().backward()
    torch.testing.assert_close(norms.squared(), weight.square() * expected, rtol=1e-10, atol=0)


def test_a_training_step_is_the_same_with_norms() -> None:
    inputs, targets = data((2, 11, 11))
    plain = randomise(TwoConvolutions())
    watched = copy.deepcopy(plain)
    squared_error(plain(inputs), targets).mean().backward()
    recorder = PerExampleNorms(watched, "mean")
    for _ in range(2):  # the second time it adds to p.grad
        with recorder as norms:
            squared_error(watched(inputs), targets).mean().backward()
    for p, q in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(2 * p.grad, q.grad)
    torch.testing.assert_close(
        norms.squared().sqrt(), norms_by_loop(plain, squared_error, inputs, targets), rtol=1e-10, atol=0
    )
    hooks = [h for m in watched.modules() for h in (*m._forward_hooks, *m._backward_hooks)]
    assert hooks == []
    assert not any(p._backward_hooks for p in watched.parameters())


def test_other_hooks_that_replace_an_output() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)).double()
    model[0].register_forward_hook(lambda module, args, output: output.tanh() * 3)
    inputs, targets = data((4,))
    expected = norms_by_loop(model, squared_error, inputs, targets)
    torch.testing.assert_close(squares(model, inputs, targets, "sum").sqrt(), expected, rtol=1e-10, atol=0)


def test_hooks_are_removed_after_an_error() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(ZeroDivisionError), PerExampleNorms(model, "sum"):
        raise ZeroDivisionError
    assert not model._forward_hooks


FALLBACK: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "twice": (Twice, r"inner \(Linear\) is called more than once"),
    "shared": (Shared, r"two \(Linear\) shares a parameter with one \(Linear\)"),
    "never_called": (NeverCalled, r"by_hand \(Linear\) were used without calling it"),
    "own_parameter": (lambda: nn.Sequential(nn.Linear(4, 4), Scale()), r"1 \(Scale\) owns parameters"),
    "subclass": (lambda: OddLinear(4, 3), r"the model \(OddLinear\) owns parameters"),
    "weight_norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)),
        r"ParametrizedLinear\) owns parameters|ParametrizationList\) owns parameters",
    ),
}


@pytest.mark.parametrize("name", FALLBACK)
def test_what_no_formula_covers(name: str) -> None:
    make, message = FALLBACK[name]
    torch.manual_seed(0)
    model = make().double()
    inputs, targets = data((4,))
    with pytest.raises(ValueError, match=rf"({message}).*exact_norms"):
        squares(model, inputs, targets, "sum")
    expected = norms_by_loop(model, squared_error, inputs, targets)
    torch.testing.assert_close(
        exact_norms(model, squared_error, inputs, targets, chunk=2), expected, rtol=1e-10, atol=0
    )
    norms, gradient = norms_and_gradient(model, squared_error, [(inputs[:3], targets[:3]), (inputs[3:], targets[3:])])
    torch.testing.assert_close(norms, expected, rtol=1e-10, atol=0)
    mean = torch.autograd.grad(squared_error(model(inputs), targets).mean(), list(model.parameters()))
    torch.testing.assert_close(gradient, list(mean), rtol=1e-10, atol=1e-14)


def test_parameter_also_used_by_hand() -> None:
    model = randomise(TiedByHand())
    inputs, targets = data((4,))
    expected = norms_by_loop(model, squared_error, inputs, targets)
    torch.testing.assert_close(exact_norms(model, squared_error, inputs, targets), expected, rtol=1e-10, atol=0)


def test_tokens_in_the_batch_dimension() -> None:
    model = randomise(TokensFolded())
    inputs, targets = data((3, 4))
    with pytest.raises(ValueError, match=r"was given 5 examples and token \(Linear\) 15.*exact_norms"):
        squares(model, inputs, targets, "sum")
    expected = norms_by_loop(model, squared_error, inputs, targets)
    torch.testing.assert_close(exact_norms(model, squared_error, inputs, targets), expected, rtol=1e-10, atol=0)


def test_every_layer_sees_tokens_as_examples() -> None:
    """Nothing but the number of inputs tells; the tokens of an example share one layer."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.token(x.reshape(-1, 4)).tanh().reshape(len(x), -1)

    model = randomise(Net())
    inputs, targets = data((3, 4))
    expected = norms_by_loop(model, squared_error, inputs, targets)
    torch.testing.assert_close(exact_norms(model, squared_error, inputs, targets), expected, rtol=1e-10, atol=0)


def test_a_layer_without_influence_counts_nothing() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused, self.detached = nn.Linear(4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                shift = self.detached(x)
            return self.used(x) + shift

    model = randomise(Net())
    inputs, targets = data((4,))
    expected = norms_by_loop(model, squared_error, inputs, targets)
    torch.testing.assert_close(squares(model, inputs, targets, "sum").sqrt(), expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(exact_norms(model, squared_error, inputs, targets), expected, rtol=1e-10, atol=0)
    _, gradient = norms_and_gradient(model, squared_error, [(inputs, targets)])
    assert [g.abs().sum().item() > 0 for g in gradient] == [True, True, False, False, False, False]


@pytest.mark.parametrize("make", [nn.BatchNorm2d, lambda c: nn.BatchNorm2d(c, affine=False)])
def test_batch_norm_in_train_mode_is_refused(make: Callable[[int], nn.Module]) -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), make(3), nn.Flatten(), nn.Linear(27, 2)).double()
    inputs, targets = data((2, 5, 5))
    recorder = PerExampleNorms(model.eval(), "sum")
    model.train()
    refused = pytest.raises(ValueError, match=r"1 \(BatchNorm2d\).*share.*model\.eval\(\).*GroupNorm")
    with refused:
        PerExampleNorms(model, "sum")
    with refused, recorder:
        pass
    with refused:
        exact_norms(model, squared_error, inputs, targets)
    with refused:
        norms_and_gradient(model, squared_error, [(inputs, targets)])
    model.eval()
    expected = norms_by_loop(model, squared_error, inputs, targets)
    torch.testing.assert_close(exact_norms(model, squared_error, inputs, targets), expected, rtol=1e-10, atol=0)


def test_batch_norm_without_running_statistics_is_refused_in_eval_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)).eval()
    with pytest.raises(ValueError, match="track_running_stats"):
        PerExampleNorms(model, "sum")


@pytest.mark.parametrize("make", [TwoConvolutions, lambda: nn.Sequential(nn.Flatten(), nn.Linear(242, 4), Scale())])
def test_norms_and_gradient_of_unequal_batches(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make().double()
    inputs, _ = data((2, 11, 11), b=9)
    labels = torch.arange(9) % 3
    cross_entropy(model(inputs), labels).mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    batches = ((inputs[part], labels[part]) for part in (slice(0, 4), slice(4, 5), slice(5, 9)))
    norms, gradient = norms_and_gradient(model, cross_entropy, batches)
    torch.testing.assert_close(norms, norms_by_loop(model, cross_entropy, inputs, labels), rtol=1e-10, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-14)
    exact_norms(model, cross_entropy, inputs, labels)
    assert all(torch.equal(p.grad, before) for p, before in zip(model.parameters(), expected, strict=True))


@pytest.mark.parametrize("last", [nn.Identity, Scale])
def test_missing_p_grad_stays_missing(last: Callable[[], nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), last())
    inputs, targets = data((4,), torch.float32)
    exact_norms(model, squared_error, inputs, targets)
    norms_and_gradient(model, squared_error, [(inputs, targets)])
    assert all(p.grad is None for p in model.parameters())


def test_gradient_mode_of_the_caller_does_not_matter() -> None:
    model = randomise(TwoConvolutions())
    inputs, targets = data((2, 11, 11))
    expected = exact_norms(model, squared_error, inputs, targets)
    with torch.no_grad():
        actual = exact_norms(model, squared_error, inputs, targets)
    assert torch.equal(actual, expected)
    assert not actual.requires_grad


@pytest.mark.parametrize("last", [nn.Identity, Scale])
def test_active_dropout_is_drawn_for_each_example(last: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), last()).double()
    inputs, targets = data((4,))
    same_inputs, same_targets = inputs[:1].expand(20, -1), targets[:1].expand(20)
    assert len(exact_norms(model, squared_error, same_inputs, same_targets).unique()) > 3


def test_many_examples_cross_block_borders() -> None:
    """More numbers than one block holds, so that the examples are split and joined again."""
    model = randomise(nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()))
    inputs, targets = data((3, 24, 24), b=13)
    expected = norms_by_loop(model, squared_error, inputs, targets)
    torch.testing.assert_close(squares(model, inputs, targets, "sum").sqrt(), expected, rtol=1e-10, atol=0)


def test_wrong_use() -> None:
    model = nn.Linear(4, 3)
    inputs, labels = torch.randn(6, 4), torch.randint(3, (6,))
    with pytest.raises(ValueError, match="'sum' or 'mean'"):
        PerExampleNorms(model, "none")  # type: ignore[arg-type]
    with PerExampleNorms(model, "sum") as norms:
        losses = cross_entropy(model(inputs), labels)
    losses.sum().backward()
    with pytest.raises(RuntimeError, match="inside the block"):
        norms.squared()
    with pytest.raises(RuntimeError, match="already active"), norms, norms:
        pass
    with pytest.raises(RuntimeError, match="two backward passes"), PerExampleNorms(model, "sum"):
        losses = cross_entropy(model(inputs), labels)
        losses[:3].sum().backward(retain_graph=True)
        losses[3:].sum().backward()
    with pytest.raises(ValueError, match="requires_grad_"):
        exact_norms(nn.Linear(4, 3).requires_grad_(False), cross_entropy, inputs, labels)
    with pytest.raises(ValueError, match="requires_grad_"):
        PerExampleNorms(nn.ReLU(), "sum")


@pytest.mark.parametrize("model", [nn.Linear(4, 3), nn.Sequential(OddLinear(4, 3))])
def test_wrong_input(model: nn.Module) -> None:
    inputs, labels = torch.randn(6, 4), torch.randint(3, (6,))
    for function in (
        exact_norms,
        lambda model, loss, inputs, labels: norms_and_gradient(model, loss, [(inputs, labels)]),
    ):
        with pytest.raises(ValueError, match="reduction='none'"):
            function(model, F.cross_entropy, inputs, labels)
        with pytest.raises(ValueError, match="no examples"):
            function(model, cross_entropy, inputs[:0], labels[:0])
        with pytest.raises(ValueError, match="6 inputs but 5 targets"):
            function(model, cross_entropy, inputs, labels[:5])
    with pytest.raises(ValueError, match="no batches"):
        norms_and_gradient(model, cross_entropy, [])
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        exact_norms(model, cross_entropy, inputs, labels, chunk=0)


def test_detached_losses() -> None:
    with pytest.raises(ValueError, match="detaches"):
        exact_norms(nn.Linear(4, 3), lambda z, y: cross_entropy(z.detach(), y), torch.ones(2, 4), torch.tensor([0, 1]))


@pytest.mark.gpu
def test_gpu_equals_cpu() -> None:
    model = randomise(TwoConvolutions())
    inputs, targets = data((2, 11, 11))
    expected = exact_norms(model, squared_error, inputs, targets)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return squared_error(outputs.cpu(), targets.cpu())

    norms, gradient = norms_and_gradient(model.cuda(), loss, [(inputs.cuda(), targets.cuda())])
    assert norms.is_cuda
    assert all(g.is_cuda for g in gradient)
    torch.testing.assert_close(norms.cpu(), expected, rtol=1e-10, atol=0)


def test_a_watched_model_cannot_be_copied_and_one_that_was_can() -> None:
    model = nn.Linear(4, 3)
    with PerExampleNorms(model, "sum") as norms:
        model(torch.randn(2, 4)).sum().backward()
        with pytest.raises(RuntimeError, match="watched by PerExampleNorms.*: copy it outside"):
            copy.deepcopy(model)
    twin = copy.deepcopy(norms)
    assert twin._model is not model and copy.deepcopy(model).weight.equal(model.weight)
