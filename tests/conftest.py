"""Record folders made up for the tests that read them, in the layout that results/README.md documents."""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from rais.paper.data.location import DataUnavailable, root

HEADER = "iteration,examples,epoch,epochs_equivalent,seconds,metric,value\n"
N, BATCH = 1_000, 10
TARGET = math.exp(-4)  # nats, of every task unless a test says otherwise


def write_run(
    root: Path,
    arm: str,
    seed: int,
    examples: Sequence[int],
    metrics: Mapping[str, Sequence[float]],
    *,
    task: str = "digits",
    run_id: str | None = None,
    status: str = "done",
    core_share: float = 1.0,  # CPU seconds of the timed region / its wall-clock
    seconds_per_example: float = 0.01,
    epochs_equivalent: Sequence[float] | None = None,
    norms: Sequence[tuple[float, int, float, float]] = (),
    variant: str = "",
    examples_npz: Mapping[str, np.ndarray] | None = None,
    target_loss: float | None = TARGET,
    epochs: float = 10.0,
    **meta: object,
) -> Path:
    """One run folder under `root`, with `metrics` given at the evaluations after `examples` examples."""
    run_id = run_id or f"{arm}{seed}"
    folder = root / task / (f"{arm}@{variant}" if variant else arm) / f"seed{seed}-{run_id}"
    folder.mkdir(parents=True)
    seconds = [float(seconds_per_example * used) for used in examples]
    metrics = {**metrics, "cpu_seconds": [core_share * s for s in seconds]}
    lines = [HEADER]
    for k, used in enumerate(examples):
        equivalent = epochs_equivalent[k] if epochs_equivalent is not None else used / N
        x = f"{used // BATCH},{used},{used / N!r},{float(equivalent)!r},{seconds[k]!r}"
        lines += [f"{x},{metric},{float(values[k])!r}\n" for metric, values in metrics.items()]
    (folder / "record.csv").write_text("".join(lines), encoding="utf-8")
    if norms:
        rows = [f"{float(e)!r},{i},{float(a)!r},{float(b)!r}\n" for e, i, a, b in norms]
        (folder / "norms.csv").write_text("epoch,example,loss_layer,exact\n" + "".join(rows), encoding="utf-8")
    if examples_npz is not None:
        np.savez_compressed(folder / "examples.npz", **examples_npz)
    content = {
        "run_id": run_id,
        "task": task,
        "arm": arm,
        **({"variant": variant} if variant else {}),  # Records from before there were sweeps have no such key.
        "seed": seed,
        "status": status,
        "message": "",
        "config": {
            "batch_size": BATCH,
            "epochs": epochs,
            "target_loss": target_loss,
            "data": {"name": task, "n_train": None},
        },
        "n": N,
        "command": f"python scripts/train.py task={task} sampler={arm} seed={seed}",
        "commit": "0" * 40,
        "dirty": False,
        "versions": {"python": "3.12", "torch": "2.15"},
        "hardware": {"cpu": "Some CPU", "cores": 2, "threads": 1, "gpu": None},
        "started": "2026-01-01T00:00:00Z",
        "finished": None if status == "running" else "2026-01-01T00:01:00Z",
        "duration_seconds": None if status == "running" else 60.0,
        "evaluations": len(set(examples)),
        "record_sha256": hashlib.sha256((folder / "record.csv").read_bytes()).hexdigest(),
    }
    (folder / "meta.json").write_text(json.dumps({**content, **meta}), encoding="utf-8")
    return folder


@pytest.fixture
def run_writer(tmp_path: Path) -> Callable[..., Path]:
    """`write_run` into tmp_path/records."""

    def write(*args: object, **kwargs: object) -> Path:
        return write_run(tmp_path / "records", *args, **kwargs)

    return write


@pytest.fixture
def example_arrays() -> dict[str, np.ndarray]:
    """The arrays of a traced run, made up."""
    return made_up_examples(0)


def pytest_configure() -> None:
    """A RAIS_DATA that is no folder is told in one line, before any worker starts."""
    try:
        root()
    except DataUnavailable as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One worker makes `many_records`, instead of each; what a marker needs and is not here skips its tests."""
    needs = {
        "gpu": (torch.cuda.is_available(), "needs a CUDA device"),
        "mnist": ((root() / "MNIST" / "raw").is_dir(), "no MNIST in RAIS_DATA or ~/.cache/rais"),
    }
    for item in items:
        if "many_records" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("many_records"))
        for name, (is_here, reason) in needs.items():
            if item.get_closest_marker(name) and not is_here:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish() -> None:
    """What was imported by now lives to the end: no collection of garbage has to walk through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def many_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record root with runs for every figure: curves that look like real ones, drawn from a seeded generator."""
    root = tmp_path_factory.mktemp("made-up") / "records"
    write_many(root)
    return root


# By arm: the final gain ratio, and how fast and how far the loss falls per epoch equivalent.
SHAPES = {
    "uniform": (1.0, 1.0),
    "oracle": (9.0, 1.05),
    "smoothed_0": (6.0, 0.9),
    "smoothed_0.001": (5.0, 0.95),
    "smoothed_0.01": (4.2, 1.0),
    "smoothed_0.1": (3.3, 1.0),
    "smoothed_0.3": (2.3, 1.0),
    "rais": (5.5, 1.02),
    "rais_spaced": (5.5, 1.1),
    "rais_multiplier_off": (1.0, 1.35),
    "uniform_rais_multiplier": (5.5, 0.82),
    "uniform_with_replacement": (1.0, 0.9),
}


# The runs of sweeps, with their shapes; labels as README and results/README.md have them.
VARIANTS = {
    ("mnist", "rais", "visits_2000"): (4.5, 1.0),
    ("mnist", "rais", "visits_200000"): (5.2, 1.0),
    ("mnist", "rais", "alpha_0.01"): (5.6, 1.02),
    ("mnist", "rais", "alpha_0.03"): (6.0, 0.9),
    ("mnist", "rais", "features_last"): (3.0, 1.02),
    ("mnist", "rais", "features_means"): (4.0, 1.02),
    ("mnist", "rais", "batch_size_64"): (4.0, 1.02),
    ("mnist", "uniform", "batch_size_64"): (1.0, 0.8),
    ("mnist", "rais", "traced"): (5.5, 1.02),
    ("digits", "rais", "with_augmentation"): (2.0, 0.8),
    ("digits", "rais", "with_batch_norm"): (4.0, 1.2),
    ("digits", "rais", "with_dropout"): (1.6, 0.7),
    ("digits", "rais", "with_momentum"): (4.5, 1.0),
    ("digits_hot", "rais", "unprotected"): (5.0, 1.0),
    ("digits_hot", "rais", "protected"): (4.0, 1.0),
    ("digits", "rais", "without_extra_visit"): (5.0, 0.8),
    ("digits", "rais", "without_fast_average"): (5.0, 0.9),
    ("mnist", "rais", "without_extra_visit"): (5.0, 0.9),
    ("mnist", "rais", "headroom"): (5.5, 1.02),
    ("digits", "rais", "headroom"): (2.0, 1.0),
}


def write_many(root: Path) -> None:
    """Two seeds of all arms on mnist, of five on digits, of three on mnist_6000, of diagnostic runs and of sweeps."""
    grid = [("mnist", arm) for arm in SHAPES if arm != "oracle"]
    grid += [("mnist_6000", arm) for arm in ("uniform", "oracle", "rais")]
    grid += [("digits", arm) for arm in ("uniform", "rais", "rais_spaced", "rais_multiplier_off", "smoothed_0.1")]
    for task, arm in grid:
        for seed in range(2):
            _made_up_run(root, task, arm, seed, diagnostic=False)
    for arm in ("uniform", "rais"):
        for seed in range(2):
            _made_up_run(root, "mnist_diagnostics", arm, seed, diagnostic=True)
    for (task, arm, variant), shape in VARIANTS.items():
        for seed in range(2):
            _made_up_run(root, task, arm, seed, diagnostic=False, variant=variant, shape=shape)


@pytest.fixture(scope="session")
def many_pilots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record root with pilots of two tasks: five at the task's learning rate, three at half and at twice that."""
    root = tmp_path_factory.mktemp("made-up-pilots") / "pilots"
    for task in ("digits", "mnist"):
        for variant, speed in (("", 1.0), ("lr_half", 0.8), ("lr_twice", 0.9)):
            for seed in range(100, 103 if variant else 105):
                shape = (1.0, speed)
                _made_up_run(root, task, "uniform", seed, diagnostic=False, variant=variant, shape=shape)
    return root


def made_up_examples(seed: int, n: int = N, k: int = 24) -> dict[str, np.ndarray]:
    """The arrays of an examples.npz: draws that fall off geometrically, images of noise and of rings."""
    random = np.random.default_rng(seed)
    drawn = random.poisson(30 * np.exp(-np.arange(n) / 200))[random.permutation(n)].astype(np.int32)
    order = np.argsort(drawn, kind="stable")
    y, x = np.mgrid[-14:14, -14:14]
    images = [np.clip(200 * np.exp(-((np.hypot(x, y) - i / 4) ** 2) / 9), 0, 255) for i in range(2 * k)]
    spread = np.linspace(0.5, 2, 9)[:, None]
    return {
        "drawn": drawn,
        "labels": (np.arange(n) % 10).astype(np.int32),
        "epoch": np.linspace(0, 4, 9).astype(np.float32),
        "norms": np.exp(random.normal(-2 * spread, spread, (9, 200))).clip(1e-6, 1.41).astype(np.float32),
        "index": np.concatenate([order[:k], order[::-1][:k]]).astype(np.int32),
        "images": np.stack(images)[:, None].astype(np.uint8),
    }


def _made_up_run(
    root: Path,
    task: str,
    arm: str,
    seed: int,
    *,
    diagnostic: bool,
    variant: str = "",
    shape: tuple[float, float] | None = None,
) -> None:
    random = np.random.default_rng([seed, len(arm), list(SHAPES).index(arm), int(diagnostic), *variant.encode()])
    gain, speed = shape or SHAPES[arm]
    examples = np.arange(0, 10 * N + 1, N // 4)
    # All arms but one start with an epoch like uniform's, then gain more and more.
    ratio = 1 + (gain - 1) * (1 - np.exp(-np.maximum(examples / N - 1, 0) / 1.5))
    equivalent = np.concatenate([[0], np.cumsum(ratio[:-1] / 4)])
    multiplied = equivalent if arm != "rais_multiplier_off" else examples / N
    end = int(np.searchsorted(multiplied, 10.0)) + 1 if multiplied[-1] >= 10 else len(examples)
    examples, ratio, multiplied = examples[:end], ratio[:end], multiplied[:end]
    noise = np.exp(random.normal(0, 0.05, end)) * np.exp(random.normal(0, 0.05))
    loss = 2.2 * (1 + 25 * speed * multiplied) ** (-0.95) * noise
    error = 0.0085 + 0.88 * (1 + 40 * speed * multiplied) ** (-0.98) * noise
    status = "done"
    if (arm == "smoothed_0" or variant == "unprotected") and seed > 0:
        end, status = 16, "diverged"
        loss, error = loss.copy(), error.copy()
        loss[14:16] *= [6, 300]
        error[14:16] = [0.4, 0.9]
        examples, ratio, multiplied, loss, error = (a[:end] for a in (examples, ratio, multiplied, loss, error))
    phi = 0.95 - 0.35 * np.exp(-multiplied / 4)
    metrics = {
        "train_loss": loss,
        "test_loss": loss * 1.3,
        "test_error": error,
        "gain_ratio": ratio,
        "rho": 1 + (ratio - 1) / phi,
        "phi": phi,
        "sampler_seconds": 0.001 * examples,
        "phase_forward": 0.004 * examples,
        "phase_backward": 0.006 * examples,
        "phase_step": 0.001 * examples,
        "phase_data": 0.0005 * examples,
        "phase_norms": 0.0003 * examples,
        "phase_sampler": 0.0006 * examples,
        "phase_gain": 0.0001 * examples,
    }
    if arm == "rais":
        learned = np.where(examples > 1.3 * N, 1.0, np.nan)
        metrics["set_center"] = 0.3 * np.exp(-multiplied / 4) * learned
        metrics["set_radius"] = 0.1 * gain**-0.5 * np.exp(-multiplied / 6) * learned
    metrics["largest_weight"] = np.where(examples > 1.3 * N, 1 + 4 * gain / (1 + multiplied), 1.0)
    if variant == "headroom":
        for name, share in (("oracle_rho", 2.5), ("hindsight_rho", 1.4), ("true_rho", 1.1), ("rho_slow", 1.05)):
            metrics[name] = metrics["rho"] ** share
    if task == "digits_hot":
        acted = float(variant == "protected")
        metrics["outlier_share"] = 0.01 * acted * np.exp(-multiplied / 5)
        metrics["outlier_bias"] = 0.002 * acted * np.exp(-multiplied / 5)
    norms = []
    if diagnostic:
        metrics["true_phi"] = phi
        metrics["true_gain_ratio"] = ratio
        metrics["true_rho"] = metrics["rho"]
        for name, bias, spread in (("half_batch", 0.0, 0.01), ("exact", -0.01, 0.02), ("consecutive", 0.07, 0.01)):
            metrics[f"phi_{name}"] = np.clip(phi + bias + random.normal(0, spread, len(phi)), 0, 1)
            metrics[f"phi_{name}"][0] = np.nan
        for used in (0, 500, 1000, 2000):
            layer = np.clip(np.exp(random.normal(-1 - used / 500, 0.3 + used / 900, 150)), 1e-6, 1.41)
            exact = 8 * layer * np.exp(random.normal(0, 0.15, 150))
            norms += [(used / N, i, a, b) for i, (a, b) in enumerate(zip(layer, exact, strict=True))]
    write_run(
        root,
        arm,
        seed,
        examples.tolist(),
        metrics,
        task=task,
        run_id=f"{arm}{seed}{'d' * diagnostic}",
        variant=variant,
        examples_npz=made_up_examples(seed) if variant == "traced" else None,
        status=status,
        seconds_per_example=0.01 if arm == "uniform" else 0.0105,
        epochs_equivalent=multiplied.tolist(),
        norms=norms,
    )
