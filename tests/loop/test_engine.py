"""The engine's step against the same step written out, with every liberty that a loop may take."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss
from torch.optim import lr_scheduler

import loops
import rais
from loops import M, N
from rais.gain import Adaptive, FromParts, Minibatch, Off, Root, inner
from rais.loop.engine import Engine
from rais.sampling import NonFiniteNorm

X, Y = loops.data()


def sgd(model: nn.Module, lr: float = 0.2, **settings) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, **settings)


def sampler(**settings) -> rais.RAIS:
    return rais.RAIS(N, M, seed=0, visits=64, refresh=2, **settings)


def run(engine: Engine, model: nn.Module, steps: int, parts: int = 1) -> list[torch.Tensor]:
    drawn = []
    for _ in range(steps):
        draw = engine.draw()
        drawn.append(draw.index)
        for i in range(parts):
            part = draw if parts == 1 else engine.part(draw, i, parts)
            out = model(X[part.index])
            engine.backward(part, cross_entropy(out, Y[part.index], reduction="none"), out)
        engine.step()
    return drawn


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def slow(steps: int, *, lr: float, phi_every: int, momentum: float) -> tuple[torch.Tensor, list[float]]:
    """RAIS with SGD, the step written out with autograd and the sampler's own methods."""
    model, source = loops.network(), sampler()
    phi = FromParts(model.parameters(), m=M, every=phi_every)
    gain = Adaptive(phi)
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    ratios = []
    for _ in range(steps):
        draw = source.draw()
        out = model(X[draw.index])
        weighted = draw.weight * cross_entropy(out, Y[draw.index], reduction="none")
        norm = (out.softmax(1) - nn.functional.one_hot(Y[draw.index], 3)).norm(dim=1).detach()
        halves = [torch.autograd.grad(h.mean(), [*model.parameters()], retain_graph=True) for h in weighted.chunk(2)]
        gradient = torch.autograd.grad(weighted.mean(), [*model.parameters()])
        if draw.mean_norm is not None and phi.is_due:
            squares = torch.stack([inner(half, half) for half in halves])
            phi.update_from_parts([M // 2, M // 2], squares, inner(gradient, gradient), draw.mean_norm)
        source.observe(draw, norm)
        ratio = gain.update(Minibatch(draw, norm, weighted)).item()
        ratios.append(ratio)
        with torch.no_grad():
            for p, v, g in zip(model.parameters(), velocity, gradient, strict=True):
                v.mul_(momentum).add_(g)
                p -= ratio * lr * v
    return parameters(model), ratios


def test_a_run_is_the_slow_restatement() -> None:
    expected, ratios = slow(80, lr=0.2, phi_every=3, momentum=0.5)
    model = loops.network()
    engine = Engine(sgd(model, momentum=0.5), sampler(), phi_every=3)
    seen = []
    for _ in range(80):
        run(engine, model, 1)
        seen.append(engine.ratio.item())
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(ratios), rtol=1e-9, atol=0)
    torch.testing.assert_close(parameters(model), expected, rtol=1e-9, atol=1e-9)
    assert max(seen) > 1.05 and engine.t == pytest.approx(sum(ratios))
    assert engine.gain.phi.value < 1  # it was measured


def test_uniform_draws_are_plain_sgd_bit_for_bit() -> None:
    model, plain = loops.network(), loops.network()
    engine = Engine(sgd(model), rais.Uniform(N, M, seed=0))
    optimizer = sgd(plain)
    for index in run(engine, model, 30):
        (cross_entropy(plain(X[index]), Y[index], reduction="none").sum() / M).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(parameters(model), parameters(plain)) and engine.t == 30


@pytest.mark.parametrize(
    "make, named, kind",
    [
        (torch.optim.SGD, "auto", Adaptive),
        (torch.optim.Adam, "auto", Root),
        (torch.optim.AdamW, "auto", Root),
        (torch.optim.AdamW, "sgd", Adaptive),
        (torch.optim.RMSprop, "root", Root),
        (torch.optim.RMSprop, "off", Off),
    ],
)
def test_the_multiplier_is_that_of_the_optimizer_unless_it_is_named(make, named: str, kind: type) -> None:
    model = loops.network()
    engine = Engine(make(model.parameters(), lr=0.01), rais.RAIS(N, M, seed=0), gain=named)
    assert type(engine.gain) is kind


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.SGD])
def test_every_param_group_steps_at_r_times_its_rate_and_keeps_its_rate(make) -> None:
    model, twin = loops.network(), loops.network()
    groups = [{"params": list(net[0].parameters()), "lr": 0.02} for net in (model, twin)]
    rest = [{"params": list(net[3].parameters()), "lr": 0.05} for net in (model, twin)]
    engine = Engine(make([groups[0], rest[0]]), rais.Uniform(N, M, seed=0), gain=loops.Fixed(1.3))
    other = make([{**groups[1], "lr": 0.02 * 1.3}, {**rest[1], "lr": 0.05 * 1.3}])
    for index in run(engine, model, 5):
        cross_entropy(twin(X[index]), Y[index]).backward()
        other.step()
        other.zero_grad()
    assert [group["lr"] for group in engine.optimizer.param_groups] == [0.02, 0.05]
    torch.testing.assert_close(parameters(model), parameters(twin), rtol=1e-10, atol=1e-12)


def cosine(optimizer, steps):
    return lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)


def sequential(optimizer, steps):
    first = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
    return lr_scheduler.SequentialLR(optimizer, [first, cosine(optimizer, steps - 10)], milestones=[10])


SCHEDULERS = {
    "cosine": cosine,
    "one_cycle": lambda optimizer, steps: lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=steps + 1),
    "step": lambda optimizer, steps: lr_scheduler.StepLR(optimizer, 7, 0.5),
    "linear": lambda optimizer, steps: lr_scheduler.LinearLR(optimizer, total_iters=20),
    "lambda": lambda optimizer, steps: lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + epoch)),
    "sequential": sequential,
    "chained": lambda optimizer, steps: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(optimizer, total_iters=5), cosine(optimizer, steps)]
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step()`")  # torch's own, from SequentialLR
def test_a_scheduler_is_where_plain_sgd_would_have_it_at_t_hat_and_never_past_its_end(name: str) -> None:
    """Faster than t and slower; the plain optimizer's rates by epoch are the truth."""
    steps = 40
    plain = sgd(loops.network())
    reference = SCHEDULERS[name](plain, steps)
    rates = []
    for _ in range(steps + 1):
        rates.append(plain.param_groups[0]["lr"])
        plain.step()
        if len(rates) <= steps:
            reference.step()
    for ratio in (1.3, 0.5, 3.7):
        model = loops.network()
        optimizer = sgd(model)
        scheduler = SCHEDULERS[name](optimizer, steps)
        engine = Engine(optimizer, rais.Uniform(N, M, seed=0), scheduler=scheduler, gain=loops.Fixed(ratio))
        while engine.t < steps + 5:
            run(engine, model, 1)
            at = min(math.ceil(engine.t - 1e-9), steps) if name not in ("step", "linear", "lambda") else None
            if at is not None or engine.t <= steps:
                expected = rates[math.ceil(engine.t - 1e-9) if at is None else at]
                assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, abs=1e-12)


def test_a_callable_rate_is_read_at_t_hat_before_the_step() -> None:
    model, twin = loops.network(), loops.network()
    engine = Engine(sgd(model), rais.Uniform(N, M, seed=0), scheduler=lambda t: 0.3 / (1 + t), gain=loops.Fixed(1.5))
    indices = run(engine, model, 4)
    for k, index in enumerate(indices):
        optimizer = sgd(twin, lr=1.5 * 0.3 / (1 + 1.5 * k))
        cross_entropy(twin(X[index]), Y[index]).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(parameters(model), parameters(twin), rtol=1e-10, atol=1e-12)
    assert engine.optimizer.param_groups[0]["lr"] == 0.2


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_make_the_step_of_the_whole(parts: int) -> None:
    whole, split = loops.network(), loops.network()
    first = Engine(sgd(whole), sampler(), gain="off")
    second = Engine(sgd(split), sampler(), gain="off")
    for a, b in zip(run(first, whole, 60), run(second, split, 60, parts), strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(parameters(whole), parameters(split), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sizes", [(8, 8), (7, 7, 1, 1), (1, 15)])
@pytest.mark.parametrize("scale", [None, 1024.0])
@pytest.mark.parametrize("framework", [False, True])
def test_parts_of_any_sizes_give_gradient_and_phi_of_autograd_by_hand(sizes, scale, framework) -> None:
    model = loops.network()
    model[0].bias.requires_grad_(False)
    phi = FromParts(model.parameters(), m=M)
    engine = Engine(sgd(model), sampler(), gain=Adaptive(phi))
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=10**6)
    while engine.draw().mean_norm is None:  # importance draws
        engine.skip(next(iter(engine.flight.draws.values())))
        draw = engine.sampler.draw()
        engine.sampler.observe(draw, torch.rand(M, generator=torch.Generator().manual_seed(draw.ticket)) + 0.1)
    draw = next(iter(engine.flight.draws.values()))
    trainable = [p for p in model.parameters() if p.requires_grad]
    begins = [sum(sizes[:k]) for k in range(len(sizes))]
    by_hand, squares = [], []
    for begin, size in zip(begins, sizes, strict=True):
        own = slice(begin, begin + size)
        losses = cross_entropy(model(X[draw.index[own]]), Y[draw.index[own]], reduction="none")
        gradient = torch.autograd.grad((draw.weight[own] * losses).mean(), trainable)
        by_hand.append([size / M * g for g in gradient])
        squares.append(inner(gradient, gradient))
    total = [sum(each) for each in zip(*by_hand, strict=True)]
    expected = copy.deepcopy(phi)
    expected.update_from_parts(sizes, torch.stack(squares), inner(total, total), draw.mean_norm)
    for begin, size in zip(begins, sizes, strict=True):
        own = slice(begin, begin + size)
        part = draw._replace(index=draw.index[own], weight=draw.weight[own], first=begin, of=M)
        out = model(X[part.index])
        losses = cross_entropy(out, Y[part.index], reduction="none")
        if framework:
            loss = engine.loss(part, losses, out)
            (loss if scaler is None else scaler.scale(loss)).backward()
        else:
            engine.backward(part, losses, out, scaler=scaler)
    before = [p.detach().clone() for p in trainable]
    engine.step(scaler=scaler)
    expected.iteration += 1
    own = phi.state_dict()
    for name, value in expected.state_dict().items():  # averages too: φ itself may be at its bound
        if not isinstance(value, str):
            torch.testing.assert_close(torch.as_tensor(own[name]), torch.as_tensor(value), rtol=1e-9, atol=1e-12)
    for p, old, g in zip(trainable, before, total, strict=True):
        torch.testing.assert_close(p.detach(), old - engine.ratio * 0.2 * g, rtol=1e-9, atol=1e-12)


def test_the_loss_for_frameworks_makes_the_same_run() -> None:
    own, framework = loops.network(), loops.network()
    first, second = Engine(sgd(own), sampler(), phi_every=4), Engine(sgd(framework), sampler(), phi_every=4)
    run(first, own, 60)
    for _ in range(60):
        draw = second.draw()
        out = framework(X[draw.index])
        second.loss(draw, cross_entropy(out, Y[draw.index], reduction="none"), out).backward()
        second.step()
    torch.testing.assert_close(parameters(own), parameters(framework), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(first.ratio, second.ratio, rtol=1e-9, atol=0)


def test_clipping_comes_after_phi_and_before_r() -> None:
    model, twin = loops.network(), loops.network()
    engine = Engine(sgd(model), rais.Uniform(N, M, seed=0), gain=loops.Fixed(2.0))
    draw = engine.draw()
    out = model(X[draw.index])
    engine.backward(draw, cross_entropy(out, Y[draw.index], reduction="none"), out)
    engine.step(clip=0.01)
    cross_entropy(twin(X[draw.index]), Y[draw.index]).backward()
    norm = torch.cat([p.grad.flatten() for p in twin.parameters()]).norm()
    expected = parameters(twin) - 2 * 0.2 * 0.01 / norm * torch.cat([p.grad.flatten() for p in twin.parameters()])
    torch.testing.assert_close(parameters(model), expected, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_step_that_is_not_finite_changes_no_average_and_loses_no_example(scaled: bool) -> None:
    model = loops.network(torch.float32)
    x = X.float()
    engine = Engine(sgd(model), sampler(), phi_every=1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0) if scaled else None
    seen = []
    for step in range(60):
        draw = engine.draw()
        out = model(x[draw.index])
        losses = cross_entropy(out, Y[draw.index], reduction="none")
        is_bad = step in (5, 40)
        if is_bad:
            before = (engine.gain.state_dict(), parameters(model), engine.t)
            losses = losses * torch.tensor([float("inf")] + [1.0] * (M - 1))
        engine.backward(draw, losses, out, norm=None if not is_bad else torch.ones(M), scaler=scaler)
        assert engine.step(scaler=scaler) is not is_bad
        if is_bad:
            after = engine.gain.state_dict()
            assert all(
                torch.equal(torch.as_tensor(after[k]), torch.as_tensor(v))
                for k, v in before[0].items()
                if not isinstance(v, str)
            )
            assert torch.equal(parameters(model), before[1]) and engine.t == before[2]
            assert scaler is None or scaler.get_scale() < 8
        if not is_bad and step < 14:
            seen.append(draw.index)
        assert all(p.grad is None for p in model.parameters())
    assert len(torch.cat(seen).unique()) == N  # all of the first pass, in the thirteen steps that were made
    assert engine.skipped == 2 and engine.iteration == 58 and not engine.flight.draws


def test_a_run_that_is_never_finite_again_ends() -> None:
    model = loops.network()
    engine = Engine(sgd(model), sampler())
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    with pytest.raises(NonFiniteNorm, match="100 steps in a row"):
        run(engine, model, 101)


def test_finite_half_precision_gradients_are_not_taken_for_infinite_ones() -> None:
    from rais.loop.gradients import are_finite

    assert are_finite([torch.full((4,), 6e4, dtype=torch.float16)], torch.ones(3))
    assert not are_finite([torch.tensor([1.0, float("nan")])], None)
    assert not are_finite([torch.ones(2)], torch.tensor([1.0, float("inf")]))


def test_looking_less_often_changes_nothing_but_when_t_is_known() -> None:
    often, rarely = loops.network(), loops.network()
    first = Engine(sgd(often), sampler(), budget=100.0)
    second = Engine(sgd(rarely), sampler(), budget=100.0, check_every=10)
    for engine, model in ((first, often), (second, rarely)):
        while not engine.is_done:
            run(engine, model, 1)
    assert torch.equal(parameters(often), parameters(rarely)) and first.t == second.t  # not late at the budget
    third = Engine(sgd(loops.network()), rais.Uniform(N, M, seed=0), check_every=10)
    run(third, third_model := loops.network(), 0)
    assert third.t == 0 and third_model is not None


LOSSES = {
    "cross_entropy": lambda out, k: cross_entropy(out, Y[k], reduction="none"),
    "weighted": lambda out, k: cross_entropy(out, Y[k], weight=torch.tensor([1.0, 2, 3]).double(), reduction="none"),
    "smoothed": lambda out, k: cross_entropy(out, Y[k], label_smoothing=0.1, reduction="none"),
    "ignored": lambda out, k: cross_entropy(out, Y[k].masked_fill(k % 2 == 0, -100), reduction="none"),
    "ignored 1": lambda out, k: cross_entropy(out, Y[k], ignore_index=1, reduction="none"),
    "binary": lambda out, k: binary_cross_entropy_with_logits(out, X[k, :3].sigmoid(), reduction="none").sum(1),
    "squares": lambda out, k: mse_loss(out, X[k, :3], reduction="none").mean(1),
    "of a slice": lambda out, k: cross_entropy(out[:, :2], Y[k].clamp_max(1), reduction="none"),
    "of a multiple": lambda out, k: cross_entropy(3 * out, Y[k], reduction="none"),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("is_leaf", [False, True])
def test_the_norm_is_that_of_each_loss_in_the_outputs(name: str, is_leaf: bool) -> None:
    from rais.loop.graph import norm_of

    k = torch.arange(10)
    out = loops.network()(X[k])
    out = out.detach().requires_grad_() if is_leaf else out
    losses = LOSSES[name](out, k)
    expected = [torch.autograd.grad(loss, out, retain_graph=True)[0].norm() for loss in losses]
    torch.testing.assert_close(norm_of(losses, out), torch.stack(expected), rtol=1e-9, atol=1e-15)


def test_a_norm_below_float32_is_seen_without_being_asked_for() -> None:
    from rais.loop.graph import norm_of

    out = torch.tensor([[40.0, 0.0]], requires_grad=True)
    assert norm_of(cross_entropy(out, torch.tensor([0]), reduction="none"), out).item() == pytest.approx(
        math.sqrt(2) * math.exp(-40), rel=1e-5
    )


@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("parts", [1, 2])
def test_batch_normalisation_gets_the_weights(prepared: bool, parts: int) -> None:
    model = loops.network(batch_norm=True)
    if not prepared:
        with pytest.raises(RuntimeError, match=r"rais\.prepare\(model\)"):
            run(Engine(sgd(model), sampler()), model, 1)
        with pytest.raises(ValueError, match=r"1 \(BatchNorm1d\)"):
            Engine(sgd(model), sampler(), model=model)
        run(Engine(sgd(model), rais.Uniform(N, M, seed=0)), model, 1)
        return
    model, twin = rais.batch_norm.prepare(model), rais.batch_norm.prepare(loops.network(batch_norm=True))
    engine = Engine(sgd(model), source := sampler(), model=model, gain="off")
    weighted, optimizer, other = rais.batch_norm.Weighted(twin), sgd(twin), sampler()
    for _ in range(60):
        run(engine, model, 1, parts)
        draw = other.draw()
        norms = []
        for part in [draw.part(i, parts) for i in range(parts)]:
            out = weighted(X[part.index], part.weight)
            norms.append(rais.softmax_cross_entropy_norm(out, Y[part.index]))
            (part.weight * cross_entropy(out, Y[part.index], reduction="none")).sum().div(M).backward()
        other.observe(draw, torch.cat(norms))
        optimizer.step()
        optimizer.zero_grad()
    assert source.has_learned
    torch.testing.assert_close(parameters(model), parameters(twin), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(model[1].running_var, twin[1].running_var)


@pytest.mark.skipif(
    not any("ticket" in name for name in sampler().state_dict()), reason="the sampler's state has no draws in flight"
)
def test_state_continues_the_run_bit_for_bit_with_a_draw_in_flight(tmp_path) -> None:
    def build():
        model = loops.network()
        optimizer = sgd(model, momentum=0.9)
        return model, optimizer, Engine(optimizer, sampler(), scheduler=cosine(optimizer, 200), phi_every=5)

    model, optimizer, engine = build()
    run(engine, model, 43)
    ahead = engine.draw()
    scheduler = engine.rate.scheduler.state_dict()
    saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "engine": engine.state_dict()}
    torch.save({**saved, "scheduler": scheduler}, tmp_path / "state.pt")
    drawn = [ahead.index]
    out = model(X[ahead.index])
    engine.backward(ahead, cross_entropy(out, Y[ahead.index], reduction="none"), out)
    engine.step()
    drawn += run(engine, model, 30)

    other, other_optimizer, other_engine = build()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(state["model"])
    other_optimizer.load_state_dict(state["optimizer"])
    other_engine.load_state_dict(state["engine"])
    other_engine.rate.scheduler.load_state_dict(state["scheduler"])
    again = run(other_engine, other, 31)
    assert all(torch.equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert torch.equal(parameters(model), parameters(other)) and engine.t == other_engine.t


def test_phases_are_marked_in_order() -> None:
    model = loops.network()
    engine = Engine(sgd(model), sampler())
    marks: list[str] = []
    engine.mark = marks.append
    run(engine, model, 1)
    assert marks == ["sampler", "norms", "backward", "sampler", "gain", "step"]


def test_gain_is_off_where_nothing_can_be_gained() -> None:
    assert isinstance(Engine(sgd(loops.network()), rais.Uniform(N, M, seed=0)).gain, Off)
    assert isinstance(Engine(sgd(loops.network()), sampler()).gain, Adaptive)
    assert isinstance(Engine(sgd(loops.network()), sampler(), gain="off").gain, Off)


class Recomputing(nn.Module):
    """The network with its normalised half recomputed in the backward pass."""

    def __init__(self, network: nn.Sequential, reentrant: bool | None) -> None:
        super().__init__()
        self.network, self.reentrant = network, reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.network[0](x)
        if self.reentrant is None:
            return self.network[1:](h)
        return torch.utils.checkpoint.checkpoint(self.network[1:], h, use_reentrant=self.reentrant)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(reentrant: bool, parts: int) -> None:
    ends = []
    for setting in (None, reentrant):
        model = Recomputing(rais.prepare(loops.network(batch_norm=True)), setting)
        engine = Engine(sgd(model), sampler(), model=model, phi_every=2)
        run(engine, model, 40, parts)
        ends.append(torch.cat([parameters(model), engine.ratio[None]]))
    assert ends[0][-1] != 1
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)
