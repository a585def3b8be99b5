"""On a GPU: a training step of RAIS against one of uniform SGD, and the oracle's measurement of all of MNIST.

Times are wall-clock and end when the device has done its work. Images are random.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benches import oracle
from benches.step import TARGET, random_images, training_step
from benches.timing import Row, in_turns
from rais import rng
from rais.paper import models

CASES = {  # task: (overrides, training examples, shape of an image, steps of a block, rounds)
    "cifar10": ([], 50_000, (3, 32, 32), 40, 9),
    "cifar10_resnet8": ([], 50_000, (3, 32, 32), 40, 9),
    "mnist": ([], 60_000, (1, 28, 28), 125, 9),
    "mnist, m = 128": (["batch_size=128"], 60_000, (1, 28, 28), 47, 9),
}
CHUNK = 10_000  # examples that the oracle measures at once


def rows(quick: bool) -> Iterator[Row]:
    """The step of each task, then the norms of MNIST's number of images with LeNet-5."""
    for case in ("mnist",) if quick else CASES:
        overrides, n, shape, block, rounds = CASES[case]
        dataset = random_images(n, shape, device="cuda")
        steps = {
            sampler: _block(training_step(case.split(",")[0], [f"sampler={sampler}", *overrides], dataset), block)
            for sampler in ("rais", "uniform")
        }
        seconds = {name: each / block for name, each in in_turns(steps, rounds=rounds, warm_up=3).items()}
        yield Row("step", f"GPU, {case}", seconds["rais"], "uniform", seconds["uniform"], TARGET)
    n = 10_000 if quick else 60_000
    g = rng.generator(0, "evaluation")
    x, y = torch.rand(n, 1, 28, 28, generator=g).cuda(), torch.randint(10, (n,), generator=g).cuda()
    model = models.build(name="lenet5", channels=1, classes=10, size=28, seed=0).cuda()
    contenders = {
        "ours": _block(oracle.norms(model, x, y, CHUNK), 1),
        "floor": _block(oracle.passes(model, x, y, CHUNK), 1),
    }
    seconds = in_turns(contenders, rounds=9, warm_up=3)
    yield Row("oracle", f"GPU, lenet5, n = {n}", seconds["ours"], "forward + backward of all", seconds["floor"], 1.3)


def _block(function: Callable[[], object], calls: int) -> Callable[[], None]:
    """`calls` calls and the wait for what they started."""

    def run() -> None:
        for _ in range(calls):
            function()
        torch.cuda.synchronize()

    return run
