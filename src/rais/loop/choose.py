"""What the engine's arguments mean, and what it refuses to work with.

The one place where an optimizer meets a gain ratio: r was derived for SGD, and √r for AdamW is what the records of the
tasks `digits_adamw` and `mnist_adamw` speak for. What serves another optimizer is to be measured before it is chosen.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rais.gain import Adaptive, FromParts, Off, Root
from rais.loop.outliers import OutlierCap
from rais.sampling.base import Sampler

KINDS = {"sgd": Adaptive, "root": Root}


def choose_gain(gain: Any, optimizer: Optimizer, sampler: Sampler, parameters: list[Tensor], every: int) -> Any:
    """The gain ratio that `gain` names.

    Raises:
        ValueError: LBFGS, an unknown name, or "auto" for an optimizer that no multiplier was derived or measured for.
    """
    device = parameters[0].device
    if isinstance(getattr(optimizer, "optimizer", optimizer), torch.optim.LBFGS):
        raise ValueError(
            "LBFGS needs a closure, and takes several steps with one minibatch: choose an optimizer that takes one"
        )
    if not isinstance(gain, str):
        return gain
    if gain == "off" or (gain == "auto" and sampler.weighs_one):  # r = 1 anyway
        return Off(device=device)
    optimizer = getattr(optimizer, "optimizer", optimizer)  # frameworks wrap it
    if gain == "auto":
        gain = _of_optimizer(optimizer)
    if gain not in KINDS:
        raise ValueError(f"gain={gain!r} is unknown: choose 'auto', 'sgd', 'root', 'off' or an object of rais.gain")
    return KINDS[gain](FromParts(parameters, m=sampler.m, every=every))


def _of_optimizer(optimizer: Optimizer) -> str:
    if isinstance(optimizer, torch.optim.SGD):
        return "sgd"
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):  # without decay they are one and the same
        return "root"
    raise ValueError(
        f"gain='auto' does not guess for {type(optimizer).__name__}, because r was derived for SGD and √r was measured "
        "for AdamW alone: choose gain='off' for its plain learning rate, or multiply it all the same, by √r with "
        "gain='root', by r with gain='sgd'"
    )


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
    if names & {"DTensor", "FlatParameter"} or any(
        "FullyShardedDataParallel" in x or x.startswith("FSDP") for x in modules
    ):
        raise ValueError(
            "FSDP (FullyShardedDataParallel, fully_shard) is not supported: no rank has a whole gradient; use "
            "DistributedDataParallel, or one GPU"
        )
