"""What loops do that are not ours: clip and add losses by themselves, compile, end in a softmax, hold bad examples."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import loops
import rais
from rais.loop.graph import has_unweighted_statistics, norm_of
from rais.sampling import NonFiniteNorm


def trained(between=None, *, model=None, before=None, by_framework=False, parts=1, clip=None, scaler=None):
    """r of every step of a small run with φ measured at each, whose loop does `before` and `between` with the model."""
    x, y = loops.data()
    model = model or loops.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    engine = rais.Engine(optimizer, rais.RAIS(len(x), loops.M, seed=0), phi_every=1)
    ratios = []
    for _ in range(60):
        whole = engine.draw()
        if before is not None:
            before(model)
        for i in range(parts):
            draw = engine.part(whole, i, parts) if parts > 1 else whole
            out = model(x[draw.index])
            losses = F.cross_entropy(out, y[draw.index], reduction="none")
            if by_framework:
                engine.loss(draw, losses, out).backward()
            else:
                engine.backward(draw, losses, out, scaler=scaler)
        if between is not None:
            between(model)
        assert engine.step(clip=clip, scaler=scaler)
        ratios.append(engine.ratio.item())
    return ratios


def clip(model) -> None:
    nn.utils.clip_grad_norm_(model.parameters(), 0.05)


def regularise(model) -> None:
    (0.01 * sum(p.square().sum() for p in model.parameters())).backward()


@pytest.mark.parametrize("by_framework", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_a_loop_that_clips_by_itself_has_the_ratios_of_one_that_asks_step_to(by_framework, parts) -> None:
    expected = trained(clip=0.05, by_framework=by_framework, parts=parts)
    assert trained(clip, by_framework=by_framework, parts=parts) == pytest.approx(expected, rel=1e-6)
    assert len(set(expected)) > 20, "φ was measured"


@pytest.mark.parametrize("by_framework", [False, True])
@pytest.mark.parametrize("parts", [1, 3])
def test_another_loss_before_or_after_is_no_part_of_phi(by_framework, parts) -> None:
    early = trained(before=regularise, by_framework=by_framework, parts=parts)
    assert trained(regularise, by_framework=by_framework, parts=parts) == pytest.approx(early, rel=1e-6)


def test_the_square_of_the_whole_is_that_of_its_losses_alone() -> None:
    x, y = loops.data()
    model = loops.network()
    engine = rais.Engine(torch.optim.SGD(model.parameters(), lr=0.2), rais.RAIS(len(x), loops.M, seed=0), phi_every=1)
    measured = 0
    for _ in range(40):
        draw = engine.draw()
        out = model(x[draw.index])
        losses = F.cross_entropy(out, y[draw.index], reduction="none")
        own = torch.autograd.grad((draw.weight * losses).mean(), model.parameters(), retain_graph=True)
        regularise(model)
        engine.backward(draw, losses, out)
        regularise(model)
        if engine.measures_phi(draw):
            measured += 1
            assert engine.squares.whole_sq.item() == pytest.approx(sum(g.square().sum().item() for g in own), rel=1e-9)
        engine.step()
    assert measured > 20


def test_a_loop_that_unscales_and_clips_by_itself() -> None:
    def scaler():
        return torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10_000)

    own, ours = scaler(), scaler()
    optimizers = []

    def unscale_and_clip(model) -> None:
        own.unscale_(optimizers[0])
        clip(model)

    original = torch.optim.SGD.__init__

    def remember(self, *args, **kwargs) -> None:
        original(self, *args, **kwargs)
        optimizers[:] = [self]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "__init__", remember)
        found = trained(unscale_and_clip, scaler=own)
    assert found == pytest.approx(trained(clip=0.05, scaler=ours), rel=1e-6)


def test_gradients_that_never_reach_the_optimizer_are_refused() -> None:
    with pytest.raises(
        RuntimeError, match=r"no gradient in the optimizer's parameters: leave zero_grad\(\) to the engine"
    ):
        trained(lambda model: model.zero_grad())


def rectified() -> nn.Module:
    """Its compiled backward overwrites what the forward kept of the rectifier."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()


@pytest.mark.parametrize("by_framework", [False, True])
def test_a_compiled_graph_that_is_good_for_one_backward_is_refused_at_once(by_framework) -> None:
    x, _ = loops.data()
    model = torch.compile(rectified(), backend="aot_eager")
    model(x[: loops.M]).sum().backward()  # compiled for one backward
    with pytest.raises(RuntimeError, match="donated_buffer = False"):
        trained(model=model, by_framework=by_framework)
    assert trained(model=model, parts=2)[-1] != 1, "the second cure"
    torch._dynamo.reset()
    with torch._functorch.config.patch(donated_buffer=False):
        model = torch.compile(rectified(), backend="aot_eager")
        model(x[: loops.M]).sum().backward()
        assert trained(model=model, by_framework=by_framework)[-1] != 1, "the first cure"
    torch._dynamo.reset()


@pytest.mark.parametrize("by_framework", [False, True])
def test_a_model_that_is_compiled_in_the_loop_is_compiled_for_two_backwards(by_framework) -> None:
    ratios = trained(model=torch.compile(rectified(), backend="aot_eager"), by_framework=by_framework)
    torch._dynamo.reset()
    assert ratios[-1] != 1


def test_a_reentrant_checkpoint_is_refused_where_a_framework_runs_the_backward() -> None:
    x, y = loops.data()
    model = loops.network()
    engine = rais.Engine(torch.optim.SGD(model.parameters(), lr=0.2), rais.RAIS(len(x), loops.M, seed=0))
    draw = engine.draw()
    out = checkpoint(model, x[draw.index].requires_grad_(), use_reentrant=True)
    losses = F.cross_entropy(out, y[draw.index], reduction="none")
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        engine.loss(draw, losses, out)
    engine.backward(draw, losses, out)
    assert engine.step()


LOGITS = torch.randn(7, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
LABELS = torch.tensor([0, 1, 2, 3, 0, 1, 2])
HOT = F.one_hot(LABELS, 4).double()
ENDS = {
    "log_softmax, nll_loss": (lambda z: F.log_softmax(z, 1), lambda out: F.nll_loss(out, LABELS, reduction="none")),
    "softmax, log": (lambda z: z.softmax(1), lambda out: -(out.log() * HOT).sum(1)),
    "log_softmax, kl_div": (
        lambda z: F.log_softmax(z, 1),
        lambda out: F.kl_div(out, HOT * 0.9 + 0.025, reduction="none").sum(1),
    ),
    "sigmoid, bce": (torch.sigmoid, lambda out: F.binary_cross_entropy(out, HOT, reduction="none").sum(1)),
    "logsigmoid": (F.logsigmoid, lambda out: -(out * HOT).sum(1)),
}


@pytest.mark.parametrize("through", [False, True], ids=["leaf", "layer"])
@pytest.mark.parametrize("name", ENDS)
def test_a_model_that_ends_in_a_softmax_or_a_sigmoid_has_its_norms_before_it(name, through) -> None:
    end, loss = ENDS[name]
    leaf = LOGITS.clone().requires_grad_()
    z = leaf * 1.0 if through else leaf
    out = end(z)
    losses = loss(out)
    found = norm_of(losses, out)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    torch.testing.assert_close(found.double(), gradient.norm(dim=1), rtol=1e-6, atol=1e-9)


def test_log_probabilities_of_an_example_that_is_all_but_learned() -> None:
    out = F.log_softmax(torch.tensor([[25.0, 0.0, 0.0]], requires_grad=True), 1)
    found = norm_of(F.nll_loss(out, torch.tensor([0]), reduction="none"), out)
    assert found.item() == pytest.approx(6**0.5 * math.exp(-25), rel=1e-5), "√2 too small where 1 − p rounds to 0"


def test_labels_of_one_byte() -> None:
    out = LOGITS.clone().requires_grad_()
    losses = F.cross_entropy(out, LABELS.to(torch.uint8), reduction="none")
    torch.testing.assert_close(norm_of(losses, out), (LOGITS.softmax(1) - HOT).norm(dim=1))


def test_outputs_that_are_no_tensor() -> None:
    out = LOGITS.clone().requires_grad_()
    with pytest.raises(TypeError, match=r"outputs must be a tensor, got tuple; pass its tensor, such as out\.logits"):
        norm_of(F.cross_entropy(out, LABELS, reduction="none"), (out,))


@pytest.mark.parametrize(
    ("layer", "shape", "is_refused"),
    [
        (nn.InstanceNorm1d(6, affine=True), (5, 6, 4), False),
        (nn.InstanceNorm2d(6), (5, 6, 4, 4), False),
        (nn.InstanceNorm2d(6, track_running_stats=True), (5, 6, 4, 4), False),
        (nn.GroupNorm(2, 6), (5, 6, 4), False),
        (nn.BatchNorm1d(6), (5, 6), True),
        (nn.BatchNorm2d(6), (5, 6, 4, 4), True),
    ],
    ids=str,
)
def test_instance_normalisation_is_no_batch_normalisation(layer, shape, is_refused) -> None:
    x = torch.randn(shape, requires_grad=True)
    assert has_unweighted_statistics(layer(x).flatten(1).sum(1)) is is_refused


@pytest.mark.parametrize(
    "sampler", [rais.RAIS, lambda *a, **k: rais.Smoothed(*a, delta=0.1, **k)], ids=["rais", "smoothed"]
)
def test_a_bad_example_holds_up_the_end_of_the_first_pass_alone_and_is_named(sampler) -> None:
    x, y = loops.data()
    x[17] = float("nan")
    model = loops.network()
    engine = rais.Engine(torch.optim.SGD(model.parameters(), lr=0.2), sampler(len(x), loops.M, seed=0))
    seen = set()
    with pytest.raises(NonFiniteNorm, match=r"or an example holds such values, the last .* of the examples (.*\b17\b)"):
        for _ in range(1000):
            draw = engine.draw()
            out = model(x[draw.index])
            engine.backward(draw, F.cross_entropy(out, y[draw.index], reduction="none"), out)
            if engine.step():
                seen |= set(draw.index.tolist())
    assert len(seen) >= len(x) - loops.M, "all other minibatches of the first pass were trained with"


def test_examples_that_were_skipped_come_again_within_the_first_pass() -> None:
    sampler = rais.RAIS(50, 8, seed=0)
    seen = []
    for step in range(8):
        draw = sampler.draw()
        if step in (0, 3):
            sampler.skip(draw)
            last = draw
            continue
        if step in (1, 4):
            assert not set(draw.index.tolist()) & set(last.index.tolist()), "not the same minibatch at once"
        sampler.observe(draw, torch.ones(8))
        seen += draw.index.tolist()
    assert len(set(seen[:48])) == 48


def test_lbfgs_is_refused() -> None:
    optimizer = torch.optim.LBFGS(loops.network().parameters())
    for gain in ("auto", "off", "sgd"):
        with pytest.raises(ValueError, match="LBFGS needs a closure"):
            rais.Engine(optimizer, rais.RAIS(100, 10, seed=0), gain=gain)


def test_samplers_under_another_default_dtype() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        double = rais.RAIS(60, 6, visits=20, seed=0)
        for _ in range(30):
            draw = double.draw()
            double.observe(draw, torch.rand(6, generator=torch.Generator().manual_seed(1), dtype=torch.float32))
    finally:
        torch.set_default_dtype(torch.float32)
    single = rais.RAIS(60, 6, visits=20, seed=0)
    for _ in range(30):
        draw = single.draw()
        single.observe(draw, torch.rand(6, generator=torch.Generator().manual_seed(1), dtype=torch.float32))
    assert double.has_learned and torch.equal(double.draw().index, single.draw().index)
