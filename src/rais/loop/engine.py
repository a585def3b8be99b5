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

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rais.gain import FromParts, Pace
from rais.loop.choose import choose_gain, choose_outliers, refuse_sharded
from rais.loop.flight import Flight
from rais.loop.gradients import are_finite, refuse_missing, unscale
from rais.loop.graph import after_backward, norm_of, refuse_donated, refuse_reentrant, refuse_unweighted
from rais.loop.loader import Loader
from rais.loop.looks import Looks
from rais.loop.minibatch import Part, check_factors, check_losses, in_order, is_whole, join, whole_size
from rais.loop.parts import PartSquares
from rais.loop.ranks import Ranks, answering
from rais.loop.rate import Rate
from rais.loop.state import restore, save
from rais.loop.weighing import Weighing
from rais.sampling.base import Sampler
from rais.sampling.draw import Draw

if TYPE_CHECKING:
    from jaxtyping import Float

PHI_EVERY = 32  # importance draws from one measurement of φ to the next
COMPARE_EVERY = 100  # steps from one comparison of the ranks to the next


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
        gain: "auto" is "sgd" for torch.optim.SGD, "root" for Adam and AdamW, and refuses to guess for others; "sgd" is
            r as derived for SGD; "root" is √r; "off" is r = 1; or an object of rais.gain.
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

    `mark` is called with the name of each phase as it ends: sampler (loader, where a `Loader` draws), norms, backward,
    gain, step.

    >>> from rais import Uniform
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
        source: Sampler | Loader,
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
        if not isinstance(source, Sampler | Loader):
            raise ValueError(
                f"the source of draws is a {type(source).__name__}: pass a sampler, RAIS(n=…, m=…, seed=…) for one, or "
                "a rais.Loader of it"
            )
        self.loader = source if isinstance(source, Loader) else None
        if self.loader is not None and group is not None and group is not self.loader.ranks.group:
            raise ValueError("the group of a Loader's draws is the Loader's: pass group to it, not to Engine")
        self.sampler = source.sampler if isinstance(source, Loader) else source
        self.optimizer, self.budget = optimizer, budget
        refuse_sharded(model, self.parameters)
        self.ranks = Ranks(group) if self.loader is None else self.loader.ranks
        self.flight = Flight() if self.loader is None else self.loader.flight
        self.device = self.parameters[0].device
        self.rate = Rate(optimizer, scheduler)
        self.pace = Pace(self.rate.schedule, device=self.device)
        self.gain = choose_gain(gain, optimizer, self.sampler, self.parameters, phi_every)
        self.outliers = choose_outliers(outliers, self.device)
        if self.outliers is not None and self.ranks.count > 1:
            raise ValueError("outliers on several ranks: each would limit weights by a mean of its part; leave it out")
        self.needs_norms = self.sampler.needs_norms or self.gain.needs_norms or self.outliers is not None
        self.looks = Looks(check_every or (1 if self.device.type == "cpu" else 32), budget)
        self.mark: Callable[[str], None] = nothing
        self.squares = PartSquares()
        self.ratio = torch.ones((), dtype=torch.float64, device=self.device)
        self.iteration = 0
        self._parts: list[Part] = []
        self._factors: list[float | Tensor] = []
        self._pending = 0  # losses handed out whose backward has not begun
        self._is_tried = not isinstance(getattr(self.gain, "phi", None), FromParts)
        self.weighing = Weighing(None if self.sampler.weighs_one else model, self.device)
        if self.loader is not None:
            self.loader.engine = self

    @property
    def parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"] if p.requires_grad]

    @property
    def t(self) -> float:
        """t̂ as the last look at the device found it."""
        return self.looks.t

    @property
    def skipped(self) -> int:
        """Steps that were not made."""
        return self.looks.skipped

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
        self.weighing.begin(draw)

    def backward(
        self,
        draw: Draw,
        losses: Float[Tensor, " m"],
        out: Float[Tensor, "m ..."],
        *,
        norm: Float[Tensor, " m"] | None = None,
        inputs: Any = None,
        targets: Any = None,
        scaler: Any = None,
    ) -> Float[Tensor, ""]:
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
            RuntimeError: batch statistics without weights, a compiled graph that is good for one backward only where
                φ needs two, or a rank that is gone.
        """
        self._try_graph(draw, losses, by_framework=False)
        part = self._part(draw, losses, out, norm, inputs, targets)
        self.mark("norms")
        factor = 1.0 if scaler is None else scaler.get_scale()
        self._factors.append(factor)
        if self.measures_phi(draw):
            if not self.squares.is_open:
                self.squares.open(self.parameters)
            pieces = part.pieces()
            self.squares.starts(self.parameters)
            for k, (size, total) in enumerate(pieces):
                self.squares.begin(size, factor * size / whole_size(draw) * self.ranks.count)
                self._run(total * (self.ranks.count / whole_size(draw)), scaler, k + 1 < len(pieces))
            self.squares.ends(self.parameters, factor)
        else:
            self._run(part.share(self.ranks.count), scaler, self.gain.needs_graph)
        self.weighing.end()
        self.mark("backward")
        return part.weighted.detach().mean()

    def loss(
        self,
        draw: Draw,
        losses: Float[Tensor, " m"],
        out: Float[Tensor, "m ..."],
        *,
        norm: Float[Tensor, " m"] | None = None,
        inputs: Any = None,
        targets: Any = None,
    ) -> Float[Tensor, ""]:
        """The loss () for a framework that calls backward itself; see `backward` for arguments and errors.

        A framework may scale it (AMP), but must not divide it by its number of accumulated batches: it is this part's
        share of the whole minibatch already.
        """
        if self.gain.needs_graph:
            raise ValueError(
                "this gain's φ needs the graph after the backward, which is the framework's here: use gain='auto', "
                "whose φ comes from the parts, or FromParts in place of HalfBatch"
            )
        self._try_graph(draw, losses, by_framework=True)
        part = self._part(draw, losses, out, norm, inputs, targets)
        self.mark("norms")
        share = part.share(self.ranks.count)
        self._pending += 1
        share.register_hook(self._hear(draw))
        if self.measures_phi(draw) and is_whole(draw):
            for size, total in part.pieces():
                self.squares.begin(size, size / len(draw.index))
                self.squares.add(
                    torch.autograd.grad(total / len(draw.index), self.parameters, retain_graph=True, allow_unused=True)
                )
        elif self.measures_phi(draw) and not self.squares.is_open:
            self.squares.open(self.parameters)
        return share

    def _hear(self, draw: Draw) -> Callable[[Tensor], None]:
        def hear(factor: Tensor) -> None:
            self._pending -= 1
            factor = factor.detach()
            self._factors.append(factor)
            if self.squares.is_open or self.squares.sizes:
                self.squares.starts(self.parameters)
                after_backward(lambda: self.squares.ends(self.parameters, factor.to(torch.float64)))
            if self.squares.is_open:
                share = len(draw.index) / whole_size(draw) * self.ranks.count
                self.squares.begin(len(draw.index), factor.to(torch.float64) * share)

        return hear

    def _run(self, loss: Tensor, scaler: Any, retain_graph: bool) -> None:
        loss = loss if scaler is None else scaler.scale(loss)
        if self.ranks.count == 1:
            loss.backward(retain_graph=retain_graph)
        else:
            with answering():
                loss.backward(retain_graph=retain_graph)

    def _part(self, draw: Draw, losses: Tensor, out: Tensor, norm: Tensor | None, inputs: Any, targets: Any) -> Part:
        check_losses(draw, losses)
        if self.gain.needs_graph and not is_whole(draw):
            raise ValueError(
                "this gain's φ needs the whole minibatch in one backward pass, and this is a part of it: use "
                "gain='auto', whose φ comes from the parts, or FromParts in place of HalfBatch"
            )
        self.weighing.check(draw)
        is_a_power_of_two = self.iteration & (self.iteration - 1) == 0
        if is_a_power_of_two and not self.sampler.weighs_one:
            refuse_unweighted(losses)
        if norm is not None:
            norm = norm.detach()
        elif self.needs_norms:
            norm = norm_of(losses, out)
        weight = draw.weight.to(losses.device)
        if self.outliers is not None:
            weight = self.outliers(weight, norm, draw.mean_norm)
        part = Part(draw, weight, norm, weight * losses, inputs, targets)
        self._parts.append(part)
        return part

    def _try_graph(self, draw: Draw, losses: Tensor, *, by_framework: bool) -> None:
        """Ask the first graph for what only a later one has to do: give the gradients of two halves."""
        if not self._is_tried and is_whole(draw):
            self._is_tried = True
            refuse_donated(losses, self.parameters)
            if by_framework:
                refuse_reentrant(losses)

    def measures_phi(self, draw: Draw) -> bool:
        """Whether φ is measured with this draw. A loop that works such a draw off in two parts, where it can, spares
        the second backward pass over the whole."""
        return bool(self.gain.takes_parts(draw))

    # The step

    def step(self, *, scaler: Any = None, clip: float | None = None) -> bool:
        """Observe the norms, take r, step with every param group at r·lr, restore it, and move the scheduler to t̂.

        A step whose gradients or norms are found to be not finite, or norms too large to be squared, is not made: it
        changes no average of the gain ratio, and its examples come again. They are looked at every `check_every` steps,
        and at every step with a scaler; on an accelerator a bad step between two looks is made, and the next look finds
        what it did.

        Args:
            scaler: a torch GradScaler; it is stepped and updated here.
            clip: largest norm of the gradient, after unscaling; r multiplies the clipped one.

        Returns:
            Whether the step was made.

        Raises:
            RuntimeError: no backward before it, no gradient, parts that do not make up the draw, a loss that was
                multiplied by a factor, a scheduler that was moved, ranks that differ.
            NonFiniteNorm: the hundredth step in a row that was not made.
        """
        self._parts = in_order(self._parts, self._pending, self.ranks)
        self.rate.check()
        gradients = self._gradients()
        refuse_missing(gradients)
        looks = self.looks.is_due(self.iteration)
        if looks:
            check_factors(self._factors, scaler)
        if scaler is not None:
            unscale(scaler, self.optimizer)
        whole, batch = join(self._parts, self.flight, self.ranks)
        if (looks or scaler is not None) and not are_finite(gradients, batch.norm):
            self.looks.skip(batch.draw.index)
            self.skip(batch.draw)
            if scaler is not None:
                scaler.update()
            return False
        if self.squares.sizes:
            firsts = [part.draw.first for part in self._parts]
            batch = batch._replace(parts=self.squares.of_whole(len(batch.draw.index), firsts, self.ranks))
        if self.ranks.count > 1 and self.iteration % COMPARE_EVERY == 0:
            self._compare_ranks(whole)
        if self.sampler.needs_norms:
            self.sampler.observe(whole, batch.norm.to(self.sampler.device))
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
        self._zero_grad()
        self._close(batch.draw)
        self.iteration += 1
        self.looks.made()
        if looks:
            self._look()
        self.mark("step")
        return True

    def skip(self, draw: Draw) -> None:
        """Make no step with `draw`, after an error for instance: gradients are dropped, and its examples come again."""
        self._zero_grad()
        self.squares.drop()
        self.weighing.end()
        self.sampler.skip(self.flight.whole(draw))
        self._close(draw)

    def _zero_grad(self) -> None:
        """A fifth of the time of optimizer.zero_grad(), which frameworks may also delay."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    def _compare_ranks(self, draw: Draw) -> None:
        self.ranks.compare(
            {
                "the draw": draw.index,
                "its weights": draw.weight,
                "the sampler's generator": self.sampler.generator.get_state(),
                "t̂": self.t_hat,
                "the gradient": self._gradients()[0],
            }
        )

    def _close(self, draw: Draw) -> None:
        self._parts, self._factors, self._pending = [], [], 0
        self.flight.finish(draw)

    def _look(self) -> None:
        self.looks.found(self.t_hat.item(), self.ratio.item(), self.iteration)
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
        return save(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue exactly where `state` was taken; nothing is overwritten where it does not fit.

        Raises:
            ValueError: the state of something else, or of other settings; both values are named.
        """
        restore(self, state)
