"""Positions for other input sizes: PyTorch's bicubic, axis by axis, and what each modality does."""

import dataclasses
import pathlib

import jax
import numpy as np
import pytest

import imagebind_jax as ib
from imagebind_jax import UserError
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.porting import position_interpolation

pytestmark = pytest.mark.jax
GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TORCH = np.load(GOLDEN / "torch_bicubic.npz")  # torch.nn.functional.interpolate(mode="bicubic")
CHECKPOINT = GOLDEN / "imagebind" / "imagebind_tiny.pth"
SMALL = {"width": 6, "depth": 1, "heads": 1}


def between(old, new, table):
    cls = np.full((1, table.shape[1]), 7, np.float32)
    out = position_interpolation.interpolate_positions(np.concatenate([cls, table]), old, new)
    np.testing.assert_array_equal(out[:1], cls)
    assert out.shape == (new.tokens, table.shape[1]) and out.dtype == table.dtype
    return out[1:]


@pytest.mark.parametrize("side", [32, 12])
def test_square_grids_are_pytorchs_bicubic(side):
    old = EncoderConfig((2, 224, 224, 3), patch=(2, 14, 14), **SMALL)
    new = dataclasses.replace(old, shape=(2, 14 * side, 14 * side, 3))
    np.testing.assert_allclose(between(old, new, TORCH["square16"]), TORCH[f"to{side}"], atol=1e-5)


def test_longer_spectrograms_are_interpolated_along_time():
    old = EncoderConfig((128, 204, 1), patch=(16, 16), stride=(10, 10), **SMALL)
    new = dataclasses.replace(old, shape=(128, 404, 1))
    np.testing.assert_allclose(between(old, new, TORCH["audio12x19"]), TORCH["to12x39"], atol=1e-5)


def test_a_constant_stays_a_constant():
    np.testing.assert_allclose(
        position_interpolation.cubic_matrix(20, 33).sum(axis=1), 1, atol=1e-12
    )


def test_the_kernel_a_quarter_from_a_sample_by_hand():
    """a = -0.75 at distances 1.25, 0.25, 0.75, 1.75 (Keys 1981)."""
    row = position_interpolation.cubic_matrix(20, 40)[21]  # lies at (21 + 0.5) / 2 - 0.5 = 10.25
    np.testing.assert_allclose(row[9:13], [-0.10546875, 0.87890625, 0.26171875, -0.03515625])


def test_a_time_axis_of_one_is_repeated():
    old = EncoderConfig((2, 8, 8, 3), patch=(2, 4, 4), **SMALL)
    new = dataclasses.replace(old, shape=(4, 8, 8, 3))
    table = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_allclose(between(old, new, table), np.tile(table, (2, 1)), atol=1e-6)


def test_shorter_text_keeps_its_first_positions_and_longer_is_refused():
    old = EncoderConfig((8,), vocab_size=10, **SMALL)
    table = np.arange(48, dtype=np.float32).reshape(8, 6)
    short = position_interpolation.interpolate_positions(
        table, old, dataclasses.replace(old, shape=(5,))
    )
    np.testing.assert_array_equal(short, table[:5])
    with pytest.raises(UserError, match="for 8 tokens of text, not 9"):
        position_interpolation.interpolate_positions(
            table, old, dataclasses.replace(old, shape=(9,))
        )


def test_the_same_size_changes_nothing():
    model, params = ib.load(CHECKPOINT, modalities=["depth"])
    again, same = ib.load(CHECKPOINT, modalities=["depth"], shapes={"depth": (224, 224, 1)})
    assert again.config == model.config
    jax.tree.map(np.testing.assert_array_equal, same, params)


def test_a_model_for_larger_pictures_and_longer_sounds_runs():
    shapes = {"depth": (448, 448, 1), "audio": (128, 404, 1)}
    model, params = ib.load(CHECKPOINT, modalities=list(shapes), shapes=shapes)
    inputs = {m: np.zeros((1, *shape), np.float32) for m, shape in shapes.items()}
    z = ib.embed(model, params, inputs)
    assert {m: x.shape for m, x in z.items()} == {"depth": (1, 20), "audio": (1, 20)}
    assert params["audio"]["position"].shape == (1 + 12 * 39, 40)


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ((448, 448), "in place of"),
        ((448, 448, 3), "in place of"),
        ((8, 8, 1), "smaller than a patch"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shape, line):
    with pytest.raises(UserError, match=line):
        ib.load(CHECKPOINT, modalities=["depth"], shapes={"depth": shape})
