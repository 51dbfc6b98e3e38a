"""Every test runs on 8 fake CPU devices, with shapes checked and implicit broadcasting forbidden."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"

# ruff: noqa: E402
import pytest
from jaxtyping import install_import_hook

install_import_hook("imagebind_jax", "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Made records go to the test's own folder."""
    monkeypatch.setenv("IMAGEBIND_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
