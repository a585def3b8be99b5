"""What figure 5 is drawn from: counts of the draws with importance, and the images drawn least and most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

import toy
from rais.gradnorm import softmax_cross_entropy_norm
from rais.paper import settings as config
from rais.paper.records.write import Record
from rais.paper.training import build
from rais.paper.training.loop import Loop, train
from rais.paper.training.trace import SHOWN, Trace, loss_layer_norms


def traced(tmp_path: Path, **changes) -> tuple[Loop, list]:
    """A finished run, and every draw it made."""
    cfg = toy.settings(tmp_path, trace=True, **changes)
    parts = build.build(cfg, toy.toy_data())
    draws, draw = [], parts.sampler.draw
    parts.sampler.draw = lambda: draws.append(draw()) or draws[-1]
    loop = Loop(
        parts,
        Record(cfg, n=toy.N, device=parts.device),
        epochs=cfg.epochs,
        evaluations=cfg.evaluations,
        trace=Trace(parts),
    )
    train(loop)
    return loop, draws


def test_draws_with_importance_are_counted_and_shown(tmp_path: Path) -> None:
    loop, draws = traced(tmp_path)
    expected = np.zeros(toy.N, dtype=int)
    for draw in draws:
        for i, weight in zip(draw.index.tolist(), draw.weight.tolist(), strict=True):
            expected[i] += weight != 1
    assert 0 < expected.sum() < 32 * len(draws), "the run needs a uniform phase and a learned one"
    with np.load(loop.record.folder / "examples.npz") as kept:
        np.testing.assert_array_equal(kept["drawn"], expected)
        np.testing.assert_array_equal(kept["labels"], loop.parts.data.train.labels.numpy())
        counts = expected[kept["index"]]
        assert len(set(kept["index"].tolist())) == 2 * SHOWN
        assert (np.diff(counts[:SHOWN]) >= 0).all() and (np.diff(counts[SHOWN:]) <= 0).all()
        assert counts[SHOWN - 1] == np.sort(expected)[SHOWN - 1] and counts[-1] == np.sort(expected)[-SHOWN]
        np.testing.assert_array_equal(kept["images"], loop.parts.data.train.images[kept["index"]].numpy())
        assert len(kept["epoch"]) == len(kept["norms"]) > 2


def test_a_uniform_run_counts_nothing(tmp_path: Path) -> None:
    uniform = config.UniformConfig()
    loop, _ = traced(tmp_path, sampler=uniform, gain=config.GainConfig("off", "half_batch", 0.01, 16), epochs=1)
    assert loop.trace.drawn.sum() == 0


def test_norms_are_those_of_the_model_as_it_is_evaluated_and_leave_it_in_its_mode(tmp_path: Path) -> None:
    parts = build.build(toy.settings(tmp_path), toy.toy_data())
    parts.model.fc1 = torch.nn.Sequential(parts.model.fc1, torch.nn.Dropout(0.5))
    parts.model.train()
    index = torch.tensor([3, 200, 7])
    norms = loss_layer_norms(parts, index)
    assert parts.model.training
    parts.model.eval()
    x, y = parts.data.train.batch(index)
    torch.testing.assert_close(norms, softmax_cross_entropy_norm(parts.model(x), y))
