"""`output_norm` of many losses against a loop that differentiates one example at a time, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import rais
from rais.gradnorm import output_norm, softmax_cross_entropy_norm

M, C, T = 7, 5, 3
CLASS_WEIGHT = torch.tensor([0.5, 2.0, 0.0, 1.0, 3.0], dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(*shape: int) -> Tensor:
    return torch.randint(C, shape, generator=torch.Generator().manual_seed(1))


def with_ignored(target: Tensor) -> Tensor:
    target = target.clone()
    target[1] = -100
    return target


def some_tokens_ignored() -> Tensor:
    target = labels(M, T)
    target[0, 1], target[3] = -100, -100
    return target


def cross_entropy(**settings: object) -> Callable[[Tensor, Tensor], Tensor]:
    weight = settings.pop("weight", None)

    def losses(z: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(
            z, y, weight=None if weight is None else weight.to(z.dtype), reduction="none", **settings
        )
        return each if each.dim() == 1 else each.flatten(1).sum(1)

    return losses


def tokens(z: Tensor, y: Tensor) -> Tensor:
    """The usual loss of a language model: the mean over the tokens of a sequence that are not ignored."""
    each = F.cross_entropy(z.transpose(1, 2), y, reduction="none")
    return each.sum(1) / (y != -100).sum(1).clamp_min(1)


LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Tensor, Tensor]] = {
    "cross_entropy": (cross_entropy(), normal(M, C), labels(M)),
    "smoothing": (cross_entropy(label_smoothing=0.1), normal(M, C), labels(M)),
    "class_weights": (cross_entropy(weight=CLASS_WEIGHT), normal(M, C), labels(M)),
    "ignore_index": (cross_entropy(), normal(M, C), with_ignored(labels(M))),
    "all_three": (cross_entropy(weight=CLASS_WEIGHT, label_smoothing=0.2), normal(M, C), with_ignored(labels(M))),
    "probabilities": (cross_entropy(), normal(M, C), normal(M, C, seed=2).softmax(1)),
    "bce": (
        lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none"),
        normal(M),
        (labels(M) > 2).double(),
    ),
    "bce_column": (
        lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none").squeeze(1),
        normal(M, 1),
        (labels(M, 1) > 2).double(),
    ),
    "multi_label": (
        lambda z, y: F.binary_cross_entropy_with_logits(z, y, reduction="none").mean(1),
        normal(M, C),
        (labels(M, C) > 2).double(),
    ),
    "mse": (lambda z, y: F.mse_loss(z, y, reduction="none").mean(1), normal(M, C), normal(M, C, seed=2)),
    "tokens": (tokens, normal(M, T, C), some_tokens_ignored()),
    "tokens_summed": (lambda z, y: cross_entropy()(z.transpose(1, 2), y), normal(M, T, C), some_tokens_ignored()),
    "pixels": (cross_entropy(), normal(M, C, 4, 3), labels(M, 4, 3)),
}


def by_loop(losses: Callable[[Tensor, Tensor], Tensor], z: Tensor, y: Tensor) -> Tensor:
    norms = []
    for one, target in zip(z.double(), y.double() if y.is_floating_point() else y, strict=True):
        one = one[None].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(losses(one, target[None]).sum(), one)
        norms.append(gradient.norm())
    return torch.stack(norms)


@pytest.mark.parametrize("name", LOSSES)
def test_equals_a_loop_over_the_examples(name: str) -> None:
    losses, z, y = LOSSES[name]
    z = z.clone().requires_grad_()
    norm = output_norm(losses(z, y), z)
    assert norm.shape == (M,) and norm.dtype == torch.float64 and not norm.requires_grad
    torch.testing.assert_close(norm, by_loop(losses, z.detach(), y), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_other_dtypes(name: str, dtype: torch.dtype) -> None:
    losses, z, y = LOSSES[name]
    y = y.to(torch.float32) if y.is_floating_point() else y
    z = z.to(dtype).requires_grad_()
    norm = output_norm(losses(z.float(), y), z)  # losses in float32, as under autocast
    assert norm.dtype == torch.float32
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(norm.double(), by_loop(losses, z.detach(), y), rtol=tolerance, atol=1e-7)


def test_float16_keeps_small_gradients_and_large_ones() -> None:
    """The gradient of a well-learned example is below 6e-8, where float16 ends; that of a regression may be large."""
    z = torch.tensor([[15.0, -5.0], [12.0, -7.0]]).half().requires_grad_()
    y = torch.tensor([0, 0])
    norm = output_norm(F.cross_entropy(z.float(), y, reduction="none"), z)
    torch.testing.assert_close(norm, softmax_cross_entropy_norm(z, y), rtol=0.5, atol=0)  # √2 by 1 − p_y in float32
    z = torch.tensor([[1000.0, 2000.0], [0.0, 0.1]]).half().requires_grad_()
    norm = output_norm(z.float().square().sum(1), z)
    torch.testing.assert_close(norm, 2 * z.detach().float().norm(dim=1), rtol=1e-3, atol=0)


def test_squares_neither_vanish_nor_overflow_in_float32() -> None:
    factor = torch.tensor([1e-30, 1.0, 1e30])
    z = torch.ones(3, 4, requires_grad=True)
    torch.testing.assert_close(output_norm(factor * z.sum(1), z), 2 * factor)


def test_the_training_step_follows_as_without_it() -> None:
    model = torch.nn.Linear(4, C)
    x, y = torch.randn(M, 4), labels(M)
    F.cross_entropy(model(x), y).backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    out = model(x)
    losses = F.cross_entropy(out, y, reduction="none")
    norm = output_norm(losses, out)
    assert all(p.grad is None for p in model.parameters())
    losses.mean().backward()
    for p, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, gradient)
    torch.testing.assert_close(norm, softmax_cross_entropy_norm(out, y))
    assert rais.output_norm is output_norm


def test_works_under_no_grad_and_autocast_around_the_call() -> None:
    z, y = normal(M, C).float().requires_grad_(), labels(M)
    losses = F.cross_entropy(z, y, reduction="none")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(output_norm(losses, z), softmax_cross_entropy_norm(z, y))


def test_many_tokens_cross_block_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    losses, z, y = LOSSES["tokens"]
    z = z.clone().requires_grad_()
    expected = output_norm(losses(z, y), z)
    monkeypatch.setattr("rais.gradnorm.outputs._BLOCK", 2 * T * C)
    assert torch.equal(output_norm(losses(z, y), z), expected)


def test_wrong_use_names_the_cure() -> None:
    z, y = torch.randn(M, C, requires_grad=True), labels(M)
    losses = F.cross_entropy(z, y, reduction="none")
    by_token = torch.randn(M, T, C, requires_grad=True)
    one_per_token = F.cross_entropy(by_token.flatten(0, 1), labels(M * T), reduction="none")
    cases: list[tuple[object, object, type[Exception], str]] = [
        (losses.mean(), z, ValueError, "reduction='none'"),
        (one_per_token.view(M, T), by_token, ValueError, r"losses\.flatten\(1\)\.sum\(1\)"),
        (one_per_token, by_token, ValueError, rf"losses\.view\({M}, -1\)\.sum\(1\)"),
        (losses[:3], z, ValueError, r"\(3,\) and \(7, 5\)"),
        (losses, z.T, ValueError, "dimension 0 of both"),
        (losses, z.sum(), ValueError, r"\(7,\) and \(\)"),
        (losses, z.detach(), ValueError, "outputs have no graph"),
        (losses.detach(), z, ValueError, "losses have no graph"),
        (losses, z.clone(), ValueError, "do not depend on these outputs"),
        (losses, (z,), TypeError, r"out\.logits"),
        (losses.tolist(), z, TypeError, "losses must be a tensor"),
    ]
    for bad_losses, bad_outputs, error, message in cases:
        with pytest.raises(error, match=message) as raised:
            output_norm(bad_losses, bad_outputs)  # type: ignore[arg-type]
        assert "\n" not in str(raised.value)
