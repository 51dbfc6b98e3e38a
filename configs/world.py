"""Six small encoders on the built-in world, each trained only against vision.

    imagebind-jax train configs/world.py

The demo's training run alone: what `imagebind-jax demo` expects of it stands in the README.
"""

from imagebind_jax import demo
from imagebind_jax.config import TrainConfig


def get_config() -> TrainConfig:
    return demo.config(seed=0)
