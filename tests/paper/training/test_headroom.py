"""Where the possible gain is lost: the ratios against loops in float64, the best set against an exact solve, and that
nothing of it touches the run."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

import toy
from rais.paper.records.write import Record
from rais.paper.training import build
from rais.paper.training.diagnose import headroom, hindsight_norms, rho
from rais.paper.training.loop import Loop, train
from rais.sampling import RAIS, reference


def finished(tmp_path: Path, *, measured: bool, **changes) -> Loop:
    cfg = toy.settings(tmp_path / str(measured), **changes)
    parts = build.build(cfg, toy.toy_data())
    record = Record(cfg, n=toy.N, device=parts.device)
    loop = Loop(parts, record, epochs=cfg.epochs, evaluations=cfg.evaluations, measures_headroom=measured)
    train(loop)
    return loop


def curves(loop: Loop) -> pd.DataFrame:
    table = pd.read_csv(loop.record.folder / "record.csv")
    return table.pivot(index="iteration", columns="metric", values="value")


def test_rho_is_the_ratio_of_second_moments_of_the_reference():
    v, p = [0.5, 0.0, 2.0, 1.0], [0.25, 0.05, 0.4, 0.3]
    found = rho(torch.tensor(v, dtype=torch.float64), 1 / (4 * torch.tensor(p, dtype=torch.float64)))
    assert found.item() == pytest.approx(reference.cost([0.25] * 4, v) / reference.cost(p, v))
    assert rho(torch.zeros(3), torch.ones(3)).item() == 1


def test_a_run_records_the_stages_and_is_otherwise_the_run_it_would_have_been(tmp_path: Path):
    with_it, without = (finished(tmp_path, measured=measured) for measured in (True, False))
    table, plain = curves(with_it), curves(without)
    clocks = [name for name in plain if "seconds" in name or name.startswith("phase_")]
    pd.testing.assert_frame_equal(table[plain.columns].drop(columns=clocks), plain.drop(columns=clocks))
    assert (table["oracle_rho"] >= table[["hindsight_rho", "true_rho"]].max(axis=1) * (1 - 1e-9)).all()
    assert table["true_rho"].iloc[0] == pytest.approx(1), "the first draws are uniform"
    assert table["hindsight_rho"].iloc[0] == pytest.approx(1), "there is no past yet"
    assert table["true_rho"].iloc[-1] > 1 and table["hindsight_rho"].iloc[-1] > 1


def test_the_ratios_at_the_end_of_a_run_are_those_of_loops(tmp_path: Path):
    loop = finished(tmp_path, measured=True)
    p, sampler = loop.parts, loop.parts.sampler
    p.model.eval()
    with torch.no_grad():
        x, y = p.data.train.batch(torch.arange(toy.N))
        error = torch.softmax(p.model(x).double(), 1)
        error[torch.arange(toy.N), y] -= 1
    v = error.norm(dim=1).tolist()
    uniform = [1 / toy.N] * toy.N
    found = headroom(p)
    oracle = reference.cost(uniform, v) / reference.cost(reference.proportional(v), v)
    in_use = reference.cost(uniform, v) / reference.cost(sampler.probabilities().tolist(), v)
    assert found["oracle_rho"] == pytest.approx(oracle, rel=1e-4)
    assert found["true_rho"] == pytest.approx(in_use, rel=1e-4)


def test_the_set_of_hindsight_is_the_best_one_for_the_pairs_of_the_moment():
    # Whatever was seen: the best set predicts the last norms, which are the norms of the moment here.
    g = torch.Generator().manual_seed(2)
    sampler = RAIS(400, 20, seed=0, visits=100)
    norms = torch.rand(400, generator=g).pow(3) + 0.01
    for _ in range(20):
        draw = sampler.draw()
        sampler.observe(draw, norms[draw.index])
    v = norms.double()
    oracle = (v.square().mean() / v.mean() ** 2).item()
    found = hindsight_norms(sampler, v)
    assert rho(v, found.mean() / found).item() == pytest.approx(oracle, rel=0.1)
    # Norms that have nothing to do with the past leave nothing to know, and hindsight says so.
    unrelated = torch.rand(400, generator=g).pow(3).double() + 0.01
    blind = hindsight_norms(sampler, unrelated)
    assert rho(unrelated, blind.mean() / blind).item() < 1.1 < rho(unrelated, unrelated.mean() / unrelated).item()


def test_norms_that_are_not_finite_are_no_failure(tmp_path: Path):
    parts = build.build(toy.settings(tmp_path), toy.toy_data())
    with torch.no_grad():
        next(parts.model.parameters()).fill_(math.nan)
    assert headroom(parts) == {}
