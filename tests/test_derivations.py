"""docs/derivations.md: its formulas by brute force, the tests that it names, and the tags that cite it.

The formulas are checked from their statement alone, in float64 and without the package's own fast code, so that a
mistake that proof and code share is seen here.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rais.sampling import reference

ROOT = Path(__file__).resolve().parents[1]
PAGE = "docs/derivations.md"
TEXT = (ROOT / PAGE).read_text(encoding="utf-8")
HEADINGS = re.findall(r"^## (.+)$", TEXT, flags=re.MULTILINE)


# --- the page and the code ---

TAG = re.compile(r"\[[^\[\]]*\bderived\b[^\[\]]*\]")
CITATION = re.compile(re.escape(PAGE) + r": ([^\]]+)\]$")


def tags() -> Iterator[tuple[str, str]]:
    """Place and text of every tag in src/ that says "derived", line breaks within it taken out."""
    for path in sorted([*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.md")]):
        text = path.read_text(encoding="utf-8")
        for match in TAG.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield f"{path.relative_to(ROOT)}:{line}", re.sub(r"\s+(# *)?", " ", match.group())


def test_every_derived_tag_cites_a_section_that_is_there() -> None:
    for place, tag in tags():
        cited = [name for names in CITATION.findall(tag) for name in names.split("; ")]
        assert cited, f"{place}: {tag} cites no section of {PAGE}"
        assert not (missing := [name for name in cited if name not in HEADINGS]), f"{place}: no {missing}"


def test_every_section_names_a_test_that_is_there() -> None:
    for section in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]:
        name = section.partition("\n")[0]
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", section)
        assert named, f"{PAGE}: the section {name!r} names no test"
        for path, test in named:
            functions = {
                node.name
                for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
                if isinstance(node, ast.FunctionDef)
            }
            assert test in functions, f"{PAGE}, {name!r}: {path} has no {test}"


# --- the floor of the extra visit ---


def visits(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All features (n, q), the constant first, and the visits' features, norms and weights: no surprise among them."""
    rng = np.random.default_rng(seed)
    S_all = np.column_stack([np.ones(60), rng.gamma(1.0, 1.0, (60, 2))])
    S = S_all[rng.integers(60, size=40)]
    v = S @ [0.02, 0.5, 0.1] * rng.uniform(0.99, 1.01, len(S))
    return S_all, S, v, rng.uniform(0.3, 2.0, len(S))


def with_the_extra_visit(S: np.ndarray, v: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.vstack([S, [1.0, 0.0, 0.0]]), np.append(v, v.max()), np.append(weight, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_the_extra_visit_bounds_every_robust_norm_from_below(seed: int) -> None:
    cp = pytest.importorskip("cvxpy")
    S_all, *made = visits(seed)

    def smallest(S: np.ndarray, v: np.ndarray, weight: np.ndarray) -> float:
        """The smallest robust norm that an example may get, that of features 0 but for the constant."""
        c, d = cp.Variable(3, nonneg=True), cp.Variable(3, nonneg=True)
        terms = [weight[j] / len(v) * cp.quad_over_lin(S[j] @ c - v[j], S[j] @ d) for j in range(len(v))]
        cp.Problem(cp.Minimize(S_all.mean(0) @ d), [sum(terms) <= 1]).solve(solver=cp.CLARABEL)
        return c.value[0] + (S_all.mean(0) @ d.value) ** -0.5 * d.value[0]

    S, v, weight = with_the_extra_visit(*made)
    floor = v.max() / len(v) ** 0.5
    assert smallest(S, v, weight) >= floor * (1 - 1e-4)
    assert smallest(*made) < floor  # the extra visit is what makes it so


@pytest.mark.parametrize("seed", range(10))
def test_one_update_of_d_has_the_floor_whatever_it_started_from(seed: int) -> None:
    S_all, *made = visits(seed)
    S, v, weight = with_the_extra_visit(*made)
    rng = np.random.default_rng(seed)
    c, d = rng.gamma(0.5, 0.1, 3), 10.0 ** rng.uniform(-6, 2, 3)
    G = [np.mean(weight * (S @ c - v) ** 2 * S[:, k] / (S @ d) ** 2) for k in range(3)]
    d = d * np.sqrt(G / S_all.mean(0))
    A, B = reference.pt_objective(S_all, d), reference.pt_constraint(S, v, weight, c, d)
    lowest = min(reference.robust_norms(np.vstack([S_all, [1.0, 0.0, 0.0]]), c, B * d))
    assert lowest >= v.max() / len(v) ** 0.5 * min(1.0, (B / A) ** 0.5) * (1 - 1e-12)


# --- φ from parts ---


def from_parts(gradients: list[np.ndarray], sizes: tuple[int, ...]) -> float:
    """(m²‖g‖² − Σ m_k²‖g_k‖²)/(m² − Σ m_k²) for the weighted gradients of a minibatch, in its order."""
    m, ends = sum(sizes), np.cumsum(sizes)
    parts = [np.mean(gradients[end - size : end], 0) for end, size in zip(ends, sizes, strict=True)]
    g = sum(size / m * part for size, part in zip(sizes, parts, strict=True))
    within = sum(size**2 * part @ part for size, part in zip(sizes, parts, strict=True))
    return (m**2 * g @ g - within) / (m**2 - sum(size**2 for size in sizes))


SIZES = [(1, 1), (2, 1), (1, 1, 1), (2, 2), (3, 1), (1, 2, 1)]


@pytest.mark.parametrize("sizes", SIZES)
def test_parts_of_any_sizes_are_unbiased_for_the_squared_mean_gradient(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    gradients, p = rng.normal(size=(4, 3)), rng.dirichlet(np.ones(4))
    expected = sum(
        np.prod(p[list(drawn)]) * from_parts([gradients[i] / (4 * p[i]) for i in drawn], sizes)
        for drawn in itertools.product(range(4), repeat=sum(sizes))
    )
    assert expected == pytest.approx(np.sum(gradients.mean(0) ** 2), rel=1e-12)


@pytest.mark.parametrize("sizes", SIZES)
def test_bias_of_parts_without_replacement(sizes: tuple[int, ...]) -> None:
    gradients = np.random.default_rng(1).normal(size=(5, 3))
    orders = list(itertools.permutations(range(5), sum(sizes)))
    expected = sum(from_parts([gradients[i] for i in drawn], sizes) for drawn in orders) / len(orders)
    of_the_mean = np.sum(gradients.mean(0) ** 2)
    bias = -(np.mean(np.sum(gradients**2, 1)) - of_the_mean) / (len(gradients) - 1)
    assert expected - of_the_mean == pytest.approx(bias, rel=1e-12)


# --- evenly spaced draws ---


def test_evenly_spaced_draws_come_in_proportion_to_v_and_more_evenly() -> None:
    rng = np.random.default_rng(0)
    v, span, repeats = np.array([0.2, 1.0, 5.0]), 400.0, 400
    due = rng.uniform(0, 1, (repeats, 3)) / v  # any start will do
    count = np.zeros((repeats, 3))
    while (alive := due < span).any():
        count += alive
        due += np.where(alive, rng.uniform(0.5, 1.5, due.shape) / v, 0.0)
    assert count.mean(0) == pytest.approx(v * span, rel=0.01)
    variance = v * span / 12
    # Five standard errors of a variance from so many repeats; the start and the last wait add less than one draw.
    assert count.var(0) == pytest.approx(variance, rel=5 * (2 / repeats) ** 0.5, abs=0.4)


def test_weight_times_frequency_is_one_where_each_draw_changes_v() -> None:
    rng = np.random.default_rng(1)
    time, total, v, draws = 0.0, 0.0, 1.0, 200_000
    for U in rng.uniform(0.5, 1.5, draws):
        time += U / v
        total += 1 / v  # mean(v) is the unit
        # The norm that is then observed depends on the wait that has just ended, and on the norm before.
        v = float(np.exp(0.5 * np.log(v) + rng.normal() + (U - 1)))
    assert total / time == pytest.approx(1, abs=0.01)
