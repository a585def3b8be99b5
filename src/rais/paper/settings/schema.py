"""The typed schema of a run: the settings of its parts (groups.py), its own, and what of them does not fit together.

YAML files in conf/ fill these classes (compose.py), and what identifies a run follows from them (identity.py). A new
sampler, schedule or model is its class, its settings class in groups.py and in SCHEMAS, and one YAML file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Optional  # noqa: UP035  OmegaConf reads these forms on Python 3.10

from rais.paper import data
from rais.paper.settings.fields import (
    COUNT,
    NAME,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE_BELOW_ONE,
    Range,
    Settings,
    nested,
    one_of,
    or_null,
    setting,
)
from rais.paper.settings.groups import (
    AugmentConfig,
    DataConfig,
    ExponentialConfig,
    GainConfig,
    InverseSqrtConfig,
    LeNet5Config,
    ModelConfig,
    OracleConfig,
    PreActResNetConfig,
    RAISConfig,
    SamplerConfig,
    ScheduleConfig,
    SmallCNNConfig,
    SmoothedConfig,
    UniformConfig,
    WandbConfig,
    Z2CNNConfig,
    phis_of,
)

CURES = ("extra_visit", "window", "unit", "start", "fast_average")  # see training/ablation.py
CORES = os.cpu_count() or 1


@dataclass
class Config(Settings):
    """A run.

    `epochs` is the budget in epochs equivalent, with `evaluations` points over it; `target_loss` is the training loss
    that arms are compared at. `test_while_training` is the number of test images of every evaluation but the last.
    `label` names a run of a sweep over a setting, as in `visits_2000`, to tell it from the headline runs of its arm.
    `outliers` is the limit of loop/outliers.py; `trace` keeps what the figure of examples shows; `diagnose` measures
    the truth beside the estimates, `headroom` where the possible gain is lost. `runs` is where records go. `without`
    takes one cure out of RAIS, for the ablation alone.
    """

    task: str = setting(within=NAME)
    label: Optional[str] = setting(None, within=or_null(NAME, "none"), scientific=False)  # noqa: UP045
    seed: int = setting(within=Range(lambda x: x >= 0, "an integer ≥ 0"))
    data: DataConfig = nested(DataConfig)
    model: ModelConfig = nested(ModelConfig)
    schedule: ScheduleConfig = nested(ScheduleConfig)
    sampler: SamplerConfig = nested(SamplerConfig)
    gain: GainConfig = nested(GainConfig)
    batch_size: int = setting(within=COUNT)
    epochs: float = setting(within=POSITIVE)
    evaluations: int = setting(within=COUNT)
    weight_decay: float = setting(within=NOT_NEGATIVE)
    momentum: float = setting(within=SHARE_BELOW_ONE)
    optimizer: str = setting("sgd", within=one_of("sgd", "adamw"), absent_at_default=True)
    augment: AugmentConfig = nested(AugmentConfig, absent_at_default=True)
    outliers: Optional[float] = setting(  # noqa: UP045
        None, within=or_null(Range(lambda x: x > 1, "greater than 1"), "no protection"), absent_at_default=True
    )
    without: Optional[str] = setting(None, within=one_of(*CURES), absent_at_default=True)  # noqa: UP045
    target_loss: Optional[float] = setting(None, within=or_null(POSITIVE, "none"), scientific=False)  # noqa: UP045
    test_while_training: Optional[int] = setting(  # noqa: UP045
        None, within=or_null(COUNT, "all"), absent_at_default=True
    )
    diagnose: bool = setting(False)
    headroom: bool = setting(False, absent_at_default=True)
    trace: bool = setting(False, absent_at_default=True)
    runs: str = setting(scientific=False)
    device: str = setting(within=one_of("auto", "cpu", "cuda"), scientific=False)
    threads: int = setting(
        within=Range(lambda x: 1 <= x <= CORES, f"1 to {CORES}, the cores of this machine"), scientific=False
    )
    wandb: Optional[WandbConfig] = setting(None, scientific=False)  # noqa: UP045

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gain.mode == "exact" and self.sampler.name != "oracle":
            raise ValueError(
                f"gain.mode=exact needs sampler=oracle, not {self.sampler.name}: choose adaptive, off or replay"
            )
        if self.gain.record and self.gain.mode != "replay":
            raise ValueError(f"gain.record is for gain=replay, and this is gain.mode={self.gain.mode}: leave it out")
        if self.gain.mode == "replay" and not self.gain.record:
            raise ValueError("gain.mode=replay needs gain.record: the folder of a recorded run")
        if self.gain.is_estimated and self.batch_size == 1:
            raise ValueError("batch_size=1 shows no noise to estimate the gain ratio from: give 2 or more, or gain=off")
        if self.optimizer == "adamw" and self.momentum:
            raise ValueError(f"momentum={self.momentum:g} has no meaning for optimizer=adamw: set momentum=0")
        if self.without and (self.sampler.name, self.gain.mode) != ("rais", "adaptive"):
            raise ValueError(f"without={self.without} takes a part out of sampler=rais, not of {self.sampler.name}")

    def check_against(self, known: data.Description) -> None:
        """Raise ValueError where settings do not fit the data, as far as is known without decoding them."""
        n, m = known.n_train, self.batch_size
        if m > n:
            raise ValueError(f"batch_size={m} is larger than the n={n} training examples of {self.data.name}")
        if (steps := int(self.epochs * n / m)) < self.evaluations:
            raise ValueError(
                f"evaluations={self.evaluations} is more than the {steps} minibatches of epochs={self.epochs:g}: "
                "it must be at most that, or give more epochs"
            )
        if (self.test_while_training or 0) > known.n_test:
            raise ValueError(
                f"test_while_training={self.test_while_training} is more than the {known.n_test} test images of "
                f"{self.data.name}: give at most that, or null for all"
            )
        if self.augment.crop >= known.size:
            raise ValueError(
                f"augment.crop={self.augment.crop} leaves nothing of images of {known.size}x{known.size} pixels: "
                "lower it"
            )
        self.sampler.check_budget(n, m, self.epochs)
        model = self.model.on_paper(channels=known.channels, classes=known.classes, size=known.size)
        if self.gain.is_estimated and self.gain.phi not in (possible := phis_of(model)):
            raise ValueError(
                f"gain.phi={self.gain.phi} needs a model without batch normalisation: choose {' or '.join(possible)}"
            )


SCHEMAS = {
    ("model", "lenet5"): LeNet5Config,
    ("model", "preact_resnet"): PreActResNetConfig,
    ("model", "small_cnn"): SmallCNNConfig,
    ("model", "z2cnn"): Z2CNNConfig,
    ("sampler", "uniform"): UniformConfig,
    ("sampler", "oracle"): OracleConfig,
    ("sampler", "smoothed"): SmoothedConfig,
    ("sampler", "rais"): RAISConfig,
    ("schedule", "inverse_sqrt"): InverseSqrtConfig,
    ("schedule", "exponential"): ExponentialConfig,
}
