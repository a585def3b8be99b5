"""The learning rates of one step: every param group at r times its own, for this step alone.

A torch scheduler multiplies the rates that it finds, so a rate that was left at r·lr would be multiplied by r again
and again. Here the rates are put back before the scheduler moves, and it moves by whole steps to t̂.

| paper      | code           | unit                                            |
|------------|----------------|-------------------------------------------------|
| r          | ratio          | 1                                               |
| t̂          | t_hat          | iterations of uniform SGD                       |
| lr_sched   | a param group's own rate, or a callable of t̂                      |
| η          | a param group's "lr" during the step                             |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, lr_scheduler

from rais.gain.pace import Pace

Schedule = Callable[[float | Tensor], float | Tensor]
ROUNDING = 1e-6  # of t̂, a sum of many r: a whole number that it is a hair above counts as reached


def as_it_is(t_hat: float | Tensor) -> float | Tensor:
    """No schedule: every param group has its own rate, which a torch scheduler may move."""
    return 1.0


class Rate:
    """Multiplies the learning rates of `optimizer` for a step, and moves its `scheduler` with t̂.

    Args:
        scheduler: a torch scheduler of this optimizer, a callable t̂ ↦ learning rate, or None for constant rates.

    Raises:
        ValueError: a ReduceLROnPlateau, the scheduler of another optimizer, or a callable beside param groups of
            different rates.
    """

    def __init__(self, optimizer: Optimizer, scheduler: Any) -> None:
        self.optimizer = optimizer
        self.schedule: Schedule = as_it_is
        self.position = 0  # of the torch scheduler
        self.end: int | None = None
        self.scheduler: lr_scheduler.LRScheduler | None = None
        if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
            raise ValueError(
                "ReduceLROnPlateau follows a metric, not the effective iterations t̂ that Engine steps a scheduler by: "
                "leave it out of Engine and call its step(metric) yourself after an evaluation"
            )
        if isinstance(scheduler, lr_scheduler.LRScheduler):
            owner = getattr(scheduler, "optimizer", optimizer)
            if owner.param_groups is not optimizer.param_groups:  # frameworks wrap an optimizer and share its groups
                raise ValueError("the scheduler belongs to another optimizer: build it on the one that Engine gets")
            self.scheduler = scheduler
            self.position, self.end = last_epoch(scheduler), end_of(scheduler)
        elif callable(scheduler):
            self.schedule = scheduler
            rates = {float(group["lr"]) for group in optimizer.param_groups}
            if len(rates) > 1:
                raise ValueError(
                    f"a callable lr(t̂) gives one rate to all param groups, these have {sorted(rates)}: use a torch "
                    "scheduler, LambdaLR for instance"
                )
        elif scheduler is not None:
            raise ValueError(f"scheduler={scheduler!r} is neither a torch scheduler nor a callable lr(t̂)")

    def check(self) -> None:
        """Refuse a scheduler that somebody else has moved.

        Raises:
            RuntimeError: it is at another step than Engine left it at.
        """
        if self.scheduler is not None and last_epoch(self.scheduler) != self.position:
            raise RuntimeError(
                f"the scheduler is at step {last_epoch(self.scheduler)}, Engine left it at {self.position}: remove "
                "scheduler.step() from the loop; after a resume, load the scheduler's own state too"
            )

    def multiply(self, ratio: Tensor, pace: Pace) -> list[Any]:
        """Set η of every param group; returns the rates that `restore` puts back. Waits for an accelerator only
        where a param group's rate has to be a float."""
        groups = self.optimizer.param_groups
        base = [group["lr"] for group in groups]
        if ratio.device.type == "cpu":  # as floats: cheaper, and every optimizer takes them
            r, rate = ratio.item(), None if self.schedule is as_it_is else self.schedule(pace.t_hat.item())
            for group in groups:
                group["lr"] = r * float(group["lr"] if rate is None else rate)
        else:
            eta = pace.learning_rate(ratio)  # r alone where each group has its own rate
            for group in groups:
                group["lr"] = _as_rate(eta if self.schedule is not as_it_is else eta * group["lr"], group)
        return base

    def restore(self, base: list[Any]) -> None:
        for group, rate in zip(self.optimizer.param_groups, base, strict=True):
            group["lr"] = rate

    def follow(self, t_hat: float) -> None:
        """Move the scheduler by whole steps until it is at t̂ or at its end."""
        if self.scheduler is None:
            return
        while self.position < t_hat - ROUNDING and (self.end is None or self.position < self.end):
            self.scheduler.step()
            self.position += 1


def _as_rate(eta: Tensor, group: dict[str, Any]) -> Any:
    """η in the form that the group's optimizer takes on an accelerator, waiting for it only where that is a float."""
    rate = group["lr"]
    if isinstance(rate, Tensor):
        return eta.to(rate)
    return eta.to(torch.float32) if group.get("fused") or group.get("capturable") else eta.item()


def last_epoch(scheduler: lr_scheduler.LRScheduler) -> int:
    """Steps that the scheduler has made."""
    while not hasattr(scheduler, "last_epoch"):
        scheduler = getattr(scheduler, "_schedulers")[0]  # noqa: B009 - ChainedScheduler's
    return scheduler.last_epoch


def end_of(scheduler: lr_scheduler.LRScheduler) -> int | None:
    """The last step that makes sense: OneCycleLR raises past it, CosineAnnealingLR rises again. None where rates stay
    as they are, or the schedule is periodic."""
    if isinstance(scheduler, lr_scheduler.OneCycleLR):
        return scheduler.total_steps - 1
    if isinstance(scheduler, lr_scheduler.CosineAnnealingLR):
        return scheduler.T_max
    if isinstance(scheduler, lr_scheduler.SequentialLR):
        last = end_of(scheduler._schedulers[-1])
        return None if last is None else scheduler._milestones[-1] + last
    if isinstance(scheduler, lr_scheduler.ChainedScheduler):
        ends = [end for each in scheduler._schedulers if (end := end_of(each)) is not None]
        return min(ends, default=None)
    return None
