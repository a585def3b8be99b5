"""Problems for the tests of the gain ratio, with per-example gradients that are written down without autograd."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from rais.gain import Minibatch
from rais.gradnorm import softmax_cross_entropy_norm
from rais.sampling import Draw


def losses(logits: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(logits, y, reduction="none")


def linear_problem(n: int = 400, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear softmax classifier, its data, and the gradients (n, 15): outer products."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(n, 5, generator=g, dtype=dtype) + 0.4
    y = torch.randint(3, (n,), generator=g)
    model = nn.Linear(5, 3, bias=False).to(dtype)
    with torch.no_grad():
        model.weight.copy_(torch.randn(3, 5, generator=g, dtype=dtype))
        delta = model(x).softmax(1) - one_hot(y, 3)
        gradients = torch.einsum("nc,nd->ncd", delta, x).flatten(1)
    return model, x, y, gradients


def true_phi(gradients: Tensor, p: Tensor, m: int) -> float:
    n = len(gradients)
    one = (gradients.square().sum(1) / p).sum() / n**2
    full = gradients.mean(0).square().sum()
    return (one / m / (one / m + (1 - 1 / m) * full)).item()


def minibatches(
    m: int, count: int, is_weighted: bool, *, short: int | None = None
) -> Iterator[tuple[nn.Module, Minibatch, float]]:
    """Model, minibatch after its backward pass, and the true φ; every third minibatch has `short` examples."""
    model, x, y, gradients = linear_problem()
    n = len(x)
    p = (gradients.norm(dim=1) + 0.3) if is_weighted else torch.ones(n, dtype=torch.float64)
    mean_norm = p.mean().item()
    p = p / p.sum()
    g = torch.Generator().manual_seed(7)
    for t in range(count):
        size = short if short and t % 3 == 2 else m
        index = torch.multinomial(p, size, replacement=True, generator=g)
        draw = Draw(index, 1 / (n * p[index]), mean_norm=mean_norm)
        logits = model(x[index])
        weighted = draw.weight * losses(logits, y[index])
        model.zero_grad()
        weighted.mean().backward(retain_graph=True)
        norm = softmax_cross_entropy_norm(logits.detach(), y[index])
        yield model, Minibatch(draw, norm, weighted, x[index], y[index]), true_phi(gradients, p, size)


class Falling:
    """f_i(w) = scale ⟨x_i, w⟩: the gradients scale x_i are given, and their scale falls with each minibatch."""

    def __init__(self, n: int = 60, d: int = 5, *, seed: int = 0) -> None:
        self.random = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, d, generator=self.random, dtype=torch.float64) + 0.5
        self.x *= torch.rand(n, 1, generator=self.random, dtype=torch.float64) ** 3 + 0.05
        self.w = torch.ones(d, dtype=torch.float64, requires_grad=True)
        self.scale = 1.0

    def minibatch(self, m: int, *, is_uniform: bool = False) -> Minibatch:
        """Drawn by norms that some were told wrong by; weights 1 and no mean norm where `is_uniform`."""
        n = len(self.x)
        v = self.scale * self.x.norm(dim=1)
        told = v * (0.3 + torch.rand(n, generator=self.random, dtype=torch.float64)) + 0.02 * self.scale
        index = torch.multinomial(torch.ones(n) if is_uniform else told, m, replacement=True, generator=self.random)
        weight = torch.ones(m, dtype=torch.float64) if is_uniform else told.mean() / told[index]
        draw = Draw(index, weight, mean_norm=None if is_uniform else told.mean().item())
        weighted = weight * self.scale * (self.x[index] @ self.w)
        batch = Minibatch(draw, v[index], weighted)
        self.gradients = weight[:, None] * self.scale * self.x[index]  # (m, d), weighted
        self.w.grad = self.gradients.mean(0)
        self.scale *= 0.98
        return batch
