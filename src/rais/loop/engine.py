"""One training step with importance sampling, for any loop: draw, weigh, norms, backward, step at r·lr.

The loop keeps its model, its loss, its optimizer and its scheduler; the engine puts the method between them. What it
cannot do rightly it refuses, in one line that names the cure.

| paper   | code          | shape | unit                                                          |
|---------|---------------|-------|---------------------------------------------------------------|
| M       | draw          |       | the minibatch, m examples; all ranks and parts together       |
| 1/(n p) | weight        | (m,)  | 1                                                             |
| f_j     | losses        | (m,)  | loss of each example, before any weight                       |
| g       | p.grad        |       | (1/m) Σ_j weight_j ∇f_j                                       |
| v_j     | norm          | (m,)  | norm of ∇f_j in the model's outputs                           |
| r       | ratio         | ()    | 1                                                             |
| t̂       | t, t_hat      | ()    | iterations of uniform SGD                                     |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rais import batch_norm
from rais.gain import Adaptive, FromParts, Minibatch, Off, Pace, inner
from rais.loop.flight import Flight
from rais.loop.graph import has_unweighted_statistics, norm_of
from rais.loop.outliers import OutlierCap
from rais.loop.parts import PartSquares
from rais.loop.ranks import Ranks, answering
from rais.loop.rate import Rate
from rais.sampling.base import Draw, NonFiniteNorm, Sampler
from rais.sampling.uniform import Uniform

VERSION = 1
PHI_EVERY = 32  # importance draws from one measurement of φ to the next
MOST_SKIPPED = 100  # steps in a row without a finite gradient: training has diverged
COMPARE_EVERY = 100  # steps from one comparison of the ranks to the next


class _Part(NamedTuple):
    """A part of the minibatch whose loss was handed out, or that went through its backward pass."""

    draw: Draw
    weight: Tensor  # with the outlier cap
    norm: Tensor | None
    weighted: Tensor
    inputs: Any
    targets: Any


def nothing(phase: str) -> None:
    """The default of `Engine.mark`."""


class Engine:
    """Puts importance sampling into a training loop.

        engine = Engine(optimizer, RAIS(n=len(x), m=64, seed=0), scheduler=scheduler)
        while engine.t < budget:
            draw = engine.draw()
            out = model(x[draw.index])
            engine.backward(draw, cross_entropy(out, y[draw.index], reduction="none"), out)
            engine.step()

    Args:
        optimizer: any torch optimizer; every param group steps at r times its learning rate.
        source: a sampler, or a `Loader`, which then hands out the draws.
        model: needed where it has weighted batch normalisation (`prepare`), so that the weights reach its layers.
        scheduler: a torch scheduler, which the engine steps to t̂; or a callable t̂ ↦ learning rate.
        gain: "auto" is "sgd" for torch.optim.SGD and refuses to guess for others; "sgd" is r as derived for SGD; "off"
            is r = 1; or an object of rais.gain.
        outliers: None, the limit of an `OutlierCap`, or such an object.
        budget: t̂ at which `is_done`, and at which a `Loader` ends; None for no end.
        check_every: steps from one look at the device to the next: for t, a torch scheduler and the test for
            gradients that are not finite. None: 1 on a CPU, 32 elsewhere.
        phi_every: importance draws from one measurement of φ to the next.
        group: the process group of a data-parallel run; a `Loader` brings its own.

    φ comes from the gradients of the parts that the minibatch is worked off in, micro-batches times ranks; where it is
    worked off in one, from two backward passes of its halves every `phi_every` importance draws. Capped weights and
    batch statistics bias it, since both tie a part's examples together; evenly spaced draws are not independent and
    bias it by the order 1/n.

    `mark` is called with the name of each phase as it ends: sampler, norms, backward, gain, step.

    >>> x, y = torch.randn(100, 4), torch.randint(3, (100,))
    >>> model = nn.Linear(4, 3)
    >>> engine = Engine(torch.optim.SGD(model.parameters(), lr=0.1), Uniform(n=100, m=10, seed=0))
    >>> while engine.t < 20:
    ...     draw = engine.draw()
    ...     out = model(x[draw.index])
    ...     loss = engine.backward(draw, nn.functional.cross_entropy(out, y[draw.index], reduction="none"), out)
    ...     was_made = engine.step()
    >>> engine.iteration, engine.t
    (20, 20.0)

    Raises:
        ValueError: sharded parameters (FSDP), a gain that cannot be chosen, or see `Rate` and `Ranks`.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        source: Any,
        *,
        model: nn.Module | None = None,
        scheduler: Any = None,
        gain: Any = "auto",
        outliers: Any = None,
        budget: float | None = None,
        check_every: int | None = None,
        phi_every: int = PHI_EVERY,
        group: Any = None,
    ) -> None:
        self.loader = None if isinstance(source, Sampler) else source
        self.sampler: Sampler = source if self.loader is None else source.sampler
        self.optimizer, self.model, self.budget = optimizer, model, budget
        refuse_sharded(model, self.parameters)
        self.ranks = Ranks(group) if self.loader is None else self.loader.ranks
        self.flight = Flight() if self.loader is None else self.loader.flight
        self.device = self.parameters[0].device
        self.rate = Rate(optimizer, scheduler)
        self.pace = Pace(self.rate.schedule, device=self.device)
        self.gain = choose_gain(gain, optimizer, self.sampler, self.parameters, phi_every)
        self.outliers = choose_outliers(outliers, self.device)
        self.needs_norms = self.sampler.needs_norms or self.gain.needs_norms or self.outliers is not None
        self.check_every = check_every or (1 if self.device.type == "cpu" else 32)
        self.mark: Callable[[str], None] = nothing
        self.squares = PartSquares()
        self.ratio = torch.ones((), dtype=torch.float64, device=self.device)
        self.t = 0.0
        self.iteration = self.skipped = self.skipped_in_a_row = self._look_at = 0
        self._parts: list[_Part] = []
        self._factors: list[float | Tensor] = []
        self._pending = 0  # losses handed out whose backward has not begun
        self._weights: Any = None
        self._whole: Draw | None = None
        if self.loader is not None:
            self.loader.engine = self

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

    @property
    def t_hat(self) -> Tensor:
        """t̂ as it is now, () float64 on the device; `t` is what the last look at the device found."""
        return self.pace.t_hat

    @property
    def is_done(self) -> bool:
        return self.budget is not None and self.t >= self.budget

    # Draws and losses

    def draw(self) -> Draw:
        """The next minibatch; on several ranks, this rank's part of it.

        Raises:
            RuntimeError: a `Loader` hands out the draws.
        """
        if self.loader is not None:
            raise RuntimeError("the loader hands out the draws: iterate over it, `for draw, batch in loader`")
        draw = self.ranks.own_part(self.flight.next(self.sampler))
        self.weigh(draw)
        self.mark("sampler")
        return draw

    def part(self, draw: Draw, i: int, k: int) -> Draw:
        """draw.part(i, k), the next to be worked off: its weights are those that batch normalisation sees."""
        part = draw.part(i, k)
        self.weigh(part)
        return part

    def weigh(self, draw: Draw) -> None:
        """Hand the weights of `draw` to the model's weighted layers, until after the next backward pass."""
        if self.model is not None:
            self._unweigh()
            self._weights = batch_norm.weights(self.model, draw.weight)
            self._weights.__enter__()

    def _unweigh(self) -> None:
        if self._weights is not None:
            self._weights.__exit__(None, None, None)
            self._weights = None

    def backward(
        self,
        draw: Draw,
        losses: Tensor,
        out: Tensor,
        *,
        norm: Tensor | None = None,
        inputs: Any = None,
        targets: Any = None,
        scaler: Any = None,
    ) -> Tensor:
        """Weigh the losses (m,), take their norms in `out` (m, …), and run the backward pass.

        Args:
            draw: the minibatch or a part of it; call once for each part.
            losses: one for each example, from reduction="none", before any weight.
            out: the model's outputs that the losses were computed from.
            norm: the norms (m,), where the loop knows them already.
            inputs, targets: of the minibatch, for `gain.ExactScale` alone.
            scaler: the GradScaler that `step` gets too.

        Returns:
            The weighted mean loss of these examples, ().

        Raises:
            ValueError: losses that are not one for each drawn example, or see `output_norm`.
            RuntimeError: batch statistics without weights, or a rank that is gone.
        """
        part = self._part(draw, losses, out, norm, inputs, targets)
        self.mark("norms")
        share = self._share(part)
        factor = 1.0 if scaler is None else scaler.get_scale()
        self._factors.append(factor)
        if self._measures_phi(draw):
            if not self.squares.is_open:
                self.squares.open(self.parameters)
            pieces = self._halves(part) if self._is_whole(draw) else [(len(draw.index), part.weighted.sum())]
            for k, (size, total) in enumerate(pieces):
                self.squares.begin(size, factor * size / self._whole_size(draw) * self.ranks.count)
                self._run(total * (self.ranks.count / self._whole_size(draw)), scaler, k + 1 < len(pieces))
        else:
            self._run(share, scaler, self.gain.needs_graph and self._is_whole(draw))
        self._unweigh()
        self.mark("backward")
        return part.weighted.detach().mean()

    def loss(
        self,
        draw: Draw,
        losses: Tensor,
        out: Tensor,
        *,
        norm: Tensor | None = None,
        inputs: Any = None,
        targets: Any = None,
    ) -> Tensor:
        """The loss () for a framework that calls backward itself; see `backward` for arguments and errors.

        A framework may scale it (AMP), but must not divide it by its number of accumulated batches: it is this part's
        share of the whole minibatch already.
        """
        part = self._part(draw, losses, out, norm, inputs, targets)
        self.mark("norms")
        share = self._share(part)
        self._pending += 1
        share.register_hook(self._hear(draw))
        if self._measures_phi(draw) and self._is_whole(draw):
            for size, total in self._halves(part):
                self.squares.begin(size, size / len(draw.index))
                self.squares.add(
                    torch.autograd.grad(
                        total / len(draw.index), self.parameters, retain_graph=True, allow_unused=True
                    )
                )
        elif self._measures_phi(draw) and not self.squares.is_open:
            self.squares.open(self.parameters)
        return share

    def _hear(self, draw: Draw) -> Callable[[Tensor], None]:
        def hear(factor: Tensor) -> None:
            self._pending -= 1
            self._factors.append(factor.detach())
            if self.squares.is_open:
                share = len(draw.index) / self._whole_size(draw) * self.ranks.count
                self.squares.begin(len(draw.index), factor.detach().to(torch.float64) * share)

        return hear

    def _run(self, loss: Tensor, scaler: Any, retain_graph: bool) -> None:
        loss = loss if scaler is None else scaler.scale(loss)
        if self.ranks.count == 1:
            loss.backward(retain_graph=retain_graph)
        else:
            with answering():
                loss.backward(retain_graph=retain_graph)

    def _part(
        self, draw: Draw, losses: Tensor, out: Tensor, norm: Tensor | None, inputs: Any, targets: Any
    ) -> _Part:
        if losses.shape != draw.index.shape:
            cure = "compute them with reduction='none'"
            if losses.dim() == 1:
                cure = "pass the draw, or the part of it, that the model's inputs were taken from"
            raise ValueError(
                f"losses have shape {tuple(losses.shape)}, the draw has {len(draw.index)} examples: one loss for each "
                f"is needed; {cure}"
            )
        is_a_power_of_two = self.iteration & (self.iteration - 1) == 0
        if is_a_power_of_two and not isinstance(self.sampler, Uniform) and has_unweighted_statistics(losses):
            raise RuntimeError(
                "the model has batch normalisation in training mode whose statistics are not weighted: "
                "model = rais.prepare(model), and Engine(…, model=model)"
            )
        if norm is None and self.needs_norms:
            norm = norm_of(losses, out)
        weight = draw.weight.to(losses.device)
        if self.outliers is not None:
            weight = self.outliers(weight, norm, draw.mean_norm)
        part = _Part(draw, weight, norm, weight * losses, inputs, targets)
        self._parts.append(part)
        return part

    def _whole_size(self, draw: Draw) -> int:
        return len(draw.index) if draw.of is None else draw.of

    def _is_whole(self, draw: Draw) -> bool:
        return len(draw.index) == self._whole_size(draw)

    def _share(self, part: _Part) -> Tensor:
        """The part's share of the minibatch's mean loss; times the ranks, over which gradients are averaged."""
        return part.weighted.sum() * (self.ranks.count / self._whole_size(part.draw))

    def _halves(self, part: _Part) -> list[tuple[int, Tensor]]:
        half = len(part.weighted) // 2
        return [(half, part.weighted[:half].sum()), (len(part.weighted) - half, part.weighted[half:].sum())]

    def _measures_phi(self, draw: Draw) -> bool:
        phi = getattr(self.gain, "phi", None)
        return type(phi) is FromParts and draw.mean_norm is not None and phi.is_due

    # The step

    def step(self, *, scaler: Any = None, clip: float | None = None) -> bool:
        """Observe the norms, take r, step with every param group at r·lr, restore it, and move the scheduler to t̂.

        A step whose gradients or norms are not finite is not made: it changes no average, and its examples come again.

        Args:
            scaler: a torch GradScaler; it is stepped and updated here.
            clip: largest norm of the gradient, after unscaling; r multiplies the clipped one.

        Returns:
            Whether the step was made.

        Raises:
            RuntimeError: no backward before it, parts that do not make up the draw, a loss that was multiplied by a
                factor of its own, a scheduler that was moved, ranks that differ.
            NonFiniteNorm: the hundredth step in a row that was not made.
        """
        self._check_parts()
        self.rate.check()
        looks = self.iteration + self.skipped >= self._look_at
        if looks:
            self._check_factors(scaler)
        if scaler is not None:
            _unscale(scaler, self.optimizer)
        batch = self._minibatch()
        if (looks or scaler is not None) and not self._is_finite(batch):
            self._count_skipped()
            self.skip(batch.draw)
            if scaler is not None:
                scaler.update()
            return False
        if self.squares.sizes:
            self._measure_phi(batch.draw)
        if self.ranks.count > 1 and self.iteration % COMPARE_EVERY == 0:
            self._compare_ranks(batch.draw)
        if self.sampler.needs_norms:
            self.sampler.observe(self._whole, batch.norm.to(self.sampler.device))
        self.mark("sampler")
        self.ratio = self.gain.update(batch)
        self.mark("gain")
        if clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, clip)
        base = self.rate.multiply(self.ratio, self.pace)
        try:
            if scaler is None:
                self.optimizer.step()
            else:
                scaler.step(self.optimizer)
                scaler.update()
        finally:
            self.rate.restore(base)
        self.pace.advance(self.ratio)
        self.optimizer.zero_grad(set_to_none=True)
        self._close(batch.draw)
        self.iteration += 1
        self.skipped_in_a_row = 0
        if looks:
            self._look()
        self.mark("step")
        return True

    def skip(self, draw: Draw) -> None:
        """Make no step with `draw`, after an error for instance: gradients are dropped, and its examples come again."""
        self.optimizer.zero_grad(set_to_none=True)
        self.squares.drop()
        self._unweigh()
        self.sampler.skip(self._whole_of(draw))
        self._close(draw)

    def _check_parts(self) -> None:
        """Refuse parts that are not, together, what this rank has to work off."""
        if self._pending or not self._parts:
            what = f"{self._pending} losses of engine.loss(…) wait for their backward" if self._pending else "no backward"
            raise RuntimeError(f"step() before the minibatch's gradient is there: {what}; call engine.backward(…) first")
        draws = sorted((part.draw for part in self._parts), key=lambda draw: draw.first)
        tickets = {draw.ticket for draw in draws}
        if len(tickets) > 1:
            raise RuntimeError(
                f"the parts belong to the draws {sorted(tickets, key=str)}: one step is one draw; to accumulate, "
                "make parts of one draw by draw.part(i, k), and m the whole minibatch"
            )
        m = self._whole_size(draws[0])
        begin, end = self.ranks.own_range(m)
        at = begin
        for draw in draws:
            if draw.first != at:
                break
            at += len(draw.index)
        if at != end:
            spans = ", ".join(f"{d.first} … {d.first + len(d.index) - 1}" for d in draws)
            raise RuntimeError(
                f"the parts {spans} do not make up examples {begin} … {end - 1} of the draw: call backward once for each "
                "part, and step after the last"
            )
        self._parts.sort(key=lambda part: part.draw.first)

    def _check_factors(self, scaler: Any) -> None:
        expected = 1.0 if scaler is None else scaler.get_scale()
        for factor in map(float, self._factors):
            if not math.isclose(factor, expected, rel_tol=1e-3):
                raise RuntimeError(
                    f"the loss was multiplied by {factor:g} before its backward, step expects {expected:g}: pass the same "
                    "scaler to backward and step; a framework that divides by its accumulated batches must accumulate 1"
                )

    def _whole_of(self, draw: Draw) -> Draw:
        return self.flight.draws.get(draw.ticket, draw)

    def _minibatch(self) -> Minibatch:
        """The whole minibatch, on the device of the parameters; the weights are those that were applied."""
        parts = self._parts
        joined = [x[0] if len(parts) == 1 else None if x[0] is None else torch.cat(x)
                  for x in ([p.norm for p in parts], [p.weight for p in parts], [p.weighted for p in parts])]
        norm, weight, weighted = joined
        draw = parts[0].draw
        if len(parts) > 1 or self.ranks.count > 1:
            index = torch.cat([p.draw.index for p in parts])
            draw = self.flight.draws.get(draw.ticket, draw._replace(index=index, first=0, of=None))
        self._whole = draw
        if self.ranks.count > 1 and norm is not None:
            norm, weight = self.ranks.share(len(draw.index), parts[0].draw.first, norm, weight)
        return Minibatch(draw._replace(weight=weight), norm, weighted, parts[0].inputs, parts[0].targets)

    def _is_finite(self, batch: Minibatch) -> bool:
        """Waits for the device."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        values = [nn.utils.get_total_norm(gradients)] if gradients else []
        values += [] if batch.norm is None else [batch.norm.sum()]
        if all(math.isfinite(x) for x in values):
            return True
        # In half precision the norm of a finite gradient may overflow.
        values = gradients + ([] if batch.norm is None else [batch.norm])
        return all(bool(torch.isfinite(x.coalesce().values() if x.is_sparse else x).all()) for x in values)

    def _count_skipped(self) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= MOST_SKIPPED:
            raise NonFiniteNorm(
                f"{MOST_SKIPPED} steps in a row had gradients or norms that are not finite: training has diverged; lower "
                "the learning rate"
            )

    def _measure_phi(self, draw: Draw) -> None:
        sizes, part_sq = self.squares.close(self.device)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        whole_sq = inner(gradients, gradients)
        if self.ranks.count > 1:
            firsts = [part.draw.first for part in self._parts]
            sizes, part_sq = self.ranks.share_parts(len(draw.index), firsts, sizes, part_sq)
            whole_sq = self.ranks.from_first(whole_sq)
        self.gain.phi.update_from_parts(sizes, part_sq, whole_sq, draw.mean_norm)

    def _compare_ranks(self, draw: Draw) -> None:
        gradient = next((p.grad for p in self.parameters if p.grad is not None), torch.zeros(1))
        self.ranks.compare(
            {
                "the draw": self._whole.index,
                "its weights": self._whole.weight,
                "the sampler's generator": self.sampler.generator.get_state(),
                "t̂": self.t_hat,
                "the gradient": gradient,
            }
        )

    def _close(self, draw: Draw) -> None:
        self._parts, self._factors, self._pending = [], [], 0
        self.flight.finish(draw.ticket)

    def _look(self) -> None:
        self.t = self.t_hat.item()
        ahead = self.check_every
        if self.budget is not None and ahead > 1:
            ahead = min(ahead, math.ceil((self.budget - self.t) / (2 * max(self.ratio.item(), 1e-3))))
        self._look_at = self.iteration + self.skipped + max(ahead - 1, 0)
        self.rate.follow(self.t)

    # State

    def state_dict(self) -> dict[str, Any]:
        """Everything but the model, the optimizer and the torch scheduler: flat, for torch.load(weights_only=True).

        Draws in flight are in it, and come again after a resume.

        Raises:
            RuntimeError: between backward and step, whose gradient would be lost.
        """
        if self._parts:
            raise RuntimeError("state_dict() between backward and step would lose a gradient: call it after step()")
        state: dict[str, Any] = {
            "kind": "Engine",
            "version": VERSION,
            "t_hat": self.t_hat.clone(),
            "ratio": self.ratio.clone(),
            "iteration": self.iteration,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "scheduler_position": self.rate.position,
        }
        for name, part in self._stateful().items():
            state.update((f"{name}.{key}", value) for key, value in part.state_dict().items())
        return state

    def _stateful(self) -> dict[str, Any]:
        parts = {"sampler": self.sampler, "flight": self.flight, "gain": self.gain, "outliers": self.outliers}
        return {name: part for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken; nothing is overwritten where it does not fit.

        Raises:
            ValueError: the state of something else, or of other settings; both values are named.
        """
        own = self.state_dict()
        for name in ("kind", "version"):
            if state.get(name) != own[name]:
                raise ValueError(f"this state has {name}={state.get(name)!r}, an engine needs {name}={own[name]!r}")
        if missing := [name for name in own if "." not in name and name not in state]:
            raise ValueError(f"this is no state of an engine: entries missing {missing}")
        if (state["scheduler_position"] is None) != (self.rate.scheduler is None):
            has, needs = ("no", "a") if state["scheduler_position"] is None else ("a", "no")
            raise ValueError(f"this state was saved with {has} torch scheduler, this engine has {needs} such")
        below = {
            name: {key.removeprefix(f"{name}."): x for key, x in state.items() if key.startswith(f"{name}.")}
            for name in ("sampler", "flight", "gain", "outliers")
        }
        if (self.outliers is None) != (not below["outliers"]):
            raise ValueError("this state and this engine differ in `outliers`: build it with the settings of the saved run")
        Flight.check_state(below["flight"], self.sampler.n, self.sampler.m)
        for part in (self.gain, self.outliers):
            if hasattr(part, "check_state"):
                part.check_state(below["gain" if part is self.gain else "outliers"])
        self.sampler.load_state_dict(below["sampler"])  # checks everything itself before it overwrites anything
        self.flight.load_state_dict(below["flight"], self.sampler.device)
        self.gain.load_state_dict(below["gain"])
        if self.outliers is not None:
            self.outliers.load_state_dict(below["outliers"])
        self.pace.t_hat = state["t_hat"].to(self.device)
        self.ratio = state["ratio"].to(self.device)
        self.iteration, self.skipped = state["iteration"], state["skipped"]
        self.skipped_in_a_row = state["skipped_in_a_row"]
        self.rate.position = state["scheduler_position"]
        self.t, self._look_at = self.t_hat.item(), self.iteration + self.skipped


def choose_gain(gain: Any, optimizer: Optimizer, sampler: Sampler, parameters: list[Tensor], every: int) -> Any:
    """The gain ratio that `gain` names. r was derived for SGD; what serves other optimizers is to be measured.

    Raises:
        ValueError: an unknown name, or "auto" for an optimizer that r was not derived for.
    """
    device = parameters[0].device
    if not isinstance(gain, str):
        return gain
    if gain == "off" or (gain == "auto" and isinstance(sampler, Uniform)):  # uniform draws: r = 1 anyway
        return Off(device=device)
    optimizer = getattr(optimizer, "optimizer", optimizer)  # frameworks wrap it
    if gain == "sgd" or (gain == "auto" and isinstance(optimizer, torch.optim.SGD)):
        return Adaptive(FromParts(parameters, m=sampler.m, every=every))
    if gain == "auto":
        raise ValueError(
            f"gain='auto' does not guess for {type(optimizer).__name__}, because r was derived for SGD: choose gain='off' "
            "for its plain learning rate, or gain='sgd' to multiply it by r all the same"
        )
    raise ValueError(f"gain={gain!r} is unknown: choose 'auto', 'sgd', 'off' or an object of rais.gain")


def choose_outliers(outliers: Any, device: torch.device) -> Any:
    return OutlierCap(outliers, device=device) if isinstance(outliers, int | float) else outliers


def refuse_sharded(model: nn.Module | None, parameters: list[Tensor]) -> None:
    """Refuse what no rank has whole: its gradients give neither φ nor one r.

    Raises:
        ValueError: FSDP's parameters or modules, or an optimizer without parameters.
    """
    if not parameters:
        raise ValueError("the optimizer has no parameter that requires a gradient: nothing would be trained")
    names = {type(p).__name__ for p in parameters} | {type(p.data).__name__ for p in parameters}
    modules = [] if model is None else [type(module).__name__ for module in model.modules()]
    if names & {"DTensor", "FlatParameter"} or any("FullyShardedDataParallel" in x or x.startswith("FSDP") for x in modules):
        raise ValueError(
            "FSDP (FullyShardedDataParallel, fully_shard) is not supported: no rank has a whole gradient; use "
            "DistributedDataParallel, or one GPU"
        )


def _unscale(scaler: Any, optimizer: Optimizer) -> None:
    """scaler.unscale_, unless the loop has called it already."""
    try:
        scaler.unscale_(optimizer)
    except RuntimeError as error:
        if "already been called" not in str(error):
            raise
