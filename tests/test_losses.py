"""The loss: known values, symmetries, and the same number plain, under pmap and under shard_map."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from imagebind_jax import losses, sharding

DEVICES = 8
ROWS = 4  # a device


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, DEVICES * ROWS, 16)).astype(np.float32)
    return tuple(jnp.asarray(z / np.linalg.norm(z, axis=-1, keepdims=True)) for z in (a, b))


def reference(a, b, scale, weight):
    """Both directions in float64, row by row."""
    a, b, weight = (np.asarray(x, np.float64) for x in (a, b, weight))
    kept = np.flatnonzero(weight)
    total = 0.0
    for q, k in ((a, b), (b, a)):
        for i in kept:
            logits = scale * q[i] @ k[kept].T
            total += weight[i] * (np.log(np.exp(logits).sum()) - scale * q[i] @ k[i])
    return total / weight.sum()


def test_orthogonal_pairs_have_a_loss_known_by_hand():
    z = jnp.eye(4)
    loss = losses.info_nce(z, z, 2.0)
    assert loss == pytest.approx(np.log(np.exp(2) + 3) - 2, abs=1e-6)
    assert losses.info_nce(z, z, 0.0) == pytest.approx(np.log(4), abs=1e-6)  # chance


def test_value_is_the_float64_sum_over_both_directions(pair):
    weight = np.ones(len(pair[0]))
    loss, metrics = losses.pair_loss(*pair, 7.0)
    assert loss == pytest.approx(reference(*pair, 7.0, weight), rel=1e-6)
    assert 0 <= metrics["accuracy"] < 0.5
    assert losses.pair_loss(pair[0], pair[0], 7.0)[1]["accuracy"] == 1


def test_permuting_the_batch_changes_nothing(pair):
    order = np.random.default_rng(1).permutation(len(pair[0]))
    shuffled = losses.pair_loss(pair[0][order], pair[1][order], 5.0)[0]
    np.testing.assert_allclose(shuffled, losses.pair_loss(*pair, 5.0)[0], rtol=1e-6)


def test_a_masked_row_is_neither_positive_nor_negative(pair):
    weight = jnp.ones(len(pair[0])).at[jnp.array([3, 17])].set(0.0)
    loss = losses.pair_loss(*pair, 5.0, weight=weight)[0]
    assert loss == pytest.approx(reference(*pair, 5.0, weight), rel=1e-6)
    grads = jax.grad(lambda a, b: losses.pair_loss(a, b, 5.0, weight=weight)[0], (0, 1))(*pair)
    for grad in grads:
        assert np.isfinite(grad).all()
        assert not np.any(grad[jnp.array([3, 17])])
        assert np.abs(grad[0]).max() > 0
    garbage = pair[0].at[3].set(jnp.nan)
    np.testing.assert_allclose(losses.pair_loss(garbage, pair[1], 5.0, weight=weight)[0], loss)
    assert losses.pair_loss(*pair, 5.0, weight=jnp.zeros_like(weight))[0] == 0


def _plain(a, b, scale, weight):
    return losses.pair_loss(a, b, scale, weight=weight)[0]


def _shard_map(a, b, scale, weight):
    mesh = sharding.make_mesh(fsdp=2)
    rows = P(sharding.BATCH)
    return jax.shard_map(
        lambda a, b, scale, weight: losses.pair_loss(
            a, b, scale, weight=weight, axis_name=sharding.BATCH
        )[0],
        mesh=mesh,
        in_specs=(rows, rows, P(), rows),
        out_specs=P(),
    )(a, b, scale, weight)


def _pmap_gradient(a, b, scale, weight):
    def split(x):
        return x.reshape(DEVICES, ROWS, *x.shape[1:])

    def per_device(a, b, scale, weight):
        value, grads = jax.value_and_grad(
            lambda a, b, scale: losses.pair_loss(a, b, scale, weight=weight, axis_name="i")[0],
            (0, 1, 2),
        )(a, b, scale)
        # Each device's loss is the global one, so gradients come out DEVICES times as large;
        # rows belong to one device (divide), the scale to all (mean over devices).
        return value, (grads[0] / DEVICES, grads[1] / DEVICES, jax.lax.pmean(grads[2], "i"))

    run = jax.pmap(per_device, axis_name="i", in_axes=(0, 0, None, 0))
    value, (da, db, ds) = run(split(a), split(b), scale, split(weight))
    assert np.ptp(value) == 0  # the same on every device
    return value[0], (da.reshape(a.shape), db.reshape(b.shape), ds[0])


@pytest.mark.parametrize("masked", [False, True])
def test_plain_pmap_and_shard_map_agree_in_value_and_gradient(pair, masked):
    assert jax.device_count() == DEVICES
    weight = jnp.ones(len(pair[0]))
    if masked:
        weight = weight.at[jnp.array([0, 9, 10])].set(0.0)
    scale = jnp.float32(8.0)
    wanted, grads = jax.value_and_grad(_plain, (0, 1, 2))(*pair, scale, weight)
    sharded = jax.jit(jax.value_and_grad(_shard_map, (0, 1, 2)))(*pair, scale, weight)
    for value, found in (sharded, _pmap_gradient(*pair, scale, weight)):
        np.testing.assert_allclose(value, wanted, rtol=1e-6)
        for a, b in zip(found, grads):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
