"""Settings of the toy problem with every trick switched on, and the samplers to run with them."""

from __future__ import annotations

from rais.paper import settings as config

TRICKS = {
    "augment": config.AugmentConfig(crop=2, flip=True, rotate=10),
    "model": config.LeNet5Config(dropout=0.2, batch_norm=True),
    "momentum": 0.5,
    "outliers": 3.0,
}
SAMPLERS = {
    "uniform": config.UniformConfig(),
    "smoothed": config.SmoothedConfig(delta=0.1),
    "rais": config.RAISConfig(visits=100, refresh=2),
}
LOW = config.InverseSqrtConfig(scale=0.5, offset=100)
