"""Wrong uses of the library, each a function that commits one; `python wrong_use.py` writes docs/wrong_use.md.

A function's docstring says what is done wrong. It returns or raises: the message is what is raised.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import lr_scheduler
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import loops
import rais

PAGE = Path(__file__).resolve().parents[2] / "docs" / "wrong_use.md"
N, M = 40, 8
X, Y = loops.data(N, torch.float32)

HEAD = """# Wrong use, and what is said about it

Every row of the table is a test: `tests/loop/test_wrong_use.py` does what the row says and compares the message.
`python tests/support/wrong_use.py` writes this page anew.

| what is done wrong | what the library says |
|---|---|
"""

TAIL = """
## What cannot be seen

- **Labels or inputs of other examples than the draw's**, `y[:m]` for `y[draw.index]` for instance: the lengths agree,
  and the library never sees the data set. `Loader` leaves no room for it.
- **Losses that were multiplied by `draw.weight` already**: they look like any losses. `engine.backward` weighs them;
  the loop does not.
- **Unweighted batch statistics in a compiled model or in a reentrant checkpoint, where `Engine` was not given
  `model=`**: they are not in the graph that autograd shows. With `model=` the layers themselves are looked at.
- **A data set whose order changed between a run and its resume**: example 7 is another one.
  Only its length is compared.
- **Log-probabilities that something was done to after their softmax**: their norms are nearly alike, and r stays at 1.
  Pass the logits as `out`; a softmax or sigmoid that is the model's very end is seen.
- **A loss that compares the examples of a minibatch** (contrastive losses): importance weights do not make it unbiased.
- **Between two looks at an accelerator** (`check_every` steps) a step with gradients that are not finite is made; what
  follows is not finite either, and the next look says so.
"""


def setup(**settings):
    model = loops.network(torch.float32, batch_norm=settings.pop("batch_norm", False))
    if settings.pop("prepared", False):
        settings["model"] = model = rais.prepare(model)
    optimizer = settings.pop("optimizer", torch.optim.SGD)(model.parameters(), lr=0.1)
    schedule = settings.pop("schedule", None)
    if schedule is not None:
        settings["scheduler"] = schedule(optimizer)
    source = settings.pop("source", None) or rais.RAIS(N, M, seed=0)
    return model, rais.Engine(optimizer, source, **settings)


def backward(model, engine, draw, **settings):
    out = model(X[draw.index])
    return engine.backward(draw, cross_entropy(out, Y[draw.index], reduction="none"), out, **settings)


def mean_loss():
    """a mean-reduced loss"""
    model, engine = setup()
    draw = engine.draw()
    out = model(X[draw.index])
    engine.backward(draw, cross_entropy(out, Y[draw.index]), out)


def loss_per_token():
    """one loss for each token, (m, tokens)"""
    _, engine = setup()
    out = torch.randn(M, 5, 3, requires_grad=True)
    engine.backward(engine.draw(), out.square().sum(2), out)


def other_length():
    """losses of other examples than the draw's"""
    model, engine = setup()
    draw, out = engine.draw(), model(X)
    engine.backward(draw, cross_entropy(out, Y, reduction="none"), out)


def no_graph():
    """outputs without a graph"""
    model, engine = setup()
    draw = engine.draw()
    out = model(X[draw.index]).detach()
    engine.backward(draw, cross_entropy(out, Y[draw.index], reduction="none"), out)


def other_outputs():
    """outputs that the losses were not computed from"""
    model, engine = setup()
    draw = engine.draw()
    out = model(X[draw.index])
    engine.backward(draw, cross_entropy(out, Y[draw.index], reduction="none"), out.clone())


def step_without_backward():
    """`step()` without `backward`"""
    _, engine = setup()
    engine.draw()
    engine.step()


def loss_without_backward():
    """`engine.loss(…)` whose backward was never called"""
    model, engine = setup()
    draw = engine.draw()
    out = model(X[draw.index])
    engine.loss(draw, cross_entropy(out, Y[draw.index], reduction="none"), out)
    engine.step()


def zero_grad_before_step():
    """`optimizer.zero_grad()` between `backward` and `step()`, or an optimizer of another model"""
    model, engine = setup()
    backward(model, engine, engine.draw())
    model.zero_grad()
    engine.step()


def compiled_for_one_backward():
    """a compiled model whose graph is good for one backward only"""
    model, engine = setup()
    compiled = torch.compile(nn.Sequential(model, nn.ReLU(), nn.Linear(3, 3)), backend="aot_eager")
    try:
        compiled(X[:M]).sum().backward()
        backward(compiled, engine, engine.draw())
    finally:
        torch._dynamo.reset()


def reentrant_checkpoint():
    """a reentrant checkpoint below `engine.loss(…)`"""
    model, engine = setup()
    draw = engine.draw()
    out = checkpoint(model, X[draw.index].requires_grad_(), use_reentrant=True)
    engine.loss(draw, cross_entropy(out, Y[draw.index], reduction="none"), out)


def part_missing():
    """a micro-batch left out"""
    model, engine = setup()
    draw = engine.draw()
    backward(model, engine, draw.part(0, 4))
    backward(model, engine, draw.part(2, 4))
    engine.step()


def part_twice():
    """a micro-batch worked off twice"""
    model, engine = setup()
    draw = engine.draw()
    for i in (0, 0, 1):
        backward(model, engine, draw.part(i, 2))
    engine.step()


def two_draws():
    """gradients of two draws accumulated into one step"""
    model, engine = setup()
    for _ in range(2):
        backward(model, engine, engine.draw())
    engine.step()


def observed_twice():
    """a draw observed twice"""
    sampler = rais.RAIS(N, M, seed=0)
    draw = sampler.draw()
    sampler.observe(draw, torch.ones(M))
    sampler.observe(draw, torch.ones(M))


def draw_of_another_sampler():
    """a draw of another sampler"""
    model, engine = setup()
    other = rais.RAIS(N, M, seed=1)
    for _ in range(3):
        draw = other.draw()
    backward(model, engine, draw)
    engine.step()


def scheduler_moved():
    """`scheduler.step()` left in the loop"""
    model, engine = setup(schedule=lambda optimizer: lr_scheduler.StepLR(optimizer, 5))
    for _ in range(2):
        backward(model, engine, engine.draw())
        engine.step()
        engine.rate.scheduler.step()


def plateau():
    """`ReduceLROnPlateau` as the engine's scheduler"""
    setup(schedule=lr_scheduler.ReduceLROnPlateau)


def scheduler_of_another_optimizer():
    """a scheduler of another optimizer"""
    other = torch.optim.SGD(loops.network().parameters(), lr=1.0)
    setup(schedule=lambda optimizer: lr_scheduler.StepLR(other, 5))


def one_rate_for_two_groups():
    """a callable lr(t̂) beside param groups of different rates"""
    model = loops.network()
    groups = [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[3].parameters(), "lr": 0.01}]
    rais.Engine(torch.optim.SGD(groups), rais.RAIS(N, M, seed=0), scheduler=lambda t: 0.1)


def other_optimizer():
    """`gain="auto"` with RMSprop"""
    setup(optimizer=torch.optim.RMSprop)


def lbfgs():
    """LBFGS"""
    setup(optimizer=torch.optim.LBFGS)


def unknown_gain():
    """a gain that does not exist"""
    setup(gain="adaptive")


def one_example():
    """minibatches of one example"""
    setup(source=rais.RAIS(N, 1, seed=0))


def unweighted_batch_norm():
    """batch normalisation that was not prepared"""
    model, engine = setup(batch_norm=True)
    backward(model, engine, engine.draw())


def unprepared_model():
    """a model that was not prepared, given as `model=`"""
    model = loops.network(batch_norm=True)
    rais.Engine(torch.optim.SGD(model.parameters(), lr=0.1), rais.RAIS(N, M, seed=0), model=model)


def weights_of_another_part():
    """micro-batches through batch normalisation by `draw.part`"""
    model, engine = setup(batch_norm=True, prepared=True)
    draw = engine.draw()
    for i in range(2):
        part = draw.part(i, 2)
        out = nn.Sequential(*model)(X[part.index])
        engine.backward(part, cross_entropy(out, Y[part.index], reduction="none"), out)


def scaler_in_step_alone():
    """a GradScaler given to `step` alone"""
    model, engine = setup()
    backward(model, engine, engine.draw())
    engine.step(scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))


def scaler_in_backward_alone():
    """a GradScaler given to `backward` alone"""
    model, engine = setup()
    backward(model, engine, engine.draw(), scaler=torch.amp.GradScaler("cpu", init_scale=1024.0))
    engine.step()


def divided_by_a_framework():
    """a loss that a framework divides by its accumulated batches"""
    model, engine = setup()
    draw = engine.draw()
    for i in range(2):
        part = draw.part(i, 2)
        out = model(X[part.index])
        (engine.loss(part, cross_entropy(out, Y[part.index], reduction="none"), out) / 2).backward()
    engine.step()


def data_set_of_another_length():
    """a data set of another length than the sampler's n"""
    rais.Loader(TensorDataset(X[:30]), rais.RAIS(N, M, seed=0))


def shuffle():
    """`shuffle` and `batch_size` for a Loader"""
    rais.Loader(TensorDataset(X), rais.RAIS(N, M, seed=0), batch_size=8, shuffle=True)


def out_of_order():
    """batches as they come"""
    rais.Loader(TensorDataset(X), rais.RAIS(N, M, seed=0), num_workers=2, in_order=False)


def collate_drops():
    """a collate function that drops rows"""
    loader = rais.Loader(
        TensorDataset(X), rais.RAIS(N, M, seed=0), collate_fn=lambda rows: torch.stack([x for (x,) in rows[1:]])
    )
    next(iter(loader))


class Stream(IterableDataset):
    def __iter__(self):
        yield from X


def iterable():
    """a data set that can only be iterated over"""
    rais.Loader(Stream(), rais.RAIS(N, M, seed=0))


def torch_loader():
    """torch's DataLoader in place of `rais.Loader`"""
    setup(source=DataLoader(TensorDataset(X), batch_size=M))


def draw_beside_a_loader():
    """`engine.draw()` beside a Loader"""
    _, engine = setup(source=rais.Loader(TensorDataset(X), rais.RAIS(N, M, seed=0)))
    engine.draw()


def group_beside_a_loader():
    """the group of ranks given to Engine, not to the Loader"""
    setup(source=rais.Loader(TensorDataset(X), rais.RAIS(N, M, seed=0)), group=object())


def state_in_a_step():
    """a state taken between `backward` and `step`"""
    model, engine = setup()
    backward(model, engine, engine.draw())
    engine.state_dict()


def state_of_another_n():
    """the state of another data set"""
    _, saved = setup(source=rais.RAIS(N + 10, M, seed=0))
    setup()[1].load_state_dict(saved.state_dict())


def state_of_something_else():
    """the optimizer's state for the engine's"""
    setup()[1].load_state_dict(setup()[1].optimizer.state_dict())


def state_without_scheduler():
    """a state saved with a scheduler, for an engine without"""
    _, saved = setup(schedule=lambda optimizer: lr_scheduler.StepLR(optimizer, 5))
    setup()[1].load_state_dict(saved.state_dict())


def fsdp():
    """FSDP"""
    sharded = type("FullyShardedDataParallel", (nn.Sequential,), {})(nn.Linear(6, 3))
    rais.Engine(torch.optim.SGD(sharded.parameters(), lr=0.1), rais.RAIS(N, M, seed=0), model=sharded)


def nothing_to_train():
    """an optimizer of frozen parameters"""
    model = loops.network().requires_grad_(False)
    rais.Engine(torch.optim.SGD(model.parameters(), lr=0.1), rais.RAIS(N, M, seed=0))


def diverged():
    """training that has diverged"""
    model, engine = setup()
    with torch.no_grad():
        model[0].weight.fill_(float("nan"))
    for _ in range(100):
        backward(model, engine, engine.draw())
        engine.step()


def no_seed():
    """a sampler without a seed"""
    rais.RAIS(N, M)


def larger_than_n():
    """a minibatch larger than the data set"""
    rais.RAIS(N, 64, seed=0)


def whole_graph_phi_of_parts():
    """`HalfBatch` with micro-batches"""
    model = loops.network(torch.float32)
    gain = rais.Adaptive(rais.HalfBatch(model.parameters(), m=M))
    engine = rais.Engine(torch.optim.SGD(model.parameters(), lr=0.1), rais.RAIS(N, M, seed=0), gain=gain)
    draw = engine.draw()
    for i in range(2):
        backward(model, engine, draw.part(i, 2))


CASES: list[Callable[[], None]] = [
    value
    for value in list(globals().values())
    if callable(value)
    and getattr(value, "__module__", "") == __name__
    and value.__doc__
    and not isinstance(value, type)
]


def message_of(case: Callable[[], None]) -> str:
    """What is raised, as `kind: message` in one line; empty where nothing is."""
    try:
        case()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def page() -> str:
    rows = [f"| {case.__doc__} | {message_of(case).replace('|', chr(92) + '|')} |\n" for case in CASES]
    return HEAD + "".join(rows) + TAIL


def expected() -> dict[str, str]:
    """What the page promises, by what is done wrong."""
    rows = re.findall(r"^\| (.+?) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {what: message.replace("\\|", "|") for what, message in rows}


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
