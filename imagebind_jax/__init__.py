"""imagebind_jax: ImageBind in JAX. One embedding space for images, text, audio, depth, thermal, IMU."""

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


def __getattr__(name: str) -> Any:
    """Public names are imported at their first use: `import imagebind_jax` alone takes no time."""
    if name == "UserError":
        from imagebind_jax.errors import UserError

        return UserError
    if name == "tokenize":
        from imagebind_jax.inputs.transforms.text import tokenize

        return tokenize
    if name == "MediaError":
        from imagebind_jax.inputs.decoders.media import MediaError

        return MediaError
    if name.startswith("load_") and name in __all__:
        from imagebind_jax.inputs import loaders

        return getattr(loaders, name)
    if name == "load":
        from imagebind_jax.porting.load import load

        return load
    if name in __all__:
        from imagebind_jax.models import imagebind

        return getattr(imagebind, name)
    raise AttributeError(f"module 'imagebind_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
