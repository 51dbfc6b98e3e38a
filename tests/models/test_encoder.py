"""Encoders and the model: sizes, shapes, and properties that hold whatever the weights."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagebind_jax import UserError, optimizer
from imagebind_jax.distributed import sharding
from imagebind_jax.models import imagebind
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import HUGE, ImageBind, ImageBindConfig, count_parameters, init

pytestmark = pytest.mark.jax

SMALL = {"width": 32, "depth": 2, "heads": 4}
ENCODERS = {
    "vision": EncoderConfig((2, 16, 16, 3), patch=(2, 8, 8), pre_norm=True, **SMALL),
    "text": EncoderConfig(
        (12,), vocab_size=100, logit_scale=1 / 0.07, learn_scale=True, **SMALL
    ),
    "audio": EncoderConfig(
        (16, 24, 1), patch=(8, 8), stride=(4, 5), bias_kv=True, stem_norm=True,
        drop_path=0.5, logit_scale=20.0, **SMALL,
    ),
    "imu": EncoderConfig((40, 6), patch=(8,), bias_kv=True, head_dropout=0.5, logit_scale=5.0, **SMALL),
}  # fmt: skip
CONFIG = ImageBindConfig(ENCODERS, embed_dim=16)
DEEPER_HEADS = optimizer.OptimizerConfig(frozen=("[a-z]+/(?!head)",))  # all else


@functools.cache
def parameters():
    return jax.jit(lambda key: init(CONFIG, key))(jax.random.key(0))


def inputs(batch=3):
    rng = np.random.default_rng(0)
    x = {
        name: jnp.asarray(rng.standard_normal((batch, *c.shape)), jnp.float32)
        for name, c in ENCODERS.items()
    }
    x["text"] = jnp.asarray(rng.integers(1, 90, (batch, 12))).at[:, 5].set(99).at[:, 6:].set(0)
    return x


@functools.partial(jax.jit, static_argnums=(2, 3))
def jitted(params, x, config, train, key):
    rngs = {"dropout": key} if train else {}
    return ImageBind(config).apply({"params": params}, x, train=train, rngs=rngs)


def apply(x, config=CONFIG, train=False, key=0):
    return jitted(parameters(), x, config, train, jax.random.key(key))


def test_huge_has_exactly_the_released_models_parameters():
    assert count_parameters(HUGE) == {
        "vision": 632_829_440,
        "text": 354_032_641,
        "audio": 86_235_648,
        "depth": 21_871_872,
        "thermal": 86_211_072,
        "imu": 19_600_384,
    }
    assert sum(count_parameters(HUGE).values()) == 1_200_781_057


def test_huge_outputs_have_the_released_shapes():
    x = {
        name: jax.ShapeDtypeStruct((2, *c.shape), jnp.int32 if c.vocab_size else jnp.float32)
        for name, c in HUGE.encoders.items()
    }
    params = jax.eval_shape(lambda key: init(HUGE, key), jax.random.key(0))
    embeddings, scales = jax.eval_shape(
        lambda params, x: ImageBind(HUGE).apply({"params": params}, x), params, x
    )
    assert {z.shape for z in embeddings.values()} == {(2, 1024)}
    assert HUGE.encoders["audio"].tokens == 229
    assert HUGE.encoders["imu"].tokens == 251
    assert set(scales) == set(HUGE.encoders)


def test_embeddings_are_unit_vectors_and_scales_the_configured_ones():
    embeddings, scales = apply(inputs())
    for z in embeddings.values():
        np.testing.assert_allclose(jnp.linalg.norm(z, axis=-1), jnp.ones(3), rtol=1e-5)
    assert {name: round(float(s), 3) for name, s in scales.items()} == {
        "vision": 1.0, "text": 14.286, "audio": 20.0, "imu": 5.0,
    }  # fmt: skip


def test_only_the_towers_asked_for_run_and_others_change_nothing():
    x = inputs()
    alone = apply({"audio": x["audio"]})[0]
    assert list(alone) == ["audio"]
    np.testing.assert_allclose(alone["audio"], apply(x)[0]["audio"], atol=1e-6)


def test_an_image_is_a_video_of_one_frame_repeated():
    frame = inputs()["vision"][:, :1]
    twice = jnp.concatenate([frame, frame], axis=1)
    np.testing.assert_array_equal(
        apply({"vision": frame})[0]["vision"], apply({"vision": twice})[0]["vision"]
    )


def test_clips_are_averaged_after_normalising_and_not_normalised_again():
    clips = inputs(6)["audio"]
    single = apply({"audio": clips})[0]["audio"]
    averaged = apply({"audio": clips.reshape(2, 3, *clips.shape[1:])})[0]["audio"]
    np.testing.assert_allclose(averaged, single.reshape(2, 3, -1).mean(axis=1), atol=1e-6)
    assert float(jnp.linalg.norm(averaged, axis=-1).max()) < 1 - 1e-4


def test_text_ignores_what_follows_its_end():
    x = inputs()["text"]
    np.testing.assert_array_equal(
        apply({"text": x})[0]["text"], apply({"text": x.at[:, 8:].set(7)})[0]["text"]
    )
    assert (
        np.abs(apply({"text": x})[0]["text"] - apply({"text": x.at[:, 2].set(7)})[0]["text"]).max()
        > 1e-3
    )


def test_text_is_causal_shown_by_gradients():
    from imagebind_jax.models.layers import TransformerTrunk

    trunk = TransformerTrunk(depth=2, heads=4, causal=True)
    x = jax.random.normal(jax.random.key(1), (1, 6, 32))
    params = trunk.init(jax.random.key(0), x)
    gradient = jax.grad(lambda x: trunk.apply(params, x)[0, 3].sum())(x)[0]
    assert np.abs(gradient[:4]).max(axis=-1).min() > 0
    assert not np.any(gradient[4:])


@functools.partial(jax.jit, static_argnums=1)
def gradient(params, config):
    def loss(params):
        x = {"audio": inputs()["audio"]}
        return ImageBind(config).apply({"params": params}, x)[0]["audio"][:, 0].sum()

    return jax.grad(loss)(params)["audio"]


@pytest.mark.parametrize("change", [{"unroll": 2}, {"remat": "full"}, {"remat": "dots"}])
def test_unrolling_and_rematerialising_change_no_number(change):
    changed = gradient(parameters(), dataclasses.replace(CONFIG, **change))
    wanted = gradient(parameters(), CONFIG)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted)) > 0.01
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), changed, wanted)


def test_the_scan_is_the_loop_over_its_layers():
    from imagebind_jax.models.layers import Block, TransformerTrunk

    trunk = TransformerTrunk(depth=3, heads=4, bias_kv=True)
    x = jax.random.normal(jax.random.key(1), (2, 5, 32))
    params = trunk.init(jax.random.key(0), x)["params"]
    wanted = x
    for layer in range(3):
        weights = jax.tree.map(lambda p, i=layer: p[i], params["blocks"])
        wanted, _ = Block(heads=4, bias_kv=True).apply({"params": weights}, wanted, jnp.float32(0))
    np.testing.assert_allclose(trunk.apply({"params": params}, x), wanted, atol=1e-5)


def test_a_batch_that_is_split_stays_split_outside_of_shard_map_too():
    rows = jax.sharding.NamedSharding(sharding.make_mesh(1), jax.sharding.PartitionSpec("data"))
    x = jax.device_put(inputs(8)["imu"], rows)
    run = jax.jit(lambda params, x: imagebind.embed(ImageBind(CONFIG), params, {"imu": x})["imu"])
    assert "all-gather" not in run.lower(parameters(), x).compile().as_text()


def test_bfloat16_computes_close_to_float32_and_keeps_float32_outside():
    half = dataclasses.replace(CONFIG, dtype="bfloat16")
    params = jax.eval_shape(lambda key: init(half, key), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    for name, z in apply(inputs(), half)[0].items():
        assert z.dtype == jnp.float32
        cosine = jnp.sum(z * apply(inputs())[0][name], axis=-1)
        assert float(cosine.min()) > 0.99, name


def test_a_deeper_head_is_linear_exact_gelu_linear():
    deeper = dataclasses.replace(ENCODERS["imu"], mlp_head=True, logit_bias=-3.0)
    config = ImageBindConfig({"imu": deeper}, embed_dim=16)
    params = jax.jit(lambda key: init(config, key))(jax.random.key(0))
    params["imu"]["head_hidden"]["bias"] += jnp.linspace(-1.0, 1.0, 32)
    (z, _), seen = ImageBind(config).apply(
        {"params": params}, {"imu": inputs()["imu"]}, capture_intermediates=True
    )
    normed = np.float64(seen["intermediates"]["imu"]["norm"]["__call__"][0])
    hidden = {name: np.float64(x) for name, x in params["imu"]["head_hidden"].items()}
    x = normed @ hidden["kernel"] + hidden["bias"][None]
    x = x * (1 + np.vectorize(math.erf)(x / 2**0.5)) / 2
    wanted = x @ np.float64(params["imu"]["head"]["kernel"])
    wanted /= np.linalg.norm(wanted, axis=-1, keepdims=True)
    np.testing.assert_allclose(z["imu"], wanted, atol=1e-6)


def test_a_deeper_head_and_a_bias_leave_all_other_parameters_what_they_were():
    more = {m: dataclasses.replace(c, mlp_head=True, logit_bias=-3.0) for m, c in ENCODERS.items()}
    config = ImageBindConfig(more, embed_dim=16)
    found = jax.jit(lambda key: init(config, key))(jax.random.key(0))
    mask = optimizer.weight_decay_mask(found)
    trained, _ = optimizer.split_frozen(found, DEEPER_HEADS)
    assert {name for tower in trained.values() for name in tower} == {"head_hidden", "head"}
    for modality, tower in found.items():
        assert (bias := tower.pop("logit_bias")).shape == () and bias == -3
        hidden = tower.pop("head_hidden")
        assert hidden["kernel"].shape == (32, 32)
        assert hidden["bias"].shape == (32,)
        assert not mask[modality]["logit_bias"]
        assert mask[modality]["head_hidden"] == {"kernel": True, "bias": False}
    jax.tree.map(np.testing.assert_array_equal, found, parameters())


def test_drop_path_needs_training_and_its_key():
    x = {"audio": inputs()["audio"]}
    evaluated = apply(x)[0]["audio"]
    trained = [apply(x, train=True, key=i)[0]["audio"] for i in (0, 0, 1)]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert np.abs(trained[0] - trained[2]).max() > 1e-3
    assert np.abs(trained[0] - evaluated).max() > 1e-3


def test_an_overlapping_convolution_equals_patches_where_it_does_not_overlap():
    config = EncoderConfig((16, 24, 1), patch=(8, 8), **SMALL)
    from imagebind_jax.models.encoder import Stem

    x = jax.random.normal(jax.random.key(0), (2, 16, 24, 1))
    params = Stem(config).init(jax.random.key(1), x)
    by_patches = Stem(config).apply(params, x)
    convolved = jax.lax.conv_general_dilated(
        x, params["params"]["kernel"], (8, 8), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(by_patches, convolved.reshape(2, -1, 32), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: apply({"smell": jnp.zeros((1, 3))}), "no 'smell' encoder"),
        (lambda: apply({"imu": jnp.zeros((1, 41, 6))}), "imu inputs of shape (1, 41, 6)"),
        (lambda: EncoderConfig((8, 8, 1), width=30, depth=1, heads=4, patch=(2, 2)), "30"),
        (lambda: EncoderConfig((8, 8, 1), width=32, depth=1, heads=4), "patch"),
        (lambda: ImageBindConfig(ENCODERS, remat="some"), "'some'"),
    ],
)
def test_mistakes_are_named(make, words):
    with pytest.raises(UserError) as raised:
        make()
    assert words in str(raised.value)


def test_similarity_is_cosine_and_its_softmax_sums_to_one():
    a = jnp.array([[3.0, 0.0], [0.0, 2.0]])
    np.testing.assert_allclose(imagebind.similarity(a, a), jnp.eye(2), atol=1e-6)
    probabilities = imagebind.similarity(a, a, softmax_scale=10.0)
    np.testing.assert_allclose(probabilities.sum(axis=-1), jnp.ones(2), atol=1e-6)
