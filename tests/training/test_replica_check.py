"""Replicas: one flipped bit on one device is found, with its leaf, its device and its host."""

import functools
import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_initialize import free_port

from imagebind_jax.checkpointing.digest import flatten_with_paths
from imagebind_jax.config import TrainConfig
from imagebind_jax.distributed import sharding
from imagebind_jax.distributed.sharding import PmapStrategy, ShardedStrategy
from imagebind_jax.errors import FatalRunError
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.runtime import fault_injection
from imagebind_jax.training import injected_faults, replica_check
from imagebind_jax.training import step as training_step

pytestmark = pytest.mark.jax
PLACES = {"sharded": lambda: ShardedStrategy(2), "pmap": PmapStrategy}
HOSTS, DEVICES = 2, 2  # of each host
EVERY, AT = 5, 7  # steps between comparisons, and the one before which a bit flips


@pytest.fixture(autouse=True)
def small_splits(monkeypatch):
    monkeypatch.setattr(sharding, "MIN_SHARD_ELEMENTS", 64)


def make_state():
    """A state's kinds of leaves: split and whole, of several types, stacked layers and numbers."""
    rng = np.random.default_rng(0)
    layers = {"kernel": jnp.float32(rng.standard_normal((3, 16, 8)))}
    return {
        "params": {
            "vision": {
                "trunk": {"blocks": layers},
                "head": jnp.bfloat16(rng.standard_normal((32, 8))),
                "bias": jnp.float32(rng.standard_normal(8)),
                "log_logit_scale": jnp.float32(2.5),
            }
        },
        "opt_state": {"count": jnp.int32(3), "nu": jnp.zeros((32, 8))},
        "step": jnp.int32(7),
    }


def flipped(state, path, bit, which):
    """One bit of one leaf, on one of this host's devices."""
    leaves, tree = jax.tree.flatten(state)
    at = [*flatten_with_paths(state)].index(path)
    leaves[at] = injected_faults.flip_bit(leaves[at], bit, which)
    return jax.tree.unflatten(tree, leaves)


@pytest.mark.goal("G28")
@pytest.mark.parametrize("name", PLACES)
def test_any_flipped_bit_is_named_with_its_leaf_and_device(name, measured):
    place = PLACES[name]()
    state = place.place(make_state())
    comparison = replica_check.ReplicaCheck(place, state)
    assert comparison.find(state) is None
    rng = np.random.default_rng(1)
    trials = [(path, which) for path in flatten_with_paths(state) for which in range(8)]
    for path, which in trials:
        bits = 8 * flatten_with_paths(state)[path].addressable_shards[0].data.nbytes
        broken = flipped(state, path, int(rng.integers(bits)), which)
        assert comparison.find(broken) == (
            f"the replica of {path} on host 0, device {which} differs from the others"
        ), path
    assert comparison.find(state) is None
    measured(f"{name}: {len(trials)} of {len(trials)} flipped bits named with leaf and device")


def test_several_are_named_as_far_as_it_can_be_known():
    place = ShardedStrategy(4)  # of each part of a split leaf two devices hold it
    state = place.place(make_state())
    comparison = replica_check.ReplicaCheck(place, state)
    head, bias = "params/vision/head", "params/vision/bias"
    assert comparison.find(flipped(state, head, 3, 5)) == (
        f"the replicas of {head} on host 0, device 1 and host 0, device 5 differ"
    ), "one of them is wrong"
    both = flipped(flipped(state, bias, 3, 5), bias, 3, 6)
    assert comparison.find(flipped(both, "step", 0, 6)) == (
        f"the replicas of {bias} (and of 1 more leaves) on host 0, device 5 and host 0, device 6 "
        "differ"
    )


def test_a_leaf_without_replicas_is_not_looked_at():
    state = make_state()
    split = {"params/vision/trunk/blocks/kernel", "params/vision/head", "opt_state/nu"}
    assert {*replica_check.ReplicaCheck(ShardedStrategy(), state).names} == {
        *flatten_with_paths(state)
    } - split
    assert {*replica_check.ReplicaCheck(ShardedStrategy(2), state).names} == {
        *flatten_with_paths(state)
    }
    alone = replica_check.ReplicaCheck(ShardedStrategy(devices=jax.devices()[:1]), state)
    assert not alone.names
    assert alone.find(state) is None


@pytest.mark.goal("G28")
@pytest.mark.parametrize("name", PLACES)
def test_a_bit_that_flips_in_a_run_is_found_within_k_steps(name, measured):
    place = PLACES[name]()
    state = place.place(make_state())
    comparison = replica_check.ReplicaCheck(place, state)
    [fault] = [fault_injection.InjectedFault("bitflip", step=AT)]

    def step(state, batch, *, over_devices):
        """Every leaf moves, as by momentum and decay."""
        moved = jax.tree.map(lambda x: x + (x / 8).astype(x.dtype), state)
        return moved, {"loss": jnp.mean(batch["x"])}

    run = place.compile(step, state)
    batch = place.batch({"x": np.ones((8, 1), np.float32)})
    with pytest.raises(FatalRunError) as raised:
        for number in range(4 * EVERY):
            if fault.at(number):
                state = injected_faults.inject_bit_flip(state, fault)
            if number and number % EVERY == 0:
                comparison.check(state, number)
            state, _ = run(state, batch)
    assert number == 2 * EVERY
    assert str(raised.value) == (
        "before step 10, the replica of params/vision/bias on host 0, device 7 differs from the "
        "others"
    )
    measured(f"{name}: flipped at step {AT}, named at {number}, of K = {EVERY}")


class Nothing:
    """A source of a config whose batches are made here."""

    def open(self):
        return []


@pytest.mark.soak
@pytest.mark.goal("G28")
def test_a_comparison_takes_less_than_a_step(full_compilation, measured):
    """Of a model whose parameters are whole on every device, and few rows: all that is against it."""
    encoder = EncoderConfig((32, 32, 1), patch=(4, 4), width=192, depth=4, heads=4)
    config = TrainConfig(
        model=ImageBindConfig({"vision": encoder, "audio": encoder}, embed_dim=64),
        inputs={"vision": np.asarray, "audio": np.asarray},
        pairs=(ModalityPair(("vision", "audio"), Nothing()),),
        steps=10,
        batch_size=32,
        optimizer=OptimizerConfig(frozen=("vision/",)),
    )
    place = ShardedStrategy(1)
    state = place.create(functools.partial(training_step.create_state, config))
    comparison = replica_check.ReplicaCheck(place, state)
    assert len(comparison.names) == len(jax.tree.leaves(state))
    step = place.compile(functools.partial(training_step.train_step, config=config), state)
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 32, 1), dtype=np.float32)
    batch = place.batch({"vision": x[0], "audio": x[1], "weight": np.ones(32, np.float32)})
    steps, looks = [], []
    for _ in range(4):
        begun = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        steps.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        assert comparison.find(state) is None
        looks.append(time.perf_counter() - begun)
    share = min(looks[1:]) / min(steps[1:])
    assert share < 1, "more than 1 % of the time at one comparison in 100 steps"
    measured(f"a comparison takes {share:.2f} of a step, {share:.2f} % of the time at K = 100")


def flip_as_a_host(arguments):
    """For `zygote`: what each process of the next test runs."""
    coordinator, host = arguments
    sharding.MIN_SHARD_ELEMENTS = 64
    jax.distributed.initialize(coordinator, HOSTS, int(host))
    place = ShardedStrategy(2)
    state = place.place(make_state())
    comparison = replica_check.ReplicaCheck(place, state)
    broken = injected_faults.inject_bit_flip(
        state, fault_injection.InjectedFault("bitflip", host=1)
    )
    for each in (state, broken):
        print("found", comparison.find(each))


@pytest.mark.processes
@pytest.mark.goal("G28")
def test_all_hosts_know_which_host_it_is(zygote, measured):
    coordinator = f"127.0.0.1:{free_port()}"
    running = [
        zygote.start([coordinator, host], devices=DEVICES, call="test_replica_check:flip_as_a_host")
        for host in range(HOSTS)
    ]
    assert [each.wait() for each in running] == [0] * HOSTS, [each.err for each in running]
    texts = [each.out for each in running]
    said = [re.findall("^found (.*)$", text, re.M) for text in texts]
    for before, after in said:
        assert before == "None"
        assert re.fullmatch(
            r"the replica of params/vision/bias on host 1, device \d+ differs from the others",
            after,
        )
    assert said[0] == said[1]
    measured(f"{HOSTS} hosts: both say, {said[0][1]}")
