"""The released format: every layer, then every output, is that of the reference."""

import pathlib

import jax
import numpy as np
import pytest
import reference
from flax import traverse_util

import imagebind_jax as ib
from imagebind_jax import UserError
from imagebind_jax.models import encoder, layers
from imagebind_jax.porting import load
from imagebind_jax.porting.files import tensor_writers
from imagebind_jax.porting.files.tensor_files import open_tensors
from imagebind_jax.porting.torch_pickle.torch_file import TensorSpec

pytestmark = pytest.mark.jax
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "imagebind"
CHECKPOINT = GOLDEN / "imagebind_tiny.pth"
IO = np.load(GOLDEN / "imagebind_tiny_io.npz")
INPUTS = [name.removeprefix("in_") for name in IO if name.startswith("in_")]
MODALITIES = ("vision", "text", "audio", "depth", "thermal", "imu")


def modality_of(name):
    return name.partition("_")[0]


def ours(name):
    """A reference's input as our encoders take it: channels last."""
    x = IO[f"in_{name}"]
    if name == "text":
        return x
    channels = -2 if name == "imu" else -4 if name == "vision_multiclip" else -3
    x = np.moveaxis(x.astype(np.float32), channels, -1)
    return x[:, None] if name == "vision_image" else x


def theirs(name):
    """A reference's input in float64, without clips; a picture as two frames."""
    x = IO[f"in_{name}"]
    if name == "text":
        return x
    x = x.astype(np.float64)
    return np.stack([x, x], axis=2) if name == "vision_image" else x


@pytest.fixture(scope="module")
def loaded():
    return ib.load(CHECKPOINT)


@pytest.fixture(scope="module")
def tensors():
    with open_tensors(CHECKPOINT) as file:
        return {name: np.array(file[name], np.float64) for name in file.specs}


def close(found, expected):
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5, rtol=1e-5)


# ---- layer by layer, each from the reference's own input: a failure says where


@pytest.mark.parametrize("name", ["vision_image", "audio", "depth", "thermal", "imu"])
def test_stem(loaded, tensors, name):
    (model, params), m = loaded, modality_of(name)
    config = model.config.encoders[m]
    x = ours(name)
    x = np.repeat(x, 2, axis=1) if m == "vision" else x
    stem = jax.jit(encoder.Stem(config).apply)({"params": params[m]["stem"]}, x)
    cls = np.broadcast_to(params[m]["cls"], (len(x), 1, config.width))
    found = np.concatenate([cls, stem], axis=1) + np.asarray(params[m]["position"])
    close(found, reference.tokens(tensors, m, theirs(name)))


@pytest.mark.parametrize("name", ["vision_image", "text", "audio", "depth", "thermal", "imu"])
def test_every_block(loaded, tensors, name):
    (model, params), m = loaded, modality_of(name)
    c = model.config.encoders[m]
    x = reference.pre_norm(tensors, m, reference.tokens(tensors, m, theirs(name)))[:1]
    one = jax.jit(
        layers.TransformerTrunk(
            1, c.heads, c.mlp_ratio, c.activation, c.bias_kv, causal=m == "text"
        ).apply
    )
    for i in range(c.depth):
        slices = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], params[m]["trunk"]["blocks"])
        found = one({"params": {"blocks": slices}}, x.astype(np.float32))
        x = reference.block(tensors, m, i, x, c.heads)
        close(found, x)


# ---- whole encoders against what the reference itself said


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("name", INPUTS)
def test_outputs_are_the_references(loaded, name, scaled):
    (model, params), m = loaded, modality_of(name)
    found = ib.embed(model, params, {m: ours(name)}, scaled=scaled)[m]
    expected = IO[f"out_{name}"]
    if not scaled:
        expected = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-5, rtol=0)


def test_sizes_come_from_the_tensors(loaded):
    c = loaded[0].config
    assert tuple(c.encoders) == MODALITIES and c.embed_dim == 20
    assert {m: (e.width, e.depth, e.heads) for m, e in c.encoders.items()} == {
        "vision": (48, 3, 4), "text": (32, 2, 2), "audio": (40, 3, 4),
        "depth": (24, 2, 8), "thermal": (36, 2, 3), "imu": (32, 2, 4),
    }  # fmt: skip
    assert c.encoders["audio"].shape == (128, 204, 1) and c.encoders["imu"].shape == (2000, 6)
    assert [c.encoders[m].logit_scale for m in ("audio", "depth", "thermal", "imu")] == [
        20.0, 5.0, 10.0, 5.0,
    ]  # fmt: skip
    assert c.encoders["text"].learn_scale and c.encoders["vision"].logit_scale is None


@pytest.mark.parametrize("name", [name for name in INPUTS if "multiclip" not in name])
def test_bfloat16_takes_half_the_memory_and_points_the_same_way(loaded, name):
    m = modality_of(name)
    model, params = ib.load(CHECKPOINT, dtype="bfloat16", modalities=[m])
    size = [sum(x.nbytes for x in jax.tree.leaves(p)) for p in (params[m], loaded[1][m])]
    assert size[0] / size[1] < 0.501  # the logit scale stays float32
    z, expected = np.asarray(ib.embed(model, params, {m: ours(name)})[m]), IO[f"out_{name}"]
    cosines = np.sum(z * expected, axis=-1) / np.linalg.norm(expected, axis=-1)
    assert cosines.min() >= 0.999


def test_some_modalities_alone_are_the_same(loaded):
    model, params = ib.load(CHECKPOINT, modalities=["audio", "imu"])
    assert set(params) == {"audio", "imu"} == set(model.config.encoders)
    for m in params:
        jax.tree.map(np.testing.assert_array_equal, params[m], loaded[1][m])


def test_some_modalities_read_only_their_bytes(monkeypatch):
    read = []
    with load.open_weights(CHECKPOINT, modalities=["depth"]) as weights:
        inner = type(weights.tensors).__getitem__
        monkeypatch.setattr(
            type(weights.tensors),
            "__getitem__",
            lambda self, name: read.append(name) or inner(self, name),
        )
        for path in weights.specs:
            weights.read(path)
    assert read and all(".depth." in name for name in read)


# ---- complete in both directions: one error that names everything


@pytest.fixture
def altered(tmp_path, tensors):
    """Writes the golden tensors with changes; without the config beside, so heads are told."""

    def write(changes=(), without=(), heads=None):
        content = {name: x.astype(np.float32) for name, x in tensors.items()}
        content |= dict(changes)
        content = {name: x for name, x in content.items() if name not in without}
        specs = {name: TensorSpec(x.shape, x.dtype) for name, x in content.items()}
        path = tmp_path / "altered.pth"
        tensor_writers.write_torch(path, specs, content.items())
        return path

    return write


HEADS = {"vision": 4, "text": 2, "audio": 4, "depth": 8, "thermal": 3, "imu": 4}


def test_every_unknown_and_every_missing_key_is_named(altered):
    gone = ["modality_heads.imu.3.weight", "modality_trunks.audio.blocks.1.mlp.fc2.bias"]
    path = altered({"modality_trunks.depth.surprise": np.zeros(3, np.float32)}, gone)
    with pytest.raises(UserError) as error:
        ib.load(path, heads=HEADS)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    assert all(name in message for name in [*gone, "modality_trunks.depth.surprise"])


def test_what_belongs_to_no_encoder_is_named(altered):
    odd = {
        name: np.zeros(3, np.float32) for name in ("classifier.weight", "modality_heads.smell.0.w")
    }
    with pytest.raises(UserError, match=r"unknown classifier\.weight, modality_heads\.smell\.0\.w"):
        ib.load(altered(odd), heads=HEADS)


@pytest.mark.parametrize("bad", [np.array(np.nan), np.array(1e4), np.zeros(2), np.zeros(0)])
def test_a_scale_that_is_none_is_refused(altered, bad):
    name = "modality_postprocessors.imu.1.log_logit_scale"
    with pytest.raises(UserError, match="no logit scale"):
        ib.load(altered({name: bad.astype(np.float32)}), heads=HEADS, modalities=["imu"])


def test_a_wrong_shape_is_named_with_what_it_should_give(altered):
    name = "modality_trunks.text.blocks.0.attn.out_proj.weight"
    with pytest.raises(UserError, match=f"{name} has shape .*32, 31.* does not give text/trunk"):
        ib.load(altered({name: np.zeros((32, 31), np.float32)}), heads=HEADS)


def test_weights_of_integers_are_refused(altered):
    name = "modality_heads.imu.3.weight"
    with pytest.raises(UserError, match=f"{name} holds int32"):
        ib.load(altered({name: np.zeros((20, 32), np.int32)}), heads=HEADS)


def test_heads_that_no_rule_gives_must_be_told(altered):
    path = altered()
    with pytest.raises(UserError, match="does not say its number of heads.*--heads"):
        ib.load(path)
    model, _ = ib.load(path, heads=HEADS)
    assert {m: c.heads for m, c in model.config.encoders.items()} == HEADS


def test_a_guess_of_heads_is_a_warning(altered, tensors):
    """A custom width of 64 channels a head loads without a config, and says what it assumed."""
    from imagebind_jax.porting.formats.hints import LoadHints

    with pytest.warns(UserWarning, match="assuming 3 for width 192"):
        assert LoadHints().heads_of("depth", 192) == 3
    assert LoadHints().heads_of("depth", 384) == 8  # as released: no warning


def test_fewer_blocks_load_as_a_shorter_model(altered, tensors):
    cut = [name for name in tensors if ".vision.blocks.2." in name]
    model, params = ib.load(altered(without=cut), heads=HEADS, modalities=["vision"])
    assert model.config.encoders["vision"].depth == 2
    assert params["vision"]["trunk"]["blocks"]["norm_1"]["scale"].shape == (2, 48)


def test_a_gap_in_the_blocks_is_missing_keys(altered, tensors):
    cut = [name for name in tensors if ".vision.blocks.1." in name]
    with pytest.raises(UserError, match=r"missing .*vision\.blocks\.1\.attn"):
        ib.load(altered(without=cut), heads=HEADS)


def test_unknown_modality_and_unknown_source_are_named():
    with pytest.raises(UserError, match="has no tactile: only vision"):
        ib.load(CHECKPOINT, modalities=["tactile"])
    with pytest.raises(UserError, match="not one of auto, imagebind, open_clip"):
        ib.load(CHECKPOINT, source="tensorflow")


def test_every_rule_has_its_inverse(loaded):
    """ours -> theirs -> ours changes nothing, for every leaf of the model."""
    with load.open_weights(CHECKPOINT) as weights:
        for path, leaf in weights.leaves.items():
            for piece in weights.pieces(path):
                np.testing.assert_array_equal(leaf._ours(leaf.theirs(piece)), piece)
    flat = traverse_util.flatten_dict(loaded[1], sep="/")
    assert flat.keys() == weights.leaves.keys()


@pytest.mark.parametrize("scale", [5.0, 20.0, 7.5, 100.0, None])
def test_fixed_scales_are_short_numbers_or_exact(altered, scale):
    stored = np.float32(2.3456789 if scale is None else np.log(scale))
    name = "modality_postprocessors.imu.1.log_logit_scale"
    path = altered({name: np.array(stored)})
    model, _ = ib.load(path, heads=HEADS, modalities=["imu"])
    found = model.config.encoders["imu"].logit_scale
    assert np.float32(np.log(found)) == stored
    assert scale is None or found == scale
