"""A subclass has a formula only if it was registered, and only for a layer that has one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from rais.gradnorm import PerExampleNorms, exact_norms, register_formula


def losses(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.sum(1) - targets).square()


def test_registered_subclass_has_the_formula_of_its_layer_and_its_subclasses_have_not() -> None:
    class Same(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.weight.T) + self.bias

    class SubclassOfSame(Same):
        pass

    with pytest.raises(ValueError, match="Same.* no formula"):
        PerExampleNorms(Same(4, 3), "sum")
    register_formula(Same, like=nn.Linear)
    plain, same = nn.Linear(4, 3), Same(4, 3)
    same.load_state_dict(plain.state_dict())
    inputs, targets = torch.randn(5, 4), torch.randn(5)
    with PerExampleNorms(same, "sum") as norms:
        losses(same(inputs), targets).sum().backward()
    torch.testing.assert_close(norms.squared().sqrt(), exact_norms(plain, losses, inputs, targets))
    with pytest.raises(ValueError, match="SubclassOfSame.* no formula"):
        PerExampleNorms(SubclassOfSame(4, 3), "sum")


def test_what_cannot_be_registered() -> None:
    class Subclass(nn.Linear):
        pass

    with pytest.raises(ValueError, match="like=Bilinear has no formula.*Linear, Conv2d"):
        register_formula(Subclass, like=nn.Bilinear)
    with pytest.raises(ValueError, match="Subclass is no subclass of Conv2d"):
        register_formula(Subclass, like=nn.Conv2d)
    with pytest.raises(ValueError, match="no formula"):
        PerExampleNorms(Subclass(4, 3), "sum")
