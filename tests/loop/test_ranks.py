"""Two gloo ranks on CPUs against one process, and what happens where ranks are set up wrongly or die."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import ddp_run
import loops
import rais


def one_process(mode: str) -> dict:
    """The same run in one process that accumulates the parts of both ranks."""
    pieces = 2 if mode.endswith("pieces") else 1
    data, model = loops.data(ddp_run.N), loops.network()
    optimizer = torch.optim.SGD(model.parameters(), lr=ddp_run.LR, momentum=0.5)
    engine = rais.Engine(optimizer, ddp_run.sampler(), phi_every=8)
    drawn, ratios = [], []
    for _ in range(ddp_run.STEPS[mode]):
        draw = engine.draw()
        for rank in range(2):
            for k in range(pieces):
                own = draw.part(rank, 2)
                ddp_run.micro_batch(engine, model, own if pieces == 1 else own.part(k, pieces), data)
        engine.step()
        drawn.append(draw.index)
        ratios.append(engine.ratio)
    parameters = torch.cat([p.detach().flatten() for p in model.parameters()])
    return {"drawn": torch.stack(drawn), "ratios": torch.stack(ratios), "parameters": parameters}


@pytest.mark.parametrize(
    "mode", ["train", "pieces", "framework", "framework_pieces", pytest.param("long_pieces", marks=pytest.mark.slow)]
)
def test_two_ranks_are_one_process_that_accumulates_two_parts(mode: str, tmp_path: Path) -> None:
    """Float64: 500 steps with parts of 8 and 7 examples; with 4, 4, 4 and 3, 150 and, slowly, 500."""
    expected = one_process(mode)
    for status, error in ddp_run.launch(mode, tmp_path):
        assert status == 0, error
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["ratios"].max() > 1.05
    for rank in (first, second):
        assert torch.equal(rank["drawn"], expected["drawn"])
        torch.testing.assert_close(rank["parameters"], expected["parameters"], rtol=0, atol=1e-9)
    assert torch.equal(first["ratios"], second["ratios"])
    assert torch.equal(first["parameters"], second["parameters"])
    assert set(first["state"]) == set(second["state"])
    for name, value in first["state"].items():
        same = torch.equal(value, second["state"][name]) if isinstance(value, torch.Tensor) else None
        assert same or value == second["state"][name], name


def test_each_rank_loads_its_own_part(tmp_path: Path) -> None:
    for status, error in ddp_run.launch("load", tmp_path):
        assert status == 0, error
    parts = [torch.load(tmp_path / f"{rank}.pt", weights_only=True)["index"] for rank in range(2)]
    reference = ddp_run.sampler()
    for first, second in zip(*parts, strict=True):
        assert torch.equal(first[0], first[1]) and torch.equal(second[0], second[1])
        assert torch.equal(torch.cat([first[0], second[0]]), reference.draw().index)


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("seeds", "RuntimeError: the ranks differ in the draw"),
        ("bare", "RuntimeError: the ranks differ in the gradient"),
        ("by_hand", "RuntimeError: the gradients of the ranks differ as the backward ends: train the model through"),
        ("no_group", "ValueError: torch.distributed runs 2 ranks and no group is named"),
        ("outliers", "ValueError: outliers on several ranks"),
        ("fsdp", "ValueError: FSDP (FullyShardedDataParallel, fully_shard) is not supported"),
    ],
)
def test_ranks_that_would_train_wrongly_end_with_one_line(mode: str, message: str, tmp_path: Path) -> None:
    for status, error in ddp_run.launch(mode, tmp_path):
        assert status == 1 and error.startswith(message) and "\n" not in error


def test_a_rank_that_dies_ends_the_others_with_one_line(tmp_path: Path) -> None:
    (status, error), (dead, _) = ddp_run.launch("dies", tmp_path)
    assert dead == 3 and status == 1
    assert error.startswith("RuntimeError: a rank of the group does not answer any more") and "\n" not in error
