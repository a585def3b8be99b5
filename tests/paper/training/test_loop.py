"""The loop: against plain SGD to the last bit, deterministic, and ending well however it ends."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import toy
from rais import gain, rng
from rais.gain.pace import InverseSqrt
from rais.paper.data import Dataset
from rais.paper.records.write import Record
from rais.paper.settings import (
    GainConfig,
    OracleConfig,
    RAISConfig,
    SmoothedConfig,
    UniformConfig,
)
from rais.paper.training.build import Parts, build, device_of
from rais.paper.training.loop import Loop, train
from rais.sampling import RAIS, Draw, Uniform
from toy import N, toy_data

M = 16


def settings(runs: Path, sampler=None, mode: str | None = None, record: str | None = None, **changes):
    sampler = sampler or RAISConfig(visits=64, refresh=2)
    phi = GainConfig(mode=mode or sampler.multiplier, phi="half_batch", alpha=0.05, every=2, record=record)
    return toy.settings(runs, sampler=sampler, gain=phi, batch_size=M, epochs=4, evaluations=4, **changes)


def run(cfg, parts: Parts | None = None) -> tuple[str, Loop]:
    dataset = toy_data()
    parts = parts or build(cfg, dataset)
    written = Record(cfg, n=N, device=parts.device)
    loop = Loop(parts, written, epochs=cfg.epochs, evaluations=cfg.evaluations, diagnoses=cfg.diagnose)
    return train(loop), loop


def rows(loop: Loop, metric: str) -> list[dict[str, str]]:
    with (loop.record.folder / "record.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["metric"] == metric]


def plain_sgd(
    model: nn.Module, data: Dataset, indices: list[torch.Tensor], schedule: InverseSqrt, decay: float
) -> None:
    """SGD as a textbook has it: no weights, no multiplier, torch's own optimizer."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, weight_decay=decay, fused=True)
    for t, index in enumerate(indices):
        x, y = data.train.batch(index)
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.param_groups[0]["lr"] = torch.tensor(schedule(torch.tensor(float(t), dtype=torch.float64)).item())
        optimizer.step()


def equal_parameters(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


class SharedOrder(RAIS):
    """RAIS that draws by the uniform rule also after it has learned: its own weights, uniform's indices."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.order = self.uniform

    def draw(self) -> Draw:
        index = self.order.next()
        return self._hand_out(index, self.weight(index).to(torch.float32))


def test_rais_with_constant_features_and_the_uniform_draw_rule_is_sgd_to_the_last_bit(tmp_path: Path) -> None:
    cfg = settings(tmp_path, RAISConfig(visits=64, refresh=2, features=["constant"]), weight_decay=1e-3)
    data = toy_data()
    parts = build(cfg, data)
    parts.sampler = SharedOrder(N, M, visits=64, features=("constant",), generator=rng.generator(cfg.seed, "sampling"))
    status, loop = run(cfg, parts)
    assert status == "done" and loop.iteration == 4 * N // M
    assert parts.sampler.has_learned and loop.t_hat.item() == loop.iteration

    order = Uniform(N, M, generator=rng.generator(cfg.seed, "sampling"))
    indices = [order.draw().index for _ in range(loop.iteration)]
    sgd = build(cfg, data).model
    assert not equal_parameters(sgd, parts.model)
    plain_sgd(sgd, data, indices, InverseSqrt(3.4, 100), decay=1e-3)
    assert equal_parameters(sgd, parts.model)


SAMPLERS = [UniformConfig(), SmoothedConfig(delta=0.1), RAISConfig(visits=64, refresh=2), OracleConfig()]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: s.name)
def test_every_method_trains_and_ends_at_its_budget(sampler, tmp_path: Path) -> None:
    status, loop = run(settings(tmp_path, sampler))
    assert status == "done"
    assert 4 * N / M <= loop.t_hat.item() < 4 * N / M + loop.ratio.item()
    losses = [float(row["value"]) for row in rows(loop, "train_loss")]
    assert losses[-1] < 0.6 * losses[0]
    last = rows(loop, "train_loss")[-1]
    assert int(last["examples"]) == loop.iteration * M
    assert float(last["epochs_equivalent"]) == pytest.approx(loop.t_hat.item() * M / N)
    points = [float(row["epochs_equivalent"]) for row in rows(loop, "train_loss")]
    assert len(points) == 5 and all(0 <= t_hat - k < 4 * M / N for k, t_hat in enumerate(points))
    sampler_seconds = float(rows(loop, "sampler_seconds")[-1]["value"])
    assert 0 < sampler_seconds < float(last["seconds"])


def test_same_seed_same_record_and_another_seed_another(tmp_path: Path) -> None:
    def numbers(seed: int, where: str) -> list[tuple]:
        _, loop = run(settings(tmp_path / where, seed=seed))
        with (loop.record.folder / "record.csv").open(newline="") as file:
            return [
                (row["iteration"], row["epochs_equivalent"], row["metric"], row["value"])
                for row in csv.DictReader(file)
                if not row["metric"].startswith("phase_") and not row["metric"].endswith("_seconds")
            ]

    first = numbers(0, "a")
    assert first == numbers(0, "b")
    assert first != numbers(1, "a")


def test_methods_share_their_initialisation_and_first_epoch(tmp_path: Path) -> None:
    first = {}
    for sampler in SAMPLERS[:3]:
        _, loop = run(settings(tmp_path, sampler))
        first[sampler.name] = [row["value"] for row in rows(loop, "train_loss")[:2]]
    assert first["uniform"] == first["smoothed"] == first["rais"]


def test_divergence_is_a_result(tmp_path: Path) -> None:
    for sampler in (UniformConfig(), RAISConfig(visits=64, refresh=2)):
        cfg = settings(tmp_path, sampler)
        cfg.schedule.scale = 1e8
        status, loop = run(cfg)
        assert status == "diverged"
        meta = json.loads((loop.record.folder / "meta.json").read_text())
        assert meta["status"] == "diverged" and meta["message"]


def test_interruption_and_failure_leave_valid_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    within_a_compiled_loop = SystemError("CPUDispatcher returned a result with an exception set")
    within_a_compiled_loop.__cause__ = KeyboardInterrupt()
    cases = (
        (KeyboardInterrupt(), KeyboardInterrupt, "interrupted"),
        (within_a_compiled_loop, KeyboardInterrupt, "interrupted"),
        (RuntimeError("out of memory"), RuntimeError, "failed"),
        (SystemError("another"), SystemError, "failed"),
    )
    for seed, (error, raised, status) in enumerate(cases):
        cfg = settings(tmp_path, seed=seed)
        parts = build(cfg, toy_data())
        observe, calls = parts.sampler.observe, []

        def stop(draw, norm, observe=observe, calls=calls, error=error) -> None:
            calls.append(1)
            if len(calls) == 40:
                raise error
            observe(draw, norm)

        monkeypatch.setattr(parts.sampler, "observe", stop)
        written = Record(cfg, n=N, device=parts.device)
        loop = Loop(parts, written, epochs=cfg.epochs, evaluations=cfg.evaluations)
        with pytest.raises(raised):
            train(loop)
        assert json.loads((written.folder / "meta.json").read_text())["status"] == status
        assert len(rows(loop, "train_loss")) == 3


def test_a_ratio_below_one_ends_at_twice_the_budget(tmp_path: Path) -> None:
    cfg = settings(tmp_path, UniformConfig())
    parts = build(cfg, toy_data())
    parts.gain = gain.Replay([1], [0.25])
    status, loop = run(cfg, parts)
    assert status == "done" and loop.iteration == 8 * N // M
    assert "twice" in loop.record.meta["message"]


def test_replay_repeats_the_effective_iterations_of_its_source(tmp_path: Path) -> None:
    from rais.paper.records.find import find_replayed

    _, source = run(settings(tmp_path))
    cfg = settings(tmp_path, UniformConfig(), mode="replay", record=str(tmp_path / "toy" / "rais" / "seed3-*"))
    _, replay = run(cfg, build(cfg, toy_data(), find_replayed(cfg)))
    assert replay.iteration == source.iteration
    assert replay.t_hat.item() == pytest.approx(source.t_hat.item(), rel=1e-12)
    assert source.t_hat.item() > 1.02 * source.iteration, "the source had no gain to replay"


def test_a_diagnostic_run_is_the_same_run_with_the_truth_beside_it(tmp_path: Path) -> None:
    _, plain = run(settings(tmp_path / "plain"))
    _, diagnosed = run(settings(tmp_path / "diagnosed", diagnose=True))
    # A diagnosed run measures φ beside the step, another works off two halves: the same but for rounding.
    losses = [[float(r["value"]) for r in rows(loop, "train_loss")] for loop in (plain, diagnosed)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for name in ("half_batch", "exact", "consecutive"):
        assert all(0 < float(row["value"]) <= 1 for row in rows(diagnosed, f"phi_{name}"))
    for row in rows(diagnosed, "true_gain_ratio"):
        assert math.isfinite(float(row["value"]))
    norms = (diagnosed.record.folder / "norms.csv").read_text().splitlines()
    assert norms[0] == "epoch,example,loss_layer,exact" and len(norms) == 1 + N * len(rows(plain, "train_loss"))


def test_cuda_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device=cuda, but torch sees no GPU"):
        device_of(settings(tmp_path, device="cuda"))
    assert device_of(settings(tmp_path, device="auto")).type == "cpu"
