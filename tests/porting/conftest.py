"""What the tests of weights share: the golden checkpoint in our formats, made once, and shapes traced once."""

import pathlib

import pytest

from imagebind_jax.porting import convert, lora
from imagebind_jax.porting.files import parameter_source
from imagebind_jax.porting.formats import rules

CHECKPOINT = pathlib.Path(__file__).parents[1] / "golden" / "imagebind" / "imagebind_tiny.pth"
SHAPES: dict = {}


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
    """A model's shapes, for which each opening of a file traces all of it twice, once for each config."""
    trace = parameter_source.param_shapes

    def shapes(config):
        key = repr(config)
        if key not in SHAPES:
            SHAPES[key] = trace(config)
        return dict(SHAPES[key])

    for module in (lora, rules, parameter_source):
        monkeypatch.setattr(module, "param_shapes", shapes)


def formats(made_once, name, **how):
    def make(folder):
        for target in ("w", "w.safetensors", "w.pth"):
            convert.convert(CHECKPOINT, folder / target, say=lambda line: None, **how)

    return made_once(name, make)


@pytest.fixture(scope="session")
def made(made_once):
    """The golden checkpoint in every format: read only."""
    return formats(made_once, "converted")


@pytest.fixture(scope="session")
def small(made_once):
    """One small encoder in every format, so that most mutations hit more than weights: read only."""
    return formats(made_once, "converted-imu", modalities=("imu",))
