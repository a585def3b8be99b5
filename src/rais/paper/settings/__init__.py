"""The typed settings of a run, their ranges, what they build, and the identity that follows from them."""

from rais.paper.settings.compose import explain, from_hydra, is_of_hydra, register
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
    SmallCNNConfig,
    SmoothedConfig,
    UniformConfig,
    WandbConfig,
    Z2CNNConfig,
)
from rais.paper.settings.identity import arm, run_id, scientific, slug
from rais.paper.settings.schema import Config

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "ExponentialConfig",
    "GainConfig",
    "InverseSqrtConfig",
    "LeNet5Config",
    "ModelConfig",
    "OracleConfig",
    "PreActResNetConfig",
    "RAISConfig",
    "SmallCNNConfig",
    "SmoothedConfig",
    "UniformConfig",
    "WandbConfig",
    "Z2CNNConfig",
    "arm",
    "explain",
    "from_hydra",
    "is_of_hydra",
    "register",
    "run_id",
    "scientific",
    "slug",
]
