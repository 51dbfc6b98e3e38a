"""The gradient of a batch: the same in micro-batches, on any number of devices, with what is dropped."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from imagebind_jax import optimizer
from imagebind_jax.config import TrainConfig
from imagebind_jax.distributed import sharding
from imagebind_jax.distributed.device_view import DeviceView
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig, init
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.training import gradients
from imagebind_jax.training import step as training_step

pytestmark = pytest.mark.jax
ROWS = 32
SMALL = {"width": 16, "depth": 2, "heads": 2}
MODEL = ImageBindConfig(
    {
        "vision": EncoderConfig((8, 4), patch=(2,), drop_path=0.3, **SMALL),
        "imu": EncoderConfig(
            (8, 4), patch=(2,), bias_kv=True, drop_path=0.5, head_dropout=0.5, logit_scale=4.0,
            learn_scale=True, **SMALL,
        ),
    },
    embed_dim=8,
)  # fmt: skip


class Nothing:
    """A source of a config whose batches are made here."""

    def open(self):
        return []


def config(**changes):
    whole = TrainConfig(
        model=MODEL,
        inputs={"vision": np.asarray, "imu": np.asarray},
        pairs=(ModalityPair(("vision", "imu"), Nothing()),),
        steps=10,
        batch_size=ROWS,
    )
    return dataclasses.replace(whole, **changes)


def batch():
    rng = np.random.default_rng(1)
    return {
        "vision": rng.standard_normal((ROWS, 8, 4)).astype(np.float32),
        "imu": rng.standard_normal((ROWS, 8, 4)).astype(np.float32),
        "weight": np.float32([1] * (ROWS - 3) + [0, 1, 1]),
    }


@functools.cache
def params(model=MODEL):
    """On the host: a step's state is donated."""
    return jax.tree.map(np.asarray, init(model, jax.random.key(0)))


def alone(settings, dtype="float32", start=None):
    """{path: gradient} and loss of the whole batch on one device."""
    cast = lambda x: x.astype(dtype) if x.dtype == np.float32 else x  # noqa: E731
    trained, frozen = optimizer.split_frozen(
        jax.tree.map(cast, start or params()), settings.optimizer
    )
    of_pair = functools.partial(gradients.pair_loss_and_grad, config=settings, device=DeviceView())
    loss, _, found = jax.jit(of_pair)(
        trained, frozen, jax.tree.map(cast, batch()), jax.random.key(3)
    )
    return float(loss), traverse_util.flatten_dict(jax.tree.map(np.asarray, found), sep="/")


def assert_close(found, wanted, tolerance):
    assert found[0] == pytest.approx(wanted[0], rel=tolerance)
    assert found[1].keys() == wanted[1].keys()
    off = {path: np.linalg.norm(found[1][path] - g) for path, g in wanted[1].items()}
    norm = np.linalg.norm([np.linalg.norm(g) for g in wanted[1].values()])
    assert np.linalg.norm(list(off.values())) <= tolerance * norm, off


@functools.cache
def whole():
    return alone(config())


@pytest.mark.parametrize("parts", [8])
def test_micro_batches_have_the_gradient_of_the_whole_batch(parts):
    assert_close(alone(config(micro_batches=parts)), whole(), 1e-5)


def test_they_have_it_exactly():
    with jax.enable_x64(True):
        exact = dataclasses.replace(MODEL, dtype="float64")
        wanted = alone(config(model=exact), "float64")
        found = alone(config(model=exact, micro_batches=4), "float64")
    assert wanted[1]["imu/head/kernel"].dtype == np.float64
    assert_close(found, wanted, 1e-12)


def test_what_is_dropped_matters_here():
    quiet = {m: dataclasses.replace(e, drop_path=0.0, head_dropout=0.0)
             for m, e in MODEL.encoders.items()}  # fmt: skip
    loss, _ = alone(config(model=dataclasses.replace(MODEL, encoders=quiet)))
    assert abs(loss - whole()[0]) > 1e-2


def test_what_is_dropped_is_drawn_by_the_seed_of_the_run_and_the_step():
    def over_devices(of_pair):
        def drawn(trained, frozen, batch, key):  # in place of a loss: what dropout draws from
            return jax.random.uniform(key), {}, jax.tree.map(jnp.zeros_like, trained)

        return drawn

    def loss(seed, number):
        settings = config(seed=seed)
        state = training_step.create_state(settings).replace(step=number)
        step = functools.partial(training_step.train_step, over_devices=over_devices)
        return step(state, batch(), config=settings)[1]["loss"]

    both = jax.jit(lambda number: [loss(0, number), loss(1, number)])
    found = [float(each) for number in (0, 1, 0) for each in both(jnp.int32(number))]
    assert found[:2] == found[4:] and len(set(found)) == 4


def over(place, settings, start=None):
    """(compiled, placed): of a batch's gradient by the trained parameters."""
    trained, frozen = optimizer.split_frozen(start or params(), settings.optimizer)

    def step(state, rows, *, over_devices):
        of_pair = over_devices(functools.partial(gradients.pair_loss_and_grad, config=settings))
        loss, _, gradient = of_pair(state, frozen, rows, jax.random.key(3))
        return gradient, {"loss": loss}

    state = place.place(trained)
    return place.compile(step, state), state


@pytest.mark.parametrize(
    ("fsdp", "parts"), [pytest.param(1, 1, marks=pytest.mark.variants), (4, 2), (0, 2)]
)
def test_devices_have_it_too(fsdp, parts, monkeypatch):
    """fsdp 0: replicas under pmap."""
    monkeypatch.setattr(sharding, "MIN_SHARD_ELEMENTS", 64)  # so that a width of 16 is split
    settings = config(micro_batches=parts)
    place = sharding.ShardedStrategy(fsdp) if fsdp else sharding.PmapStrategy()
    step, state = over(place, settings)
    found, values = step(state, place.batch(batch()))
    found = traverse_util.flatten_dict(jax.tree.map(np.asarray, place.gather(found)), sep="/")
    assert_close((float(values["loss"]), found), whole(), 1e-5)


BIASED = dataclasses.replace(
    MODEL,
    encoders={
        modality: dataclasses.replace(encoder, mlp_head=True, logit_bias=bias)
        for (modality, encoder), bias in zip(MODEL.encoders.items(), (-3.0, -0.5))
    },
)


@pytest.mark.parametrize(
    ("objective", "fsdp", "parts"),
    [
        ("sigmoid", 4, 2),
        ("joint", 0, 1),
        pytest.param("sigmoid", 0, 1, marks=pytest.mark.variants),
        pytest.param("regression", 4, 1, marks=pytest.mark.variants),
    ],
)
def test_devices_have_that_of_other_objectives(objective, fsdp, parts, monkeypatch):
    """With a deeper head and a learned bias. fsdp 0: replicas under pmap."""
    monkeypatch.setattr(sharding, "MIN_SHARD_ELEMENTS", 64)
    settings = config(model=BIASED, objective=objective, micro_batches=parts)
    place = sharding.ShardedStrategy(fsdp) if fsdp else sharding.PmapStrategy()
    step, state = over(place, settings, params(BIASED))
    found, values = step(state, place.batch(batch()))
    found = traverse_util.flatten_dict(jax.tree.map(np.asarray, place.gather(found)), sep="/")
    assert_close((float(values["loss"]), found), biased(objective), 1e-5)


@functools.cache
def biased(objective):
    return alone(config(model=BIASED, objective=objective), start=params(BIASED))


def test_the_biases_of_both_towers_are_added_by_the_sigmoid_objective_alone():
    biases = [f"{modality}/logit_bias" for modality in BIASED.encoders]
    for objective in ("regression", "joint"):
        assert [biased(objective)[1][path] for path in biases] == [0, 0]
    loss, gradient = biased("sigmoid")
    assert gradient[biases[0]] == gradient[biases[1]] > 0  # there are far more negatives
    assert np.abs(gradient["imu/head_hidden/kernel"]).max() > 1e-4
    moved = jax.tree.map(np.copy, params(BIASED))
    moved["vision"]["logit_bias"], moved["imu"]["logit_bias"] = np.float32(-4), np.float32(0.5)
    settings = config(model=BIASED, objective="sigmoid")
    assert alone(settings, start=moved)[0] == pytest.approx(loss, rel=1e-6)  # the same sum
    moved["imu"]["logit_bias"] += np.float32(0.01)
    slope = (alone(settings, start=moved)[0] - loss) / 0.01
    assert slope == pytest.approx(gradient[biases[0]], rel=0.02)


def test_a_layer_may_be_frozen_in_part():
    """In half precision too, where attention on a TPU has a gradient of its own."""
    half = dataclasses.replace(MODEL, dtype="bfloat16")
    frozen = OptimizerConfig(frozen=("imu/.*bias", "vision/.*kernel"))
    place = sharding.ShardedStrategy(2)
    step, state = over(place, config(model=half, optimizer=frozen))
    for platform, kernels in (("tpu", True), ("cpu", False)):
        lowered = step.trace(state, place.batch(batch())).lower(lowering_platforms=(platform,))
        assert ("tpu_custom_call" in lowered.as_text()) == kernels


def test_micro_batches_must_divide_what_a_device_has():
    with pytest.raises(UserError, match=r"micro_batches 3 does not divide the 4 rows of each of 8"):
        sharding.check_batch_size(ROWS, 3)


def test_they_take_less_memory():
    def temporaries(parts):
        deep = {m: dataclasses.replace(e, depth=6) for m, e in MODEL.encoders.items()}
        settings = config(
            model=dataclasses.replace(MODEL, encoders=deep), batch_size=256, micro_batches=parts
        )
        trained = jax.eval_shape(lambda: init(settings.model, jax.random.key(0)))
        rows = {m: jnp.zeros((256, 8, 4)) for m in MODEL.encoders} | {"weight": jnp.ones(256)}
        of_pair = functools.partial(
            gradients.pair_loss_and_grad, config=settings, device=DeviceView()
        )
        compiled = jax.jit(of_pair).lower(trained, {}, rows, jax.random.key(0)).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(16) < 0.3 * temporaries(1)  # parameters' gradients are in both


def test_frozen_weights_are_kept_in_the_type_of_products():
    half = dataclasses.replace(MODEL, dtype="bfloat16")
    settings = config(model=half, optimizer=OptimizerConfig(frozen=("vision/",)))
    state = training_step.create_state(settings)
    types = {path: x.dtype for path, x in traverse_util.flatten_dict(state.params, sep="/").items()}
    assert {path for path, dtype in types.items() if dtype == jnp.bfloat16} == {
        path for path in types if path.startswith("vision/") and path.endswith("kernel")
    }
    assert state.opt_state.keys() == {"imu"}
    # The gradient is that of frozen weights in float32, by the bit.
    trained, frozen = optimizer.split_frozen(state.params, settings.optimizer)
    wide = init(half, jax.random.key(settings.seed))["vision"]
    of_pair = functools.partial(gradients.pair_loss_and_grad, config=settings, device=DeviceView())
    run = jax.jit(lambda frozen, rows: of_pair(trained, frozen, rows, jax.random.key(0)))
    found, wanted = run(frozen, batch()), run({"vision": wide}, batch())
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_a_frozen_encoder_may_see_few_rows_at_once():
    frozen = config(optimizer=OptimizerConfig(frozen=("vision/",)))
    assert_close(alone(dataclasses.replace(frozen, frozen_rows=5)), alone(frozen), 1e-5)
    assert [gradients.num_chunks(32, most) for most in (100, 32, 31, 5, 1)] == [1, 1, 2, 8, 32]
