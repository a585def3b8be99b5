"""Which layers let the examples of a minibatch share statistics.

Such a layer has no per-example gradients, and under importance sampling its statistics must be weighted. Both
questions are asked of a layer by what it is and by the buffers it keeps, since its forward cannot be read.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.instancenorm import _InstanceNorm

_STATISTICS = ("running_mean", "running_var")


def may_share_statistics(module: nn.Module) -> bool:
    """Whether some mode of `module` normalises with statistics of the whole batch.

    True for torch's batch normalisations and everything derived from their base class, and for any other module that
    keeps running statistics itself. False for instance normalisation, which takes each example alone, and for modules
    called frozen (torchvision's FrozenBatchNorm2d and those named after it), whose statistics are constants.
    """
    if isinstance(module, _InstanceNorm) or "Frozen" in type(module).__name__:
        return False
    return isinstance(module, _NormBase) or any(name in module._buffers for name in _STATISTICS)


def shares_statistics(module: nn.Module) -> bool:
    """Whether `module` does so in the mode it is in now: in training, or for want of running statistics."""
    kept = [module._buffers.get(name) for name in _STATISTICS]
    return may_share_statistics(module) and (module.training or all(statistic is None for statistic in kept))
