"""Devices: where arrays live by hand, and the same training step on one, on eight, split or copied."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from imagebind_jax.config import TrainConfig
from imagebind_jax.distributed import sharding
from imagebind_jax.distributed.sharding import PmapStrategy, ShardedStrategy, fsdp_spec
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.training import step as training_step

pytestmark = pytest.mark.jax

SMALL = {"width": 32, "depth": 1, "heads": 4}
MODEL = ImageBindConfig(
    {
        "vision": EncoderConfig((8, 4), patch=(2,), bias_kv=True, **SMALL),
        "text": EncoderConfig((6,), vocab_size=64, logit_scale=9.0, learn_scale=True, **SMALL),
        "imu": EncoderConfig((8, 4), patch=(2,), **SMALL),  # in no batch
    },
    embed_dim=16,
)


class Nothing:
    """A source of a config whose batches are made here."""

    def open(self):
        return []


CONFIG = TrainConfig(
    model=MODEL,
    inputs={"vision": np.asarray, "text": np.asarray},
    pairs=(ModalityPair(("vision", "text"), Nothing()),),
    steps=100,
    batch_size=16,
    # A large epsilon: gradients that are zero but for rounding make no step.
    optimizer=OptimizerConfig(
        learning_rate=1e-2, warmup_steps=1, epsilon=1e-3, frozen=("text/embed",)
    ),
)
STEPS = 3


@pytest.mark.parametrize(
    ("shape", "fsdp", "spec"),
    [
        ((1024, 4096), 8, P("fsdp")),  # the first axis
        ((4096, 1023), 8, P("fsdp")),
        ((1001, 3, 512), 8, P(None, None, "fsdp")),  # 8 does not divide 1001
        ((1023, 4096), 8, P(None, "fsdp")),
        ((512, 512), 1, P()),  # nobody to share with
        ((100_000,), 8, P()),  # vectors stay whole
        ((), 8, P()),
        ((127, 128), 8, P()),  # small ones, too
        ((128, 128), 8, P("fsdp")),
        ((1001, 333), 8, P()),  # 8 divides nothing
    ],
)
def test_where_a_parameter_is_split(shape, fsdp, spec):
    assert fsdp_spec(shape, fsdp) == spec
    assert fsdp_spec((8, *shape), fsdp, layers=1) == (P(None, *spec) if spec else P())


@pytest.mark.parametrize(("fsdp", "shape"), [(None, (1, 8)), (1, (8, 1)), (2, (4, 2)), (8, (1, 8))])
def test_the_mesh_holds_all_devices(fsdp, shape):
    mesh = sharding.make_mesh(fsdp)
    assert mesh.devices.shape == shape
    assert mesh.axis_names == ("data", "fsdp")
    assert set(mesh.devices.flat) == set(jax.devices())


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: sharding.make_mesh(3), "fsdp 3 does not divide 8 devices"),
        (lambda: sharding.make_mesh(16), "fsdp 16 does not divide 8 devices"),
        (lambda: sharding.make_mesh(-1), "fsdp -1"),
        (lambda: sharding.make_mesh(0), "fsdp 0"),
        (lambda: sharding.check_batch_size(30), "batch_size 30 is not divisible by 8 devices"),
        (lambda: sharding.make_strategy("split"), "'split': not one of sharded, pmap"),
    ],
)
def test_mistakes_are_named(mistake, words):
    with pytest.raises(UserError) as raised:
        mistake()
    assert words in str(raised.value)


def test_a_batch_size_that_divides_is_fine():
    sharding.check_batch_size(32)


def make_batches():
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        yield {
            "vision": rng.standard_normal((16, 8, 4)).astype(np.float32),
            "text": rng.integers(1, 64, (16, 6)).astype(np.int32),
            "weight": np.float32([1] * 13 + [0, 1, 1]),
        }


def run(place, before=None):
    """(state before, state after on its devices, and on the host, metrics) of a few steps."""
    create = functools.partial(training_step.create_state, CONFIG)
    state = place.create(create) if before is None else place.place(before)
    before = jax.tree.map(np.asarray, place.gather(state))
    step = place.compile(functools.partial(training_step.train_step, config=CONFIG), state)
    metrics = []
    for batch in make_batches():
        state, values = step(state, place.batch(batch))
        metrics.append({name: float(value) for name, value in values.items()})
    return before, state, jax.tree.map(np.asarray, place.gather(state)), metrics


@pytest.fixture(scope="module")
def runs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "MIN_SHARD_ELEMENTS", 64)  # so that a width of 32 is split
        one = run(ShardedStrategy(devices=jax.devices()[:1]))
        yield {
            "one device": one,
            "sharded": run(ShardedStrategy(fsdp=4), one[0]),  # a mesh with two axes
            "replicated": run(PmapStrategy(), one[0]),
        }


MANY = ("sharded", "replicated")


@pytest.mark.parametrize("many", MANY)
def test_a_state_is_placed_bit_for_bit(many, runs):
    jax.tree.map(np.testing.assert_array_equal, runs[many][0], runs["one device"][0])


@pytest.mark.parametrize("many", MANY)
def test_steps_on_many_devices_are_those_on_one(many, runs):
    _, _, wanted, numbers = runs["one device"]
    _, _, found, others = runs[many]
    for a, b in zip(others, numbers):
        assert a == pytest.approx(b, rel=1e-5)  # loss, accuracy, the gradient's norm, the rate
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.params, wanted.params
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found.opt_state, wanted.opt_state
    )
    assert found.step == wanted.step == STEPS


def test_the_steps_did_something(runs):
    before, _, after, metrics = runs["one device"]
    for name in (
        "vision/stem/kernel",
        "vision/head/kernel",
        "text/log_logit_scale",
        "text/position",
    ):
        a, b = (
            functools.reduce(lambda t, k: t[k], name.split("/"), s.params) for s in (before, after)
        )
        assert np.abs(a - b).max() > 1e-4, name
    assert [m["learning_rate"] for m in metrics] == pytest.approx([0, 0.01, 0.01], rel=1e-3)
    assert all(m["gradient_norm"] > 1e-2 for m in metrics)


@pytest.mark.parametrize("many", ("one device", *MANY))
def test_absent_towers_and_frozen_parameters_do_not_move_by_a_bit(many, runs):
    before, _, after, _ = runs[many]
    for part in (
        lambda s: s.params["imu"],
        lambda s: s.opt_state["imu"],
        lambda s: s.params["text"]["embed"],
    ):
        jax.tree.map(np.testing.assert_array_equal, part(after), part(before))


def test_a_state_is_really_split_after_its_steps(runs):
    state = runs["sharded"][1]
    kernel = state.params["vision"]["trunk"]["blocks"]["mlp"]["fc1"]["kernel"]
    moment = state.opt_state["vision"][0].mu["trunk"]["blocks"]["mlp"]["fc1"]["kernel"]
    for leaf in (kernel, moment):
        assert leaf.shape == (1, 32, 128)
        assert {shard.data.shape for shard in leaf.addressable_shards} == {(1, 8, 128)}
    assert len({str(shard.index) for shard in kernel.addressable_shards}) == 4
    held = sum(leaf.addressable_shards[0].data.size for leaf in jax.tree.leaves(state))
    assert held < 0.35 * sum(leaf.size for leaf in jax.tree.leaves(state))


def test_no_device_holds_a_whole_state_from_the_start(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARD_ELEMENTS", 64)
    make = lambda: {"w": jnp.ones((32, 64)), "moment": jnp.ones((64, 3)), "b": jnp.ones(8)}  # noqa: E731
    state = ShardedStrategy().create(make)
    shapes = {name: leaf.addressable_shards[0].data.shape for name, leaf in state.items()}
    assert shapes == {"w": (4, 64), "moment": (8, 3), "b": (8,)}
    placed = ShardedStrategy(fsdp=2).place(state)
    assert {name: leaf.addressable_shards[0].data.shape for name, leaf in placed.items()} == {
        "w": (16, 64), "moment": (32, 3), "b": (8,),
    }  # fmt: skip


def test_a_batch_is_split_by_row_in_order():
    rows = np.arange(32, dtype=np.float32).reshape(16, 2)
    split = ShardedStrategy(fsdp=4).batch({"imu": rows})["imu"]
    np.testing.assert_array_equal(split, rows)
    assert [shard.data[0, 0].item() for shard in split.addressable_shards] == [
        0,
        4,
        8,
        12,
        16,
        20,
        24,
        28,
    ]
    np.testing.assert_array_equal(PmapStrategy().batch({"imu": rows})["imu"].reshape(16, 2), rows)


@pytest.mark.parametrize("split", [False, True])
def test_a_replica_is_what_was_placed(split, monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARD_ELEMENTS", 16)
    state = {"w": jnp.arange(24.0).reshape(8, 3), "step": jnp.int32(4)}
    before = ShardedStrategy().place(state) if split else state  # split, as from a checkpoint
    assert before["w"].is_fully_replicated == (not split)
    place = PmapStrategy()
    copies = place.place(before)
    assert copies["w"].shape == (8, 8, 3)
    assert all((copy == state["w"]).all() for copy in np.asarray(copies["w"]))
    jax.tree.map(np.testing.assert_array_equal, place.gather(copies), state)
