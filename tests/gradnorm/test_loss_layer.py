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


CLASS_WEIGHT = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64)


def by_autograd(logits: Tensor, target: Tensor, **settings: object) -> Tensor:
    logits = logits.detach().double().requires_grad_()
    target = target.double() if target.is_floating_point() else target
    losses = F.cross_entropy(logits, target, reduction="none", **settings)  # type: ignore[arg-type]
    return torch.autograd.grad(losses.sum(), logits)[0].norm(dim=1)


@pytest.mark.parametrize("weight", [None, CLASS_WEIGHT])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", ["labels", "ignored", "probabilities"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_setting_of_torchs_loss_in_every_dtype(
    weight: Tensor | None, label_smoothing: float, kind: str, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(20, 5, generator=generator, dtype=torch.float64)).to(dtype)
    target = torch.randint(5, (20,), generator=generator)
    if kind == "ignored":
        target[::3] = -100
    elif kind == "probabilities":
        target = torch.randn(20, 5, generator=generator, dtype=torch.float64).softmax(1)
    given = None if weight is None else weight.to(dtype)
    norms = softmax_cross_entropy_norm(logits, target, weight=given, label_smoothing=label_smoothing)
    expected = by_autograd(logits, target, weight=weight, label_smoothing=label_smoothing)
    assert norms.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(norms.double(), expected, rtol=tolerance, atol=1e-14)


def test_another_ignore_index() -> None:
    logits, labels = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0, 3, 3, 1, 4, 2])
    torch.testing.assert_close(
        softmax_cross_entropy_norm(logits, labels, ignore_index=3), by_autograd(logits, labels, ignore_index=3)
    )


@pytest.mark.parametrize("margin", [10.0, 30.0, 80.0])
def test_confident_examples_given_as_probabilities_or_with_weights(margin: float) -> None:
    logits = torch.randn(40, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(40) % 5
    logits[torch.arange(40), labels] = margin
    plain = norm_by_pairs(logits, labels)
    one_hot = F.one_hot(labels, 5).float()
    torch.testing.assert_close(softmax_cross_entropy_norm(logits, one_hot).double(), plain, rtol=1e-5, atol=0)
    weighted = softmax_cross_entropy_norm(logits, labels, weight=CLASS_WEIGHT)
    torch.testing.assert_close(weighted.double(), plain * CLASS_WEIGHT[labels], rtol=1e-5, atol=0)
    weighted = softmax_cross_entropy_norm(logits, one_hot, weight=CLASS_WEIGHT)
    torch.testing.assert_close(weighted.double(), plain * CLASS_WEIGHT[labels], rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_of_confident_examples(dtype: torch.dtype) -> None:
    logits, labels = torch.tensor([[40.0, 0.0, 1.0]]).to(dtype), torch.tensor([0])
    norms = softmax_cross_entropy_norm(logits, labels)
    torch.testing.assert_close(norms.double(), norm_by_pairs(logits, labels), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), r"\(b, C\) and target \(b,\)"),
        (torch.zeros(3, 2, 2), torch.zeros(3, dtype=torch.int64), r"output_norm\(losses, logits\)"),
        (torch.zeros(3, 2), torch.zeros(4, dtype=torch.int64), r"got logits \(3, 2\) and target \(4,\)"),
        (torch.zeros(3, 2), torch.zeros(3, 1), r"\(b, C\) and target \(b,\)"),
        (torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64), "over one class is constant.*binary_cross_entropy"),
        (torch.zeros(4, 1), torch.zeros(4, 1), "over one class is constant.*binary_cross_entropy"),
        (torch.zeros(3, 2), torch.tensor([0, 2, 1]), r"labels from 0 to 2.*\[0, 2\)"),
        (torch.zeros(3, 2), torch.tensor([0, -1, 1]), r"labels from -1 to 1.*ignore_index=-100"),
    ],
)
def test_what_is_refused_by_value(logits: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        softmax_cross_entropy_norm(logits, target)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_labels_out_of_range_with_smoothing_and_weights(label_smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"labels from 0 to 9"):
        softmax_cross_entropy_norm(
            torch.zeros(2, 5), torch.tensor([0, 9]), weight=CLASS_WEIGHT, label_smoothing=label_smoothing
        )


def test_settings_that_cannot_be() -> None:
    logits, labels = torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="importance weights do not belong here"):
        softmax_cross_entropy_norm(logits, labels, weight=torch.ones(3))
    with pytest.raises(ValueError, match="label_smoothing=1.5"):
        softmax_cross_entropy_norm(logits, labels, label_smoothing=1.5)
    with pytest.raises(ValueError, match="no meaning for class probabilities"):
        softmax_cross_entropy_norm(logits, logits.softmax(1), ignore_index=0)


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), r"logits\.float\(\)"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int32), r"labels\.long\(\)"),
        (torch.zeros(3, 2), torch.zeros(3), r"labels\.long\(\)"),
        (torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64), r"target\.float\(\).*several labels"),
    ],
)
def test_wrong_dtypes(logits: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(TypeError, match=message) as raised:
        softmax_cross_entropy_norm(logits, target)
    assert "argmax" not in str(raised.value)
