"""The same numbers in wandb, for those who ask for it: the only file that knows wandb.

A mirror is an ornament. Whatever goes wrong in it ends the mirror with one warning, never the run, and it is never
the only copy of a number. WANDB_MODE and WANDB_DIR go before the settings.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rais.paper.records.layout import COMPLETE

HISTOGRAM_BINS = 64
INIT_TIMEOUT = 10.0  # seconds that a run waits at most for wandb's server before it starts
AXES = ("epoch", "epochs_equivalent", "seconds")

# From a run's folder, a title and a folder for its picture to numbers for the summary and the picture's path.
Outcome = Callable[[Path, str, Path], tuple[dict[str, float], Path]]


def _guarded(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def call(self: Mirror, *arguments: Any) -> None:
        if self.is_on:
            try:
                method(self, *arguments)
            except (Exception, SystemExit) as error:
                self.is_on = False
                warnings.warn(f"wandb shows no more of this run, which goes on: {error!r}", stacklevel=2)

    return call


class Mirror:
    """A run in wandb, grouped by task and arm, with the three step axes as metrics.

    It adds what can be seen there alone: histograms of n p, and when the run ends what `outcome` makes of its record.

    Args:
        meta: the run's meta.json.
        folder: the run's folder; wandb's files go below it unless WANDB_DIR is set.
        outcome: asked when the run is complete; None shows none.

    Raises:
        ImportError: wandb is not installed. Everything else is a warning.
    """

    def __init__(self, meta: dict[str, Any], folder: Path, *, outcome: Outcome | None = None) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ImportError("logger=wandb needs the wandb package: pip install 'rais-sgd[wandb]', or logger=local")
        self.folder, self.outcome = folder, outcome
        self.title = f"{meta['task']}-{folder.parent.name}"
        self.is_on = True
        self._start(meta)

    @_guarded
    def _start(self, meta: dict[str, Any]) -> None:
        import wandb

        settings = meta["config"]["wandb"]
        self.wandb = wandb
        self.run = wandb.init(
            mode=os.environ.get("WANDB_MODE") or settings["mode"],
            project=settings["project"],
            name=f"{self.title}-seed{meta['seed']}",
            group=self.title,
            job_type=meta["arm"],
            config={**meta["config"], "arm": meta["arm"], "run_id": meta["run_id"], "commit": meta["commit"]},
            dir=os.environ.get("WANDB_DIR") or str(self.folder),
            reinit="finish_previous",
            settings=wandb.Settings(init_timeout=INIT_TIMEOUT),
        )
        for axis in AXES:
            self.run.define_metric(axis, hidden=True)
            self.run.define_metric(f"by_{axis}/*", step_metric=axis)
        self.run.define_metric("distribution/*", step_metric="epoch")

    @_guarded
    def write(self, axes: dict[str, float], metrics: dict[str, float]) -> None:
        """Log one evaluation."""
        on_axes = {f"by_{axis}/{name}": value for axis in AXES for name, value in metrics.items()}
        self.run.log({**axes, **on_axes})

    @_guarded
    def write_distribution(self, epoch: float, relative: NDArray) -> None:
        """Log a histogram of log₁₀(n p_i); `relative` (n,) is n p, examples with p_i = 0 are left out."""
        known = np.log10(relative[relative > 0])
        histogram = self.wandb.Histogram(np_histogram=np.histogram(known, bins=HISTOGRAM_BINS))
        self.run.log({"epoch": epoch, "distribution/log10_np": histogram})

    @_guarded
    def finish(self, status: str) -> None:
        """End the run in wandb; `status` is that of the record, which is written already."""
        self.run.summary["status"] = status
        if status in COMPLETE and self.outcome is not None:
            try:
                self._write_outcome(self.outcome)
            except Exception as error:
                warnings.warn(f"wandb shows no outcome of this run: {error!r}", stacklevel=3)
        self.run.finish(exit_code=0 if status in COMPLETE else 1)

    def _write_outcome(self, outcome: Outcome) -> None:
        with tempfile.TemporaryDirectory() as folder:
            numbers, picture = outcome(self.folder, self.title, Path(folder))
            self.run.summary.update(numbers)
            self.run.log({"learning_curves": self.wandb.Image(str(picture))})
