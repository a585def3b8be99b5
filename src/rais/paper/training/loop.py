"""The training loop: one for every method, in the order of the poster.

Draw, forward, norms, backward with importance weights, observe, update the gain ratio, step with η = r·lr_sched(t̂),
advance t̂. It ends when t̂ reaches the budget that uniform SGD would have used up. Evaluations, on a grid in t̂, are
outside the timed region.

| paper | code          | unit                                                |
|-------|---------------|-----------------------------------------------------|
| t     | iteration     | minibatches                                         |
| t̂     | t_hat         | effective iterations, () float64 on the device      |
| r     | ratio         | 1                                                   |
| η     | learning_rate |                                                     |
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from rais import Engine
from rais.gradnorm import softmax_cross_entropy_norm
from rais.paper.records.write import Record
from rais.paper.training.checkpoint import Checkpoint, restore, state_of
from rais.paper.training.diagnose import diagnose, headroom
from rais.paper.training.evaluate import evaluate, grid
from rais.paper.training.parts import Parts
from rais.paper.training.practice import practise
from rais.paper.training.trace import Trace
from rais.sampling import Draw, NonFiniteNorm

LONGEST_RUN = 2  # A run whose r stays below 1 ends after this many times its budget in examples.
LOOK_EVERY = 100  # Most iterations between two looks at the device: for the progress bar, and for divergence.


PHASES = ("sampler", "data", "forward", "norms", "backward", "gain", "step")  # as Engine.mark names them, and two more
STATEFUL = ("model", "optimizer", "augment")  # what a checkpoint holds beside the engine


class Diverged(Exception):
    """The loss, the gain ratio or a gradient norm is no longer finite."""


class Clock:
    """Seconds of the training steps: wall-clock, CPU, and wall-clock by phase.

    `mark(phase)` ends a phase and begins the next; an evaluation is no part of any.
    """

    def __init__(self) -> None:
        self.seconds = self.cpu_seconds = 0.0
        self.phases = dict.fromkeys(PHASES, 0.0)
        self.start()

    def start(self) -> None:
        self._began = self._last = time.perf_counter()
        self._cpu_began = time.process_time()

    def mark(self, phase: str) -> None:
        now = time.perf_counter()
        self.phases[phase] += now - self._last
        self._last = now

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._began
        self.cpu_seconds += time.process_time() - self._cpu_began

    @property
    def sampler_seconds(self) -> float:
        """What importance sampling adds: draws, norms, observation with (PT), and the gain ratio."""
        return sum(self.phases[phase] for phase in ("sampler", "norms", "gain"))


@dataclass
class Loop:
    """A run in progress; `train` drives it.

    `epochs` is the budget in epochs equivalent, `evaluations` the points of the grid over it. A checkpoint, if there
    is one, is written at every evaluation.
    """

    parts: Parts
    record: Record
    epochs: float
    evaluations: int
    diagnoses: bool = False
    measures_headroom: bool = False
    trace: Trace | None = None
    checkpoint: Checkpoint | None = None
    evaluated: int = 0  # points of the grid that have been reached
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        p = self.parts
        self.per_epoch = p.sampler.n / p.sampler.m
        self.budget = self.epochs * self.per_epoch
        self.grid = grid(self.budget, self.evaluations)
        self.shares_statistics = any(isinstance(module, _BatchNorm) for module in p.model.modules())
        self.engine = Engine(
            p.optimizer,
            p.sampler,
            model=p.model if self.shares_statistics else None,
            scheduler=p.schedule,
            gain=p.gain,
            outliers=p.outliers,
            check_every=LOOK_EVERY,
        )
        self.engine.mark = self.clock.mark
        self.loss = torch.zeros((), device=p.device)
        self.largest_weight = torch.zeros((), device=p.device)
        self._weights: list[Tensor] = []  # of the draws since the last look

    @property
    def iteration(self) -> int:
        return self.engine.iteration

    @property
    def ratio(self) -> Tensor:
        return self.engine.ratio

    @property
    def t_hat(self) -> Tensor:
        return self.engine.t_hat

    def step(self) -> None:
        """One minibatch: draw, forward, norms, backward with weights; observe, r, step at r·lr_sched(t̂). Waits for
        the device nowhere.

        Raises:
            Diverged: a gradient or a norm is not finite.
        """
        draw = self.engine.draw()
        if self.engine.measures_phi(draw) and not self.shares_statistics:  # φ from halves, worked off one by one
            self.loss = torch.stack([self._work_off(self.engine.part(draw, i, 2)) for i in range(2)]).mean()
        else:
            self.loss = self._work_off(draw)
        if not self.engine.step():
            raise Diverged(f"a gradient is not finite at iteration {self.iteration}")
        self._weights.append(draw.weight)
        if self.trace is not None:
            self.trace.count(draw)

    def _work_off(self, draw: Draw) -> Tensor:
        """Forward and backward of a minibatch or a part of one; its weighted mean loss, ()."""
        p, engine = self.parts, self.engine
        x, y = p.data.train.batch(draw.index)
        x = p.augment(x, draw.side)
        engine.mark("data")
        logits = p.model(x)
        losses = cross_entropy(logits, y, reduction="none")
        engine.mark("forward")
        norm = softmax_cross_entropy_norm(logits.detach(), y) if engine.needs_norms else None
        return engine.backward(draw, losses, logits, norm=norm, inputs=x, targets=y)

    def run_timed(self, steps: int) -> None:
        """`steps` minibatches in the timed region, then one look at the device.

        Raises:
            Diverged: the loss, r or t̂ is not finite.
        """
        self.clock.start()
        try:
            for _ in range(steps):
                self.step()
            self.largest_weight = torch.maximum(self.largest_weight, torch.cat(self._weights).max())
            self._weights.clear()
            healthy = torch.isfinite(torch.stack([self.loss.double(), self.ratio, self.t_hat])).all().item()
        except NonFiniteNorm as error:
            raise Diverged(str(error)) from error
        finally:
            self.clock.stop()
        if not healthy:
            raise Diverged(f"the loss of a minibatch is not finite at iteration {self.iteration}")

    def steps_to_look(self) -> int:
        """Minibatches to run before the next look: to the next point of the grid in ever shorter stretches, so that
        an evaluation comes at the first t̂ past it while r does not double within a stretch.

        They follow from the state at the last look alone, hence a resumed run looks when an uninterrupted one does.
        """
        left = (self.grid[self.evaluated] - self.t_hat.item()) / (2 * max(self.ratio.item(), 1e-3))
        return max(1, min(LOOK_EVERY, math.ceil(left), math.ceil(LONGEST_RUN * self.budget) - self.iteration))

    @property
    def is_due(self) -> bool:
        """Whether the next evaluation is due."""
        return self.is_finished or self.t_hat.item() >= self.grid[self.evaluated]

    @property
    def is_finished(self) -> bool:
        return self.t_hat.item() >= self.budget or self.is_overlong

    @property
    def is_overlong(self) -> bool:
        return self.iteration >= LONGEST_RUN * self.budget

    def evaluate(self) -> None:
        """Record the state of the run, and write its checkpoint.

        Raises:
            Diverged: the training loss is not finite; it is recorded first.
        """
        p = self.parts
        train_loss, _ = evaluate(p.model, p.data.train)
        test_loss, test_error = evaluate(p.model, p.data.test if self.is_finished else p.test_while_training)
        metrics = {
            "train_loss": train_loss,
            "test_loss": test_loss,
            "test_error": test_error,
            "gain_ratio": self.ratio.item(),
            "learning_rate": (self.ratio * p.schedule(self.t_hat)).item(),
            "cpu_seconds": self.clock.cpu_seconds,
            "sampler_seconds": self.clock.sampler_seconds,
            **{f"phase_{name}": seconds for name, seconds in self.clock.phases.items()},
            "effective_sample_size": p.sampler.effective_sample_size(),
            "largest_weight": self.largest_weight.item(),
            **p.sampler.diagnostics(),
            **p.gain.diagnostics(),
            **(p.outliers.diagnostics() if p.outliers is not None else {}),
        }
        if self.measures_headroom:
            metrics.update(headroom(p))
        if self.diagnoses:
            metrics.update(diagnose(p, self.record, epoch=self.iteration / self.per_epoch))
        self.record.write(
            {
                "iteration": self.iteration,
                "examples": self.iteration * p.sampler.m,
                "epoch": self.iteration / self.per_epoch,
                "epochs_equivalent": self.t_hat.item() / self.per_epoch,
                "seconds": self.clock.seconds,
            },
            metrics,
        )
        if self.record.shows_distributions:
            relative = p.sampler.n * p.sampler.probabilities()
            self.record.write_distribution(self.iteration / self.per_epoch, relative.cpu().numpy())
        if self.trace is not None:
            self.trace.write(p, self.record, epoch=self.iteration / self.per_epoch)
        self.largest_weight = torch.zeros_like(self.largest_weight)
        if not math.isfinite(train_loss):
            raise Diverged(f"the training loss is {train_loss} at iteration {self.iteration}")
        while self.evaluated < len(self.grid) and self.t_hat.item() >= self.grid[self.evaluated]:
            self.evaluated += 1
        if self.checkpoint is not None:
            self.checkpoint.write(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything that the numbers to come depend on, and the place in the record. Torch's global generators are
        no part of it: nothing draws from them."""
        return {
            "evaluated": self.evaluated,
            "loss": self.loss,
            "largest_weight": self.largest_weight,
            "clock": [self.clock.seconds, self.clock.cpu_seconds, *self.clock.phases.values()],
            "engine": self.engine.state_dict(),
            "parts": {name: state_of(getattr(self.parts, name)) for name in STATEFUL},
            "trace": state_of(self.trace),
            "record": self.record.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken, with parts and a trace built from the same settings."""
        self.evaluated = state["evaluated"]
        self.loss, self.largest_weight = (state[name].to(self.parts.device) for name in ("loss", "largest_weight"))
        self.clock.seconds, self.clock.cpu_seconds, *phases = state["clock"]
        self.clock.phases.update(zip(PHASES, phases, strict=True))
        self.engine.load_state_dict(state["engine"])
        for name in STATEFUL:
            restore(getattr(self.parts, name), state["parts"][name])
        restore(self.trace, state["trace"])
        self.record.resume_at(self.iteration)


def train(loop: Loop) -> str:
    """Run `loop` from where it is to its end, recording as it goes; returns the status, which is also in the record.

    Divergence is a result. An interruption (Ctrl-C) or a failure is written down and raised again.
    """
    record, budget = loop.record, loop.epochs
    title = f"{record.meta['task']} {record.meta['arm']} seed {record.meta['seed']}"
    bar = tqdm(
        total=budget, desc=title, unit="epoch", disable=None, bar_format="{l_bar}{bar}| {remaining} left{postfix}"
    )
    try:
        if loop.parts.device.type == "cpu":
            practise()
        if not loop.evaluated:
            loop.evaluate()
        while not loop.is_finished:
            loop.run_timed(loop.steps_to_look())
            _show(bar, loop)
            if loop.is_due:
                loop.evaluate()
        message = "stopped at twice its budget in examples, short of it in t̂" if loop.is_overlong else ""
        record.finish("done", message)
    except Diverged as error:
        record.finish("diverged", str(error))
    except BaseException as error:
        # One that comes while a compiled loop hands back its result is the cause of a SystemError.
        if isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt):
            record.finish("interrupted", f"stopped by the user at iteration {loop.iteration}")
            raise KeyboardInterrupt from error
        record.finish("failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        bar.close()
    return record.meta["status"]


def _show(bar: tqdm, loop: Loop) -> None:
    bar.n = min(loop.t_hat.item() / loop.per_epoch, loop.epochs)
    speed = loop.iteration * loop.parts.sampler.m / loop.clock.seconds
    bar.set_postfix_str(f"loss {loop.loss.item():.4f}, r {loop.ratio.item():.2f}, {speed:,.0f} examples/s")
