"""Small faults, each put into the source by itself; the tests named beside it have to notice.

A mutant is (file below src/rais, what is there, what is put in its place, tests). `tests/test_mutants.py` runs them.
"""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    file: str
    before: str
    after: str
    tests: str  # below tests/, separated by spaces

    @property
    def name(self) -> str:
        return f"{self.file}: {self.before.strip()} → {self.after.strip()}"


RAIS = "sampling/test_rais.py sampling/test_counting.py sampling/test_rais_refresh.py"
COMPILED = "test_compiled.py"
TREE = "sampling/test_categorical.py test_compiled.py"
PT = "sampling/test_uncertainty.py"
SMOOTHED = "sampling/test_smoothed.py sampling/test_unbiased.py"
SPACED = "sampling/test_spaced.py sampling/test_counting.py"
TICKETS = "sampling/test_counting.py sampling/test_base.py"
FEATURES = "test_compiled.py sampling/test_features.py sampling/test_counting.py"
LOSS_LAYER = "gradnorm/test_loss_layer.py test_compiled.py"
GAIN = "gain"
MEASURE = "paper/analysis"
RECORDS = "paper/records"

MUTANTS = [
    # RAIS
    Mutant("sampling/rais.py", "math.ceil(visits / self", "math.floor(visits / self", RAIS),
    Mutant("sampling/rais.py", "self.visited >= self.n:", "self.visited > self.n:", RAIS),
    Mutant("sampling/rais.py", "self.visited >= self.solve_at", "self.visited > self.solve_at", RAIS),
    Mutant("sampling/rais.py", "self.c[-1] + self.k * self.d[-1]", "self.c[-1]", f"{RAIS} sampling/test_side.py"),
    Mutant("sampling/rais.py", "append(features, norm, weight)", "append(features, norm, weight * 0 + 1)", RAIS),
    Mutant(
        "sampling/rais.py",
        "if robust.is_independent:",
        "if not robust.is_independent:",
        f"{RAIS} sampling/test_spaced.py",
    ),
    Mutant("sampling/rais.py", "if not is_first_pass:", "if True:", RAIS),
    Mutant("sampling/rais.py", "min(VISITS, n // 2)", "min(VISITS, n)", RAIS),
    Mutant("sampling/rounds.py", "self.waiting += len(visits[0])", "self.waiting += self.m", RAIS),
    Mutant("sampling/visits.py", "(self.added - k) % self.size", "self.added % self.size", "sampling/test_visits.py"),
    # (PT) and the robust distribution
    Mutant("sampling/uncertainty.py", "d * np.sqrt(pull)", "d * pull", PT),
    Mutant("sampling/uncertainty.py", "_best_c(S, v, weight / radius)", "_best_c(S, v, weight)", PT),
    Mutant("sampling/uncertainty.py", "excess / radius**2", "excess / radius", PT),
    Mutant("sampling/uncertainty.py", "norms[:-1].max()", "norms[:-1].mean()", PT),
    Mutant("sampling/uncertainty.py", "(f - (a - pull) @ d)", "f", PT),
    Mutant("sampling/uncertainty.py", "d / unit.feature * unit.norm**2", "d / unit.feature * unit.norm", PT),
    Mutant("sampling/uncertainty.py", "LIFT * d.sum()", "0 * d.sum()", PT),
    Mutant("sampling/robust.py", "rsqrt()", "sqrt()", "sampling/test_robust.py"),
    Mutant("sampling/robust.py", "c + k * d", "c + d", "sampling/test_robust.py"),
    # the other samplers
    Mutant("sampling/smoothed.py", "weight(index) + self.delta)", "weight(index) + self.delta / 2)", SMOOTHED),
    Mutant("sampling/smoothed.py", "dtype=torch.float64) < self.delta", "dtype=torch.float64) > self.delta", SMOOTHED),
    Mutant("sampling/smoothed.py", "norm.clamp_min(SMALLEST_NORM)", "norm", SMOOTHED),
    Mutant("sampling/smoothed.py", ".float() / known.sum()", ".float() / len(seen)", SMOOTHED),
    Mutant("sampling/oracle.py", "if self.norms.any() else", "if True else", "sampling/test_oracle.py"),
    Mutant(
        "sampling/uniform.py",
        "torch.cat([self.order, more]) if len(self.order) else more",
        "more",
        "sampling/test_uniform.py",
    ),
    Mutant("sampling/side.py", "slope * (self.sizes - self.mean)", "slope * self.sizes", "sampling/test_side.py"),
    Mutant("sampling/side.py", "share.sum(1) / ratio.gather", "1 / ratio.gather", "sampling/test_side.py"),
    Mutant("sampling/spaced.py", "1 + self.spread * (2 * u - 1)", "1 + 2 * self.spread * (2 * u - 1)", SPACED),
    Mutant("sampling/spaced.py", "(old.to(torch.float64) / new)", "(new / old.to(torch.float64))", SPACED),
    Mutant("sampling/spaced.py", "self.owed[:m], self.owed[m:]", "self.owed[:m], self.owed[:0]", SPACED),
    # what they share
    Mutant("sampling/base.py", "LARGEST_NORM = 1e18", "LARGEST_NORM = 1e30", TICKETS),
    Mutant("sampling/base.py", "1.0 / weight.mean().item()", "1.0 / weight.square().mean().item()", "sampling"),
    Mutant(
        "sampling/base.py",
        "if draw.ticket not in self.tickets.held:",
        "if True:",
        "sampling/test_counting.py sampling/test_rais.py",
    ),
    Mutant("sampling/base.py", "index.max() < n)", "index.max() <= n)", TICKETS),
    Mutant(
        "sampling/base.py", "(total / count).index_select", "total.index_select", f"{COMPILED} sampling/test_base.py"
    ),
    Mutant("sampling/tickets.py", "left[own] = [False] * count", "left = left", TICKETS),
    Mutant("sampling/tickets.py", "len(self.held) > MOST", "len(self.held) > 2 * MOST", TICKETS),
    Mutant("sampling/categorical.py", "block = index // BRANCH", "block = index // TOP", TREE),
    Mutant("sampling/categorical.py", "(self.tops.sum() / self.n) / self.value", "self.tops.sum() / self.value", TREE),
    Mutant(
        "sampling/categorical.py",
        "x.view(-1, BRANCH).index_select(0, chosen)",
        "x.view(-1, BRANCH).index_select(0, chosen * 0)",
        TREE,
    ),
    Mutant("sampling/features.py", "(self.n - smaller.n) * no_past", "no_past", FEATURES),
    Mutant("sampling/features.py", "- before.T) * is_first(index)", "- before.T)", FEATURES),
    Mutant("sampling/features.py", "offset[2:].square_()", "offset[2:]", FEATURES),
    Mutant("sampling/loops.py", "square * share - offset * offset", "square * share", COMPILED),
    Mutant("sampling/loops.py", "min(count[i] + 1, 16)", "count[i] + 1", FEATURES),
    Mutant("sampling/loops.py", "if i < position:", "if i <= position:", FEATURES),
    Mutant("sampling/loops.py", "mean[: k + 1] / counts", "mean[: k + 1]", f"{COMPILED} sampling/test_base.py"),
    # the gain ratio
    Mutant("gain/phi.py", "1 - (1 - alpha / MEMORY) ** every", "1 - (1 - alpha * MEMORY) ** every", GAIN),
    Mutant("gain/phi.py", "SMALLEST = 1e-3", "SMALLEST = 1e-1", GAIN),
    Mutant("gain/phi.py", "one + (m - 1) * full_sq", "one + m * full_sq", GAIN),
    Mutant("gain/phi.py", "m * whole_sq - (m - 1) * full_sq", "m * whole_sq", GAIN),
    Mutant("gain/phi.py", "(m * m - own_pairs)\n", "(m * m)\n", GAIN),
    Mutant("gain/phi.py", "torch.stack([full_sq, one]) / unit**2", "torch.stack([full_sq, one]) / unit", GAIN),
    Mutant("gain/phi_from_grad.py", "alpha / MEMORY", "alpha * MEMORY", GAIN),
    Mutant("gain/loops.py", "math.isfinite(first) and math.isfinite(second)", "True", f"{COMPILED} gain"),
    Mutant("gain/loops.py", "rho = min(rho, sums[k, 0]", "rho = max(0.0, sums[k, 0]", f"{COMPILED} gain"),
    Mutant("gain/moments.py", "both * both[1]", "both * both[0]", f"{COMPILED} gain"),
    Mutant("gain/moments.py", "self.rates * torch.isfinite(value.sum())", "self.rates", GAIN),
    Mutant("gain/moments.py", "(1 - 1 / m) * full_gradient_sq", "full_gradient_sq", GAIN),
    Mutant("gain/ratio.py", "return self.rhos.min()", "return self.rhos.max()", f"{COMPILED} gain"),
    Mutant("gain/pace.py", "self.t_hat + ratio", "self.t_hat + 1", GAIN),
    Mutant("gain/fixed.py", "self.iteration >= self.ends", "self.iteration > self.ends", GAIN),
    # exact and loss-layer norms
    Mutant("gradnorm/layers.py", "[total // 2, total - total // 2]", "[total - total // 2, total // 2]", "gradnorm"),
    Mutant("gradnorm/layers.py", "yield grad.sum(2).square().sum(1)", "yield grad.square().sum((1, 2))", "gradnorm"),
    Mutant(
        "gradnorm/layers.py",
        "F.group_norm(x, norm.num_groups, eps=norm.eps)",
        "F.group_norm(x, norm.num_groups)",
        "gradnorm",
    ),
    Mutant("gradnorm/per_example.py", "squared.mul_(b**2)", "squared.mul_(b)", "gradnorm"),
    Mutant("gradnorm/loss_layer.py", "label_smoothing / p.shape[1]", "label_smoothing / (p.shape[1] - 1)", LOSS_LAYER),
    Mutant("gradnorm/loops.py", "square + others * others", "square", LOSS_LAYER),
    Mutant(
        "gradnorm/outputs.py",
        "torch.where(scaled.isfinite(), scaled,",
        "torch.where(scaled > -1, scaled,",
        "gradnorm/test_outputs.py",
    ),
    # the measure
    Mutant("paper/analysis/speedup.py", "np.flatnonzero(loss <= level)", "np.flatnonzero(loss < level)", MEASURE),
    Mutant("paper/analysis/speedup.py", "(before - _log(level)) / (before - after)", "0.5", MEASURE),
    Mutant(
        "paper/analysis/speedup.py",
        '["start_train_loss"].transform("min")',
        '["start_train_loss"].transform("max")',
        MEASURE,
    ),
    Mutant("paper/analysis/speedup.py", 'run["threads"] == 1 and', 'run["threads"] >= 1 and', MEASURE),
    Mutant("paper/analysis/intervals.py", "if len(arm) < SEEDS:", "if len(arm) <= SEEDS:", MEASURE),
    Mutant(
        "paper/analysis/intervals.py", "np.where(unknown, 0.0, values)", "np.where(unknown, np.inf, values)", MEASURE
    ),
    Mutant(
        "paper/analysis/intervals.py", "np.median(arm[chosen], axis=1)", "np.median(arm[chosen[::-1]], axis=1)", MEASURE
    ),
    Mutant("paper/analysis/rises.py", 'wide["epoch"] >= AFTER', 'wide["epoch"] > AFTER', MEASURE),
    # records
    Mutant("paper/records/read.py", 'run["status"] = "interrupted"', "pass", RECORDS),
    Mutant("paper/records/read.py", 'text.rfind("\\n") + 1', "len(text)", RECORDS),
    Mutant("paper/records/layout.py", 'len(iterations) != meta.get("evaluations")', "False", RECORDS),
    Mutant("paper/records/layout.py", "if end < budget:", "if end < 0:", RECORDS),
    Mutant(
        "paper/records/write.py", "self.earlier + time.monotonic()", "time.monotonic()", f"{RECORDS} paper/training"
    ),
    Mutant("paper/records/write.py", "content[:length]", "content", f"{RECORDS} paper/training"),
    Mutant(
        "paper/records/find.py", 'meta["status"] != "done"', 'meta["status"] == "running"', f"{RECORDS} paper/training"
    ),
    Mutant(
        "paper/records/lock.py", 'owner.get("host", socket.gethostname()) != socket.gethostname()', "False", RECORDS
    ),
    # loops that are not ours
    Mutant("loop/parts.py", "if self.is_listening:", "if True:", "loop/test_foreign_loops.py"),
    Mutant("loop/parts.py", "p.grad if before is None else p.grad - before", "p.grad", "loop/test_foreign_loops.py"),
    Mutant("loop/graph.py", " and not _is_of_one(node)", "", "loop/test_foreign_loops.py"),
    Mutant("loop/graph.py", "inner is out.grad_fn or ", "", "loop/test_foreign_loops.py"),
    Mutant("loop/flight.py", "if self.is_over:", "if False:", "loop/test_loader.py"),
    Mutant("sampling/base.py", " - self.m * len(self.tickets.held) - skipped", "", "loop/test_foreign_loops.py"),
]
