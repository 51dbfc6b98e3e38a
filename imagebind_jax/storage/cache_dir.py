"""The folder in which what was made once is kept: records, compiled programs."""

import os
import pathlib

CACHE_VARIABLE = "IMAGEBIND_JAX_CACHE"
CACHE_REMEDY = f"choose another place with ${CACHE_VARIABLE} or --cache"


def cache_folder() -> pathlib.Path:
    """Where made data is kept: $IMAGEBIND_JAX_CACHE, or ~/.cache/imagebind_jax."""
    folder = os.environ.get(CACHE_VARIABLE)
    return pathlib.Path(folder or "~/.cache/imagebind_jax").expanduser()
