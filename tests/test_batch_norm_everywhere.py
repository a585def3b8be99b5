"""Weighted batch normalisation in every dimension and dtype, in models made by others, and under recomputation."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import rais
from rais.batch_norm import (
    Weighted,
    WeightedBatchNorm,
    WeightedBatchNorm1d,
    WeightedBatchNorm2d,
    WeightedBatchNorm3d,
    WeightedSyncBatchNorm,
    prepare,
    reference,
    weights,
)
from rais.gradnorm import exact_norms

M, C = 6, 4
WEIGHT = torch.tensor([0.2, 5.0, 0.9, 0.0, 1e-4, 2.0])
LAYERS: dict[str, tuple[type[WeightedBatchNorm], type[nn.Module], tuple[int, ...]]] = {
    "flat": (WeightedBatchNorm1d, nn.BatchNorm1d, ()),
    "1d": (WeightedBatchNorm1d, nn.BatchNorm1d, (5,)),
    "2d": (WeightedBatchNorm2d, nn.BatchNorm2d, (5, 3)),
    "3d": (WeightedBatchNorm3d, nn.BatchNorm3d, (2, 3, 4)),
}


def batch(places: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    x = torch.randn(M, C, *places, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x * torch.arange(1, C + 1).view(-1, *[1] * len(places)) + 2).to(dtype)


def randomised(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, generator=generator)
    return layer


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 3e-5)])
def test_equals_the_reference(name: str, dtype: torch.dtype, tolerance: float) -> None:
    ours, _, places = LAYERS[name]
    layer = randomised(ours(C).double())
    exact, layer = copy.deepcopy(layer), layer.to(dtype)
    x, direction = batch(places, dtype).requires_grad_(), batch(places, seed=9)
    same = x.detach().double().requires_grad_()
    actual = Weighted(layer)(x, WEIGHT)
    expected = reference(same, WEIGHT, exact.weight, exact.bias, exact.eps)
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)
    mine = torch.autograd.grad((actual * direction).sum(), [x, *layer.parameters()])
    theirs = torch.autograd.grad((expected * direction).sum(), [same, *exact.parameters()])
    for got, wanted in zip(mine, theirs, strict=True):
        torch.testing.assert_close(got.double(), wanted, rtol=tolerance, atol=tolerance * wanted.abs().max().item())


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("settings", [{}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}])
def test_integer_weights_are_torchs_layer_on_the_repeated_batch(name: str, settings: dict[str, object]) -> None:
    ours, theirs, places = LAYERS[name]
    layer, plain = randomised(ours(C, **settings).double()), theirs(C, **settings).double()
    plain.load_state_dict(layer.state_dict())
    times = torch.tensor([1, 3, 0, 2, 1, 4])
    for seed in range(2):
        x = batch(places, seed=seed)
        actual, expected = Weighted(layer)(x, times.float()), plain(x.repeat_interleave(times, 0))
        torch.testing.assert_close(actual.repeat_interleave(times, 0), expected, rtol=1e-9, atol=1e-9)
    for mine, other in zip(layer.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_by_finite_differences(name: str) -> None:
    ours, _, places = LAYERS[name]
    layer = ours(C, track_running_stats=False).double()
    weighted = Weighted(layer)
    x = batch(places)[..., :2].contiguous() if places else batch(places)
    assert torch.autograd.gradcheck(lambda x, *_: weighted(x, WEIGHT), (x.requires_grad_(), *layer.parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("way", ["autocast", "half", "half_input"])
@pytest.mark.parametrize("name", LAYERS)
def test_half_precision(name: str, way: str, dtype: torch.dtype) -> None:
    ours, _, places = LAYERS[name]
    layer = randomised(ours(C))
    exact = copy.deepcopy(layer).double()
    if way == "half":
        layer.to(dtype)
        exact.load_state_dict(layer.state_dict())
    x = batch(places, dtype).requires_grad_()
    same = x.detach().double().requires_grad_()
    with torch.autocast("cpu", dtype, enabled=way == "autocast"):
        actual = Weighted(layer)(x, WEIGHT)
    assert actual.dtype == dtype
    expected = reference(same, WEIGHT, exact.weight, exact.bias, exact.eps)
    tolerance = 6e-2 if dtype == torch.bfloat16 else 1e-2
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)
    direction = batch(places, seed=9)
    (mine,) = torch.autograd.grad((actual.float() * direction.float()).sum(), x)
    (theirs,) = torch.autograd.grad((expected * direction).sum(), same)
    torch.testing.assert_close(mine.double(), theirs, rtol=tolerance, atol=tolerance * theirs.abs().max().item())
    assert all(b.isfinite().all() for b in layer.buffers())


def test_a_network_under_autocast() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), WeightedBatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5))
    x, y, weight = torch.randn(M, 3, 8, 8), torch.arange(M) % 5, torch.rand(M) + 0.1
    exact = copy.deepcopy(net)
    with torch.autocast("cpu", torch.bfloat16):
        (weight * F.cross_entropy(Weighted(net)(x, weight), y, reduction="none")).mean().backward()
    (weight * F.cross_entropy(Weighted(exact)(x, weight), y, reduction="none")).mean().backward()
    for mine, theirs in zip(net.parameters(), exact.parameters(), strict=True):
        assert (mine.grad - theirs.grad).abs().max() < 2e-2 + 0.05 * theirs.grad.abs().max()
    torch.testing.assert_close(net[1].running_var, exact[1].running_var, rtol=1e-2, atol=0)


class Net(nn.Module):
    """Two blocks with batch normalisation, recomputed in the backward or not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3), WeightedBatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(
            nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), WeightedBatchNorm1d(8)
        )
        self.head, self.reentrant = nn.Linear(8, 3), None

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for block in (self.first, self.second):
            x = block(x) if self.reentrant is None else checkpoint(block, x, use_reentrant=self.reentrant)
        return {"logits": self.head(x)}


def net(reentrant: bool | None) -> Net:
    torch.manual_seed(0)
    model = Net().double()
    model.reentrant = reentrant
    return model


IMAGES = torch.randn(M, 2, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
LABELS = torch.arange(M) % 3
FIRST, SECOND = torch.tensor([0.1, 0.2, 0.5, 1.0, 2.0, 4.0]), torch.tensor([3.0, 2.0, 1.0, 0.1, 0.1, 0.3])


def loss(outputs: dict[str, Tensor], weight: Tensor) -> Tensor:
    return (weight * F.cross_entropy(outputs["logits"], LABELS[: len(weight)], reduction="none")).mean()


def called(model: Net) -> None:
    loss(Weighted(model)(IMAGES.clone().requires_grad_(), FIRST), FIRST).backward()


def backward_inside(model: Net) -> None:
    with weights(model, FIRST):
        loss(model(IMAGES.clone().requires_grad_()), FIRST).backward()


def backward_after(model: Net) -> None:
    with weights(model, FIRST):
        outputs = model(IMAGES.clone().requires_grad_())
    loss(outputs, FIRST).backward()


def both_parts_forward_first(model: Net) -> None:
    """Each part of the minibatch has weights of its own, and the backward of the first comes last."""
    weighted = Weighted(model)
    outputs = [weighted(IMAGES.clone().requires_grad_(), weight) for weight in (FIRST, SECOND)]
    loss(outputs[1], SECOND).backward()
    loss(outputs[0], FIRST).backward()


def one_backward_for_two_forwards(model: Net) -> None:
    weighted = Weighted(model)
    outputs = [weighted(IMAGES.clone().requires_grad_(), weight) for weight in (FIRST, SECOND)]
    (loss(outputs[0], FIRST) + loss(outputs[1], SECOND)).backward()


def uneven_parts(model: Net) -> None:
    for part in (slice(0, 4), slice(4, 6)):
        with weights(model, FIRST[part]):
            loss(model(IMAGES[part].clone().requires_grad_()), FIRST[part]).backward()


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize(
    "step",
    [called, backward_inside, backward_after, both_parts_forward_first, one_backward_for_two_forwards, uneven_parts],
)
def test_recomputation_sees_the_weights_of_its_forward(step: Callable[[Net], None], reentrant: bool) -> None:
    plain, recomputed = net(None), net(reentrant)
    step(plain)
    step(recomputed)
    for expected, actual in zip(plain.parameters(), recomputed.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-10, atol=1e-14)
    for expected, actual in zip(plain.buffers(), recomputed.buffers(), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=0)


def test_weights_are_forgotten_after_the_backward() -> None:
    model = net(False)
    called(model)
    assert all(n.importance is None and n._of_backward is None for n in model.modules() if hasattr(n, "importance"))
    plain = copy.deepcopy(model)
    plain.reentrant = None
    for each in (model, plain):
        each.zero_grad()
        loss(each(IMAGES.clone().requires_grad_()), torch.ones(M)).backward()
    for expected, actual in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputation_without_its_weights_is_refused_by_name(reentrant: bool) -> None:
    model = net(reentrant)
    with weights(model, FIRST):  # not the model but a block of it is called, so nobody sees where its graph ends
        output = checkpoint(model.first, IMAGES.clone().requires_grad_(), use_reentrant=reentrant)
    with pytest.raises(RuntimeError, match=r"first\.1 \(WeightedBatchNorm2d\) is recomputed.*with weights\(model"):
        output.sum().backward()


def test_tokens_in_the_batch_dimension_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Flatten(0, 1), WeightedBatchNorm1d(4))
    with pytest.raises(ValueError, match=r"^1 \(WeightedBatchNorm1d\) is given 18 examples and 6 weights"):
        Weighted(model)(torch.randn(M, 3, 4), torch.ones(M))


def test_evaluation_without_running_statistics_is_weighted() -> None:
    layer = WeightedBatchNorm1d(C, track_running_stats=False).double().eval()
    x = batch(())
    torch.testing.assert_close(Weighted(layer)(x, WEIGHT), reference(x, WEIGHT, layer.weight, layer.bias, layer.eps))


class Custom(nn.modules.batchnorm._NormBase):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0) + self.eps).sqrt()


class Odd(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class ByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class FrozenBatchNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.running_mean


KNOWN = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm]
UNKNOWN = [lambda _: nn.LazyBatchNorm1d(), lambda _: Custom(4), Odd, lambda _: ByHand()]


@pytest.mark.parametrize("make", [*KNOWN, *UNKNOWN])
def test_unweighted_batch_statistics_are_refused_by_name(make: Callable[[int], nn.Module]) -> None:
    model = nn.Sequential(nn.Identity(), nn.Sequential(make(4)))
    with pytest.raises(ValueError, match=r"^1\.0 \(\w+\) would normalise with unweighted.*prepare") as raised:
        Weighted(model)
    assert "\n" not in str(raised.value)


def test_a_layer_that_leaves_eval_mode_is_refused_at_the_next_call() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4)).eval()
    weighted = Weighted(model)
    weighted(torch.randn(M, 4), torch.ones(M))
    model.train()
    with pytest.raises(ValueError, match=r"^0 \(BatchNorm1d\)"):
        weighted(torch.randn(M, 4), torch.ones(M))
    with pytest.raises(ValueError, match=r"^0 \(BatchNorm1d\)"), weights(model, torch.ones(M)):
        pass


def test_layers_without_batch_statistics_pass() -> None:
    model = nn.Sequential(
        nn.InstanceNorm1d(4, track_running_stats=True), nn.GroupNorm(2, 4), FrozenBatchNorm(), nn.BatchNorm1d(4).eval()
    )
    Weighted(model)
    with pytest.raises(ValueError, match=r"^3 \(BatchNorm1d\)"):
        Weighted(model.train())
    Weighted(prepare(model))


def everything() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2, momentum=None), nn.Flatten(1, 2), nn.Conv2d(4, 3, 2),
        nn.BatchNorm2d(3, affine=False), nn.Flatten(2), nn.BatchNorm1d(3, eps=0.1), nn.Flatten(), nn.SyncBatchNorm(27),
        nn.BatchNorm1d(27, track_running_stats=False), nn.Linear(27, 3),
    )  # fmt: skip


def test_prepare_converts_in_place_and_changes_nothing_but_the_class() -> None:
    model = randomised(everything().double())
    before, parameters, plain = model.state_dict(), list(model.parameters()), copy.deepcopy(model)
    plain[8] = nn.BatchNorm1d(27).double()  # torch's SyncBatchNorm of one process computes the same, on a GPU only
    plain[8].load_state_dict(model[8].state_dict())
    called: list[int] = []
    model[1].register_forward_hook(lambda *_: called.append(1))
    assert prepare(model) is model and rais.prepare is prepare
    assert [type(layer).__name__ for layer in model if "Norm" in type(layer).__name__] == [
        "WeightedBatchNorm3d", "WeightedBatchNorm2d", "WeightedBatchNorm1d", "WeightedSyncBatchNorm",
        "WeightedBatchNorm1d",
    ]  # fmt: skip
    assert list(model.state_dict()) == list(before)
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    classes = [type(module) for module in model.modules()]
    assert [type(module) for module in prepare(model).modules()] == classes, "a second call changes nothing"

    x = torch.randn(M, 1, 4, 6, 6, dtype=torch.float64)
    mine, theirs = Weighted(model)(x, torch.ones(M)), plain(x)
    torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    mine.square().sum().backward(), theirs.square().sum().backward()
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-9)
    for (name, a), b in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12, msg=name)
    assert called
    copy.deepcopy(model), pickle.loads(pickle.dumps(prepare(everything())))


def test_prepare_of_a_single_layer() -> None:
    assert type(prepare(nn.BatchNorm2d(3))) is WeightedBatchNorm2d


@pytest.mark.parametrize("make", UNKNOWN)
def test_prepare_names_what_it_cannot_convert_and_changes_nothing(make: Callable[[int], nn.Module]) -> None:
    model = nn.ModuleDict({"known": nn.BatchNorm1d(4), "odd": make(4), "other": make(4)})
    title = type(model["odd"]).__name__
    with pytest.raises(ValueError, match=rf"^odd \({title}\), other \({title}\) may normalise") as raised:
        prepare(model)
    assert "\n" not in str(raised.value)
    assert type(model["known"]) is nn.BatchNorm1d


def test_a_lazy_layer_can_be_prepared_after_its_first_forward() -> None:
    model = nn.Sequential(nn.LazyBatchNorm1d())
    model(torch.randn(M, 4))
    assert type(prepare(model)[0]) is WeightedBatchNorm1d


@pytest.mark.parametrize("name", LAYERS)
def test_exact_norms_in_eval_mode(name: str) -> None:
    ours, _, places = LAYERS[name]
    torch.manual_seed(0)
    model = nn.Sequential(randomised(ours(C)), nn.Flatten(), nn.LazyLinear(3)).double()
    x = batch(places)
    Weighted(model)(x, WEIGHT)
    model.eval()
    norms = exact_norms(model, lambda z, y: F.cross_entropy(z, y, reduction="none"), x, LABELS)
    for i in range(M):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), LABELS[i : i + 1]).backward()
        expected = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
        torch.testing.assert_close(norms[i], expected, rtol=1e-9, atol=0)


def test_timms_layer_with_activation() -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    plain = timm.layers.BatchNormAct2d(C)
    model = nn.Sequential(copy.deepcopy(plain))
    assert type(prepare(model)[0]).__name__ == "WeightedBatchNormAct2d"
    x = batch((5, 3), torch.float32)
    torch.testing.assert_close(Weighted(model)(x, torch.ones(M)), plain(x), rtol=1e-5, atol=1e-5)
    expected = reference(x, WEIGHT, plain.weight, plain.bias, plain.eps).relu()
    torch.testing.assert_close(Weighted(model)(x, WEIGHT).double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pickle.loads(pickle.dumps(model)).eval()(x), model.eval()(x))


def all_ranks(rank: int, file: str, expected: list[Tensor]) -> None:
    """One of two processes, each of which has half of the minibatch."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    part = slice(0, 2) if rank == 0 else slice(2, M)
    layer = randomised(WeightedSyncBatchNorm(C).double())
    x, direction = batch((5, 3))[part].requires_grad_(), batch((5, 3), seed=9)[part]
    output = Weighted(layer)(x, WEIGHT[part])
    (gradient,) = torch.autograd.grad((output * direction).sum(), x)
    for actual, whole in zip((output, gradient), expected[:2], strict=True):
        torch.testing.assert_close(actual, whole[part], rtol=1e-9, atol=1e-9)
    for actual, whole in zip(layer.buffers(), expected[2:], strict=True):
        torch.testing.assert_close(actual, whole, rtol=1e-9, atol=1e-9)
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no distributed package")
def test_two_processes_share_their_statistics(tmp_path: object) -> None:
    layer = randomised(WeightedBatchNorm2d(C).double())
    x = batch((5, 3)).requires_grad_()
    output = Weighted(layer)(x, WEIGHT)
    (gradient,) = torch.autograd.grad((output * batch((5, 3), seed=9)).sum(), x)
    expected = [output.detach(), gradient, *(buffer.clone() for buffer in layer.buffers())]
    torch.multiprocessing.spawn(all_ranks, (f"{tmp_path}/rendezvous", expected), nprocs=2)
