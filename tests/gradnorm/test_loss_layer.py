"""The loss-layer norm against autograd of the cross-entropy in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rais.gradnorm import softmax_cross_entropy_norm


def norm_by_autograd(logits: Tensor, labels: Tensor) -> Tensor:
    logits = logits.detach().double().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), logits)
    return torch.linalg.vector_norm(gradient, dim=1)


def norm_by_pairs(logits: Tensor, labels: Tensor) -> Tensor:
    """In float64 without cancellation, one example and one class at a time: p_k = 1/Σ_j exp(z_j − z_k)."""
    norms = []
    for z, y in zip(logits.double(), labels.tolist(), strict=True):
        others = torch.stack([1 / (z - z[k]).exp().sum() for k in range(len(z)) if k != y])
        norms.append((others.square().sum() + others.sum() ** 2).sqrt())
    return torch.stack(norms)


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_equals_autograd(classes: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(classes)
    logits = scale * torch.randn(40, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (40,), generator=generator)
    torch.testing.assert_close(
        softmax_cross_entropy_norm(logits, labels), norm_by_autograd(logits, labels), rtol=1e-10, atol=1e-14
    )


@pytest.mark.parametrize("margin", [1.0, 10.0, 17.0, 30.0, 50.0, 70.0, 80.0])
def test_float32_is_accurate_for_confident_examples(margin: float) -> None:
    generator = torch.Generator().manual_seed(int(margin))
    logits = torch.randn(40, 10, generator=generator)
    labels = torch.randint(10, (40,), generator=generator)
    logits[torch.arange(40), labels] = margin
    norms = softmax_cross_entropy_norm(logits, labels)
    assert norms.dtype == torch.float32
    torch.testing.assert_close(norms.double(), norm_by_pairs(logits, labels), rtol=1e-5, atol=0)


def test_confidently_wrong_is_root_two_and_certainty_is_zero() -> None:
    logits = torch.tensor([[200.0, 0.0, 0.0], [200.0, 0.0, 0.0]])
    norms = softmax_cross_entropy_norm(logits, torch.tensor([1, 0]))
    torch.testing.assert_close(norms, torch.tensor([2**0.5, 0.0]))


def test_the_caller_s_tensors_and_graph_are_untouched() -> None:
    logits = torch.randn(5, 4, requires_grad=True)
    before, labels = logits.detach().clone(), torch.tensor([0, 1, 2, 3, 0])
    assert not softmax_cross_entropy_norm(logits, labels).requires_grad
    assert torch.equal(logits, before)
    assert labels.tolist() == [0, 1, 2, 3, 0]


def test_transposed_logits() -> None:
    logits, labels = torch.randn(4, 7, dtype=torch.float64), torch.randint(4, (7,))
    torch.testing.assert_close(softmax_cross_entropy_norm(logits.T, labels), norm_by_autograd(logits.T, labels))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(3, 2, 2), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64)),
        (torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64)),
    ],
)
def test_wrong_shapes(logits: Tensor, labels: Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(b, C\) and labels \(b,\)"):
        softmax_cross_entropy_norm(logits, labels)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int32)),
        (torch.zeros(3, 2), torch.zeros(3)),
    ],
)
def test_wrong_dtypes(logits: Tensor, labels: Tensor) -> None:
    with pytest.raises(TypeError, match=r"labels\.long\(\)"):
        softmax_cross_entropy_norm(logits, labels)
