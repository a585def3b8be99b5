"""How much bias it is that r depends on the minibatch it multiplies: E[r g]/E[r] against ∇F at frozen parameters.

A short RAIS run stops at a snapshot; from there many minibatches are drawn from the distribution in use, each with
the averages of the gain ratio as the run left them. Prints a table with standard errors; stores nothing.

| paper       | code      | shape | unit                                                            |
|-------------|-----------|-------|-----------------------------------------------------------------|
| ∇F          | full      | (D,)  | mean gradient of the training set, without L2                   |
| g           | gradient  | (D,)  | of one minibatch                                                |
| r           | ratios    | ()    | as `Adaptive.update` would return it; and by the slow average   |
| b           | bias      | (D,)  | E[r g]/E[r] − ∇F = E[(r/E r − 1) g], because E g = ∇F           |

The last form is what is averaged: the noise of g itself, which is many times ∇F, drops out of it.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from torch.nn.functional import cross_entropy

from rais.gain import Minibatch
from rais.gradnorm import softmax_cross_entropy_norm
from rais.paper import settings
from rais.paper.training import build
from rais.paper.training.loop import Loop
from rais.paper.training.parts import Parts
from rais.sampling import Draw

ROOT = Path(__file__).resolve().parents[1]
GROUPS = 40  # independent groups of minibatches, for the split estimate and its standard error


def full_gradient(parts: Parts) -> Tensor:
    """∇F (D,) float64."""
    split, parameters = parts.data.train, list(parts.model.parameters())
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    for index in torch.arange(len(split)).split(500):
        x, y = split.batch(index)
        total += flat(torch.autograd.grad(cross_entropy(parts.model(x), y, reduction="sum"), parameters))
    return total / len(split)


def flat(gradients: Sequence[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients]).double()


def ratios(parts: Parts, batch: Minibatch) -> Tensor:
    """r (2,) for this minibatch, by the smaller of the two averages and by the slow one alone; nothing is kept."""
    adaptive = copy.copy(parts.gain)
    adaptive.moments = copy.copy(adaptive.moments)
    adaptive.phi = copy.copy(adaptive.phi)
    adaptive.phi.iteration = 1  # φ is not due: it keeps its value, as it does in 31 of 32 steps
    r = adaptive.update(batch)
    return torch.stack([r, 1 + adaptive.phi.value * (adaptive.rhos[0] - 1)])


def measure(parts: Parts, minibatches: int, seed: int) -> list[tuple[str, float, float]]:
    """Rows (what, value, standard error) at the parameters, averages and probabilities of `parts`."""
    sampler, parameters = parts.sampler, list(parts.model.parameters())
    random = torch.Generator().manual_seed(seed)
    p, full = sampler.probabilities(), full_gradient(parts)
    draw = sampler.draw()
    mean_norm = draw.mean_norm
    sampler.skip(draw)
    each = minibatches // GROUPS
    r = torch.zeros(GROUPS, each, 2, dtype=torch.float64)
    along = torch.zeros(GROUPS, each, dtype=torch.float64)
    weighted_sums = torch.zeros(GROUPS, 2, len(full), dtype=torch.float64)
    sums = torch.zeros(GROUPS, len(full), dtype=torch.float64)
    for k in range(GROUPS):
        for j in range(each):
            index = torch.multinomial(p, sampler.m, replacement=True, generator=random)
            weight = (1 / (sampler.n * p[index])).float()
            draw = Draw(index, weight, mean_norm=mean_norm)
            x, y = parts.data.train.batch(index)
            logits = parts.model(x)
            losses = weight * cross_entropy(logits, y, reduction="none")
            gradient = flat(torch.autograd.grad(losses.mean(), parameters))
            r[k, j] = ratios(parts, Minibatch(draw, softmax_cross_entropy_norm(logits.detach(), y), losses.detach()))
            along[k, j] = gradient @ full
            sums[k] += gradient
            weighted_sums[k] += r[k, j][:, None] * gradient
    mean_r = r.mean((0, 1))
    spread = (r[..., 0].std() / mean_r[0]).item()
    rows = [("r", mean_r[0].item(), mean_r[0].item() * spread / (GROUPS * each) ** 0.5)]
    rows.append(("spread of r, relative", spread, spread / (2 * GROUPS * each) ** 0.5))
    for which, name in enumerate(("the smaller average", "the slow average")):
        bias = (weighted_sums[:, which] / mean_r[which] - sums) / each
        size, error = split_norm(bias)
        rows.append((f"|b|/|F|, {name}", size / full.norm().item(), error / full.norm().item()))
        share = ((r[..., which] / mean_r[which] - 1) * along).flatten() / full.square().sum()
        rows.append((f"<b,F>/|F|^2, {name}", share.mean().item(), share.std().item() / len(share) ** 0.5))
    size, error = split_norm(sums / each - full)
    rows.append(("|mean g − F|/|F|, which is 0", size / full.norm().item(), error / full.norm().item()))
    return rows


def split_norm(estimates: Tensor) -> tuple[float, float]:
    """‖mean‖ of independent unbiased estimates (k, D), from products of different ones only, so that noise does not
    count; and its standard error by leaving out one at a time. A negative square gives a negative norm."""
    k = len(estimates)
    products = estimates @ estimates.T
    total, own = products.sum(), products.diagonal().sum()

    def norm(total: Tensor, own: Tensor, k: int) -> float:
        square = (total - own) / (k * (k - 1))
        return (square.abs().sqrt() * square.sign()).item()

    without = [norm(total - 2 * products[i].sum() + products[i, i], own - products[i, i], k - 1) for i in range(k)]
    spread = torch.tensor(without, dtype=torch.float64)
    return norm(total, own, k), ((k - 1) / k * (spread - spread.mean()).square().sum()).sqrt().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="digits")
    parser.add_argument("--seed", type=int, default=30)
    parser.add_argument("--epochs", type=float, nargs="+", default=[3.0], help="snapshots, in epochs of examples")
    parser.add_argument("--minibatches", type=int, default=4_000)
    parser.add_argument("overrides", nargs="*", help="settings of the run, as scripts/train.py takes them")
    args = parser.parse_args()
    settings.register()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        chosen = [f"task={args.task}", "sampler=rais", f"seed={args.seed}", "device=cpu", *args.overrides]
        cfg = settings.from_hydra(compose("config", chosen))
    parts = build.build(cfg, cfg.data.build(torch.device("cpu")))
    loop = Loop(parts, None, epochs=cfg.epochs, evaluations=cfg.evaluations)
    for epoch in sorted(args.epochs):
        while loop.iteration < epoch * loop.per_epoch:
            loop.run_timed(1)
        print(f"{args.task}, seed {args.seed}, epoch {epoch:g}, {args.minibatches} minibatches", flush=True)
        for what, value, error in measure(parts, args.minibatches, seed=args.seed):
            print(f"  {what:40} {value:9.5f} ± {error:.5f}", flush=True)


if __name__ == "__main__":
    main()
