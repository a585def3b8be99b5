"""Augmentation, batch normalisation, dropout, momentum and the outlier cap, all in one run, with every sampler."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

import toy
from rais.paper.data.arrays import Description
from rais.paper.records.write import Record
from rais.paper.training import build
from rais.paper.training.loop import Loop, train
from tricks import LOW, SAMPLERS, TRICKS


def run(folder: Path, **changes) -> tuple[Loop, pd.DataFrame]:
    """A finished run of the toy problem, and its record without the clocks."""
    cfg = toy.settings(folder, **{"schedule": LOW, **changes})
    parts = build.build(cfg, toy.toy_data())
    loop = Loop(
        parts,
        Record(cfg, n=toy.N, device=parts.device),
        epochs=cfg.epochs,
        evaluations=cfg.evaluations,
        diagnoses=cfg.diagnose,
    )
    assert train(loop) == "done"
    table = pd.read_csv(loop.record.folder / "record.csv")
    timed = table["metric"].str.endswith("seconds") | table["metric"].str.startswith("phase_")
    return loop, table[~timed].drop(columns="seconds")


@pytest.mark.parametrize("sampler", SAMPLERS.values(), ids=SAMPLERS.keys())
def test_every_sampler_trains_with_all_tricks_and_the_same_seed_gives_the_same_record(tmp_path, sampler) -> None:
    one, first = run(tmp_path / "one", sampler=sampler, **TRICKS)
    _, second = run(tmp_path / "two", sampler=sampler, **TRICKS)
    pd.testing.assert_frame_equal(first, second)
    losses = first[first["metric"] == "train_loss"]["value"]
    assert losses.iloc[-1] < 0.9 * losses.iloc[0]
    assert {"outlier_share", "outlier_bias"} <= set(first["metric"])
    assert one.parts.model.training, "an evaluation left the model in its mode"


def test_crops_are_a_feature_of_rais(tmp_path: Path) -> None:
    loop, _ = run(tmp_path, **TRICKS)
    sampler = loop.parts.sampler
    assert sampler.has_learned and sampler.features.q == 13
    rows, _, _ = sampler.recent.contents()
    sizes = set(loop.parts.augment.sizes.tolist())
    assert len(sizes) > 3 and {round(x, 4) for x in rows[:, -1].tolist()} <= {round(x, 4) for x in sizes}


def test_tricks_do_not_touch_the_draws_of_uniform_sampling(tmp_path: Path) -> None:
    seen = []
    for name, changes in (("plain", {}), ("tricks", TRICKS)):
        parts = build.build(toy.settings(tmp_path / name, sampler=SAMPLERS["uniform"], **changes), toy.toy_data())
        seen.append(torch.cat([parts.sampler.draw().index for _ in range(30)]))
        parts.augment(parts.data.train.batch(seen[-1][:32])[0], None)
    assert torch.equal(*seen)


def test_a_diagnostic_run_with_batch_normalisation_leaves_the_exact_scale_out(tmp_path: Path) -> None:
    _, record = run(tmp_path, model=TRICKS["model"], diagnose=True, epochs=1.6)
    metrics = set(record["metric"])
    assert {"true_phi", "phi_half_batch", "phi_consecutive"} <= metrics and "phi_exact" not in metrics


def test_the_exact_scale_is_refused_at_the_start_with_batch_normalisation(tmp_path: Path) -> None:
    cfg = toy.settings(tmp_path, model=TRICKS["model"])
    cfg.gain.phi = "exact"
    known = Description(n_train=100, n_test=20, channels=1, size=28, classes=10)
    with pytest.raises(ValueError, match=r"gain\.phi=exact .* half_batch or consecutive"):
        cfg.check_against(known)


def test_the_gain_ratio_is_that_of_the_limited_estimate_and_samplers_learn_from_the_unlimited_one(tmp_path) -> None:
    parts = build.build(toy.settings(tmp_path, **{**TRICKS, "outliers": 1.5, "schedule": LOW}), toy.toy_data())
    limited, gained, observed = [], [], []
    cap, update, observe = parts.outliers, parts.gain.update, parts.sampler.observe
    parts.outliers = lambda weight, norm, unit: limited.append(cap(weight, norm, unit)) or limited[-1]
    parts.gain.update = lambda batch: gained.append(batch.draw.weight) or update(batch)
    parts.sampler.observe = lambda draw, norm: observed.append(draw.weight) or observe(draw, norm)
    loop = Loop(parts, None, epochs=2, evaluations=4)
    for _ in range(15):
        loop.step()
    assert all(torch.equal(a, b) for a, b in zip(limited, gained, strict=True))
    assert any((a < b).any() for a, b in zip(limited, observed, strict=True))
