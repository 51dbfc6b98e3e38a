"""imagebind_jax: ImageBind in JAX. One embedding space for images, text, audio, depth, thermal, IMU."""

import importlib
from typing import TYPE_CHECKING, Any

from imagebind_jax.version import __version__

if TYPE_CHECKING:
    from imagebind_jax.errors import UserError
    from imagebind_jax.inputs.decoders.media import MediaError
    from imagebind_jax.inputs.loaders import (
        load_audio,
        load_depth,
        load_images,
        load_imu,
        load_thermal,
        load_videos,
    )
    from imagebind_jax.inputs.transforms.text import tokenize
    from imagebind_jax.models.imagebind import (
        BASE,
        HUGE,
        TINY,
        ImageBind,
        ImageBindConfig,
        embed,
        init,
        similarity,
    )
    from imagebind_jax.porting.load import load

__all__ = [
    "BASE",
    "HUGE",
    "TINY",
    "ImageBind",
    "ImageBindConfig",
    "MediaError",
    "UserError",
    "__version__",
    "embed",
    "init",
    "load",
    "load_audio",
    "load_depth",
    "load_images",
    "load_imu",
    "load_thermal",
    "load_videos",
    "similarity",
    "tokenize",
]


_HOMES = {
    "UserError": "errors",
    "MediaError": "inputs.decoders.media",
    "tokenize": "inputs.transforms.text",
    "load": "porting.load",
    **{name: "inputs.loaders" for name in __all__ if name.startswith("load_")},
}


def __getattr__(name: str) -> Any:
    """Import public names when they are first used: `import imagebind_jax` alone takes no time."""
    if name == "model":  # an alias of the module
        return importlib.import_module("imagebind_jax.models.imagebind")
    if name in __all__:
        home = _HOMES.get(name, "models.imagebind")
        return getattr(importlib.import_module(f"imagebind_jax.{home}"), name)
    raise AttributeError(f"module 'imagebind_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
