"""What the tests of the datasets share: each one's sample, written once."""

import importlib
import pathlib
import shutil

import pytest


@pytest.fixture(scope="session")
def samples(tmp_path_factory):
    """name -> the folder into which its sample was written: to be read only."""
    folders = {}

    def written(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            importlib.import_module(f"imagebind_jax.data.{name}.sample").write(folders[name])
        return folders[name]

    return written


@pytest.fixture
def copy(samples, tmp_path):
    """A sample that a test may change, by its name: its own folder."""

    def made(name):
        (inner,) = samples(name).iterdir()
        return pathlib.Path(shutil.copytree(inner, tmp_path / inner.name))

    return made
