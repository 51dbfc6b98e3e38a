"""Six small encoders on the built-in world, each trained only against vision.

    imagebind-jax train configs/world.py

The demo's training run alone: what `imagebind-jax demo` expects of it stands in the README.
"""

from imagebind_jax.config import TrainConfig
from imagebind_jax.demo import run


def get_config() -> TrainConfig:
    return run.demo_config(seed=0)
