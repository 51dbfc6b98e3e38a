"""The loss: known values, symmetries, and the same number in every form, plain, under pmap and under shard_map."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from imagebind_jax.distributed import sharding
from imagebind_jax.errors import UserError
from imagebind_jax.losses import contrastive

DEVICES = 8
ROWS = 4  # a device
ALL = DEVICES * ROWS
CHUNK = {"gathered": None, "chunked": ALL // 2, "ring": ROWS // 2}  # two pieces each
ON_ONE = {"gathered": None, "chunked": 8}

pytestmark = pytest.mark.jax


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, ALL, 16))
    return tuple(z / np.linalg.norm(z, axis=-1, keepdims=True) for z in (a, b))


@pytest.fixture
def float32(pair):
    return tuple(jnp.asarray(z, jnp.float32) for z in pair)


def weights(masked):
    weight = np.ones(ALL)
    if masked:
        weight[[0, 9, 10]], weight[20] = 0.0, 0.25
    return weight


def reference(a, b, scale, weight):
    """Value and gradient by a, b and scale, of both directions, in numpy's float64."""
    cosines, kept = a @ b.T, weight > 0
    logits = np.where(kept[:, None] & kept[None, :], scale * cosines, -np.inf)[kept][:, kept]
    share = np.diag(weight[kept] / weight.sum())
    by_row = np.exp(logits - logits.max(1, keepdims=True))
    by_column = np.exp(logits - logits.max(0))
    by_row, by_column = by_row / by_row.sum(1, keepdims=True), by_column / by_column.sum(0)
    totals = 2 * np.diag(logits) - np.log(np.diag(by_row)) - np.log(np.diag(by_column))
    value = np.diag(share) @ (totals - 2 * np.diag(logits))
    d_logits = np.zeros_like(cosines)
    d_logits[np.ix_(kept, kept)] = share @ by_row + by_column @ share - 2 * share
    d_scale = (d_logits * cosines).sum()
    return value, (scale * d_logits @ b, scale * d_logits.T @ a, d_scale)


def test_orthogonal_pairs_have_a_loss_known_by_hand():
    z = jnp.eye(4)
    info_nce = jax.jit(contrastive.info_nce)
    loss = info_nce(z, z, 2.0)
    assert loss == pytest.approx(np.log(np.exp(2) + 3) - 2, abs=1e-6)
    assert info_nce(z, z, 0.0) == pytest.approx(np.log(4), abs=1e-6)  # chance
    for form in ON_ONE:
        assert jax.jit(functools.partial(contrastive.symmetric_info_nce, form=form))(z, z, 2.0)[
            0
        ] == pytest.approx(2 * float(loss), abs=1e-6)


@pytest.mark.parametrize("form", ON_ONE)
def test_permuting_the_batch_changes_nothing(float32, form):
    order = np.random.default_rng(1).permutation(ALL)
    loss = jax.jit(
        lambda a, b: contrastive.symmetric_info_nce(a, b, 5.0, form=form, chunk=ON_ONE[form])
    )
    (one, metrics), (two, other) = loss(*float32), loss(*(z[order] for z in float32))
    np.testing.assert_allclose(one, two, rtol=1e-6)
    assert metrics == other


@pytest.mark.parametrize("form", ON_ONE)
def test_a_masked_row_may_hold_anything(float32, form):
    weight = jnp.ones(ALL).at[jnp.array([3, 17])].set(0.0)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def run(a, b, scale, weight):
        return contrastive.symmetric_info_nce(
            a, b, scale, weight=weight, form=form, chunk=ON_ONE[form]
        )[0]

    a, b = float32
    value, grads = run(a, b, jnp.float32(5.0), weight)
    garbage = run(a.at[3].set(jnp.nan), b.at[17].set(jnp.inf), jnp.float32(5.0), weight)
    np.testing.assert_array_equal(garbage[0], value)
    for grad, other in zip(grads, garbage[1]):
        np.testing.assert_array_equal(other, grad)
        assert np.isfinite(grad).all()
        assert np.abs(grad).max() > 0
    assert not np.any(grads[0][jnp.array([3, 17])])
    value, grads = run(a, b, jnp.float32(5.0), jnp.zeros(ALL))
    assert value == 0
    assert not any(np.any(grad) for grad in grads)


# ---- what wins


@pytest.mark.parametrize("form", ON_ONE)
def test_a_model_that_collapsed_is_never_right(float32, form):
    @jax.jit
    def accuracy(a, b, weight=None):
        _, metrics = contrastive.symmetric_info_nce(
            a, b, 7.0, weight=weight, form=form, chunk=ON_ONE[form]
        )
        return metrics["accuracy"]

    a, b = float32
    assert accuracy(a, a) == 1
    assert 0 <= accuracy(a, b) < 0.5
    point = jnp.eye(16)[jnp.zeros(ALL, int)]
    assert accuracy(point, point) == 0
    twins = jnp.eye(ALL)[jnp.arange(ALL).at[5].set(6)]  # rows 5 and 6 cannot be told apart
    assert accuracy(twins, twins) == pytest.approx(1 - 2 / ALL)
    assert accuracy(twins, twins, weight=jnp.ones(ALL).at[5].set(0)) == 1


# ---- every form, however it is run


def plain(a, b, scale, weight, form, pair_loss=contrastive.symmetric_info_nce):
    chunk = ON_ONE.get(form)
    run = jax.value_and_grad(
        lambda *args: pair_loss(*args, weight=weight, form=form, chunk=chunk),
        (0, 1, 2),
        True,
    )
    return jax.jit(run)(a, b, scale)


def sharded(a, b, scale, weight, form, pair_loss=contrastive.symmetric_info_nce, *, inside):
    """The gradient of the sharded loss, or the sharded gradient of the loss."""
    rows = P(sharding.BATCH_AXES)

    def loss(a, b, scale, weight):
        return pair_loss(
            a, b, scale, weight=weight, axis_name=sharding.BATCH_AXES, form=form, chunk=CHUNK[form]
        )

    gradient = functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    run = jax.shard_map(
        gradient(loss) if inside else loss,
        mesh=sharding.make_mesh(fsdp=2),
        in_specs=(rows, rows, P(), rows),
        out_specs=((P(), P()), (rows, rows, P())) if inside else P(),
    )
    return jax.jit(run if inside else gradient(run))(a, b, scale, weight)


def pmapped(a, b, scale, weight, form, pair_loss=contrastive.symmetric_info_nce):
    def per_device(a, b, scale, weight):
        value, grads = jax.value_and_grad(
            lambda *args: pair_loss(
                *args, weight=weight, axis_name="i", form=form, chunk=CHUNK[form]
            ),
            (0, 1, 2),
            True,
        )(a, b, scale)
        # Each device's loss is the global one, so gradients come out DEVICES times as large;
        # rows belong to one device (divide), the scale to all (mean over devices).
        return value, (grads[0] / DEVICES, grads[1] / DEVICES, jax.lax.pmean(grads[2], "i"))

    split = [x.reshape(DEVICES, ROWS, *x.shape[1:]) for x in (a, b, weight)]
    run = jax.pmap(per_device, axis_name="i", in_axes=(0, 0, None, 0))
    value, (da, db, ds) = run(split[0], split[1], scale, split[2])
    assert np.ptp(value[0]) == 0  # the same on every device
    value = jax.tree.map(lambda x: x[0], value)
    return value, (da.reshape(a.shape), db.reshape(b.shape), ds[0])


RUNS = {
    "plain": plain,
    "shard_map": functools.partial(sharded, inside=False),
    "inside shard_map": functools.partial(sharded, inside=True),
    "pmap": pmapped,
}


@pytest.mark.parametrize(
    "how, masked", [*((how, True) for how in RUNS), ("inside shard_map", False)]
)
@pytest.mark.parametrize("form", contrastive.LOSS_IMPLEMENTATIONS)
def test_value_and_gradient_are_the_reference_to_twelve_digits(pair, form, how, masked):
    assert jax.device_count() == DEVICES
    weight = weights(masked)
    with jax.enable_x64(True):
        arguments = [jnp.asarray(x) for x in (*pair, 8.0, weight)]
        (value, metrics), grads = RUNS[how](*arguments, form)
        wanted, wanted_grads = reference(*pair, 8.0, weight)
        assert value.dtype == grads[0].dtype == np.float64
        np.testing.assert_allclose(value, wanted, rtol=1e-12)
        for found, known in zip(grads, wanted_grads):
            np.testing.assert_allclose(found, known, rtol=0, atol=1e-12)
        assert metrics["accuracy"] == pytest.approx(right(*pair, weight))


def right(a, b, weight):
    """The weighted share of rows, of both directions, whose positive is the nearest that counts."""
    both = [np.where(weight > 0, cosines, -np.inf) for cosines in (a @ b.T, b @ a.T)]
    return np.mean([np.average(x.argmax(1) == np.arange(ALL), weights=weight) for x in both])


@pytest.mark.parametrize("form", contrastive.LOSS_IMPLEMENTATIONS)
def test_no_scale_is_too_large(form):
    """Where powers relative to the largest possible logit are all 0 in float32."""
    rng = np.random.default_rng(2)
    near = lambda point: point + 0.03 * rng.standard_normal((ALL, 16))  # noqa: E731
    a, b = near(np.eye(16)[0]), near(-np.eye(16)[0])
    b[7] = -b[7]  # only here is the bound reached
    a, b = ((z / np.linalg.norm(z, axis=-1, keepdims=True)).astype(np.float32) for z in (a, b))
    assert np.exp(np.float32(300 * (a @ b[0]).max() - 300 + 70)) == 0
    wanted, wanted_grads = reference(*(z.astype(np.float64) for z in (a, b)), 300.0, weights(True))
    arguments = [jnp.asarray(x, jnp.float32) for x in (a, b, 300.0, weights(True))]
    (value, _), grads = RUNS["inside shard_map"](*arguments, form)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    for found, known in zip(grads, wanted_grads):
        np.testing.assert_allclose(found, known, rtol=0, atol=1e-4 * np.abs(known).max())


@pytest.mark.parametrize("form", contrastive.LOSS_IMPLEMENTATIONS)
def test_half_precision_comes_and_goes_but_the_loss_is_float32(float32, form):
    a, b = (z.astype(jnp.bfloat16) for z in float32)
    weight = jnp.asarray(weights(True), jnp.float32)
    (value, _), grads = RUNS["inside shard_map"](a, b, jnp.float32(8.0), weight, form)
    assert value.dtype == jnp.float32
    assert grads[0].dtype == grads[1].dtype == jnp.bfloat16
    rounded = (np.asarray(z, np.float64) for z in (a, b))
    wanted, (da, db, _) = reference(*rounded, 8.0, weights(True))
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    for found, known in zip(grads, (da, db)):
        np.testing.assert_allclose(found.astype(float), known, atol=0.01 * np.abs(known).max())


# ---- other objectives


def with_bias(name):
    """The objective whose bias is half of the scale less 7, so that one gradient is of both."""

    def pair_loss(a, b, scale, **how):
        return contrastive.training_loss(name, a, b, scale, 0.5 * scale - 7, **how)

    return pair_loss


def by_hand(name, a, b, scale, weight):
    """Value and gradient by a, b and scale, as of `with_bias`, in numpy's float64."""
    share = weight / weight.sum()
    if name == "joint":
        (one, of_one), (two, of_two) = (
            reference(a, b, scale, weight),
            by_hand("regression", a, b, scale, weight),
        )
        return one + two, tuple(x + y for x, y in zip(of_one, of_two))
    if name == "regression":
        d_a = 2 * share[:, None] * (a - b)
        return share @ ((a - b) ** 2).sum(1), (d_a, -d_a, 0.0)
    total, d_logits = 0.0, np.zeros((ALL, ALL))
    for i in range(ALL):
        for j in range(ALL):
            if weight[i] > 0 and weight[j] > 0:
                y = 1 if i == j else -1
                logit = scale * (a[i] @ b[j]) + 0.5 * scale - 7
                total += share[i] * np.log1p(np.exp(-y * logit))
                d_logits[i, j] = -y * share[i] / (1 + np.exp(y * logit))
    d_scale = (d_logits * (a @ b.T + 0.5)).sum()
    return total, (scale * d_logits @ b, scale * d_logits.T @ a, d_scale)


@pytest.mark.parametrize("how", RUNS)
@pytest.mark.parametrize("name", ["sigmoid", "regression", "joint"])
def test_every_objective_is_the_reference_to_twelve_digits(pair, name, how):
    weight = weights(True)
    with jax.enable_x64(True):
        arguments = [jnp.asarray(x) for x in (*pair, 8.0, weight)]
        (value, metrics), grads = RUNS[how](*arguments, "gathered", with_bias(name))
        wanted, wanted_grads = by_hand(name, *pair, 8.0, weight)
        np.testing.assert_allclose(value, wanted, rtol=1e-12)
        for found, known in zip(grads, wanted_grads):
            np.testing.assert_allclose(found, known, rtol=0, atol=1e-12)
        assert metrics["accuracy"] == pytest.approx(right(*pair, weight))


def test_orthogonal_pairs_have_objectives_known_by_hand():
    z, other = jnp.eye(2), jnp.eye(2)[::-1]
    objective = jax.jit(contrastive.training_loss, static_argnums=0)
    value = lambda *arguments: float(objective(*arguments)[0])  # noqa: E731
    assert value("sigmoid", z, z, 0.0) == pytest.approx(2 * np.log(2), abs=1e-6)  # of two keys
    told = np.log1p(np.exp(-3)) + np.log1p(np.exp(-1))  # its own at 4 - 1, the other at 0 - 1
    assert value("sigmoid", z, z, 4.0, -1.0) == pytest.approx(told, abs=1e-6)
    missed = np.log1p(np.exp(1)) + np.log1p(np.exp(3))
    assert value("sigmoid", z, other, 4.0, -1.0) == pytest.approx(missed, abs=1e-6)
    assert value("regression", z, z, 4.0) == 0
    assert value("regression", z, other, 4.0) == 2
    assert value("regression", z, -z, 4.0) == 4
    info_nce = 2 * np.log1p(np.exp(4))
    assert value("info_nce", z, other, 4.0) == pytest.approx(info_nce, abs=1e-6)
    assert value("joint", z, other, 4.0) == pytest.approx(info_nce + 2, abs=1e-6)
    with pytest.raises(UserError, match="objective 'siglip': not one of info_nce, sigmoid"):
        contrastive.training_loss("siglip", z, z, 1.0)


@pytest.mark.parametrize("name", contrastive.OBJECTIVES)
def test_a_masked_row_may_hold_anything_in_any_objective(float32, name):
    weight = jnp.ones(ALL).at[jnp.array([3, 17])].set(0.0)

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2))
    def run(a, b, scale, weight):
        return with_bias(name)(a, b, scale, weight=weight)[0]

    a, b = float32
    value, grads = run(a, b, jnp.float32(5.0), weight)
    garbage = run(a.at[3].set(jnp.nan), b.at[17].set(jnp.inf), jnp.float32(5.0), weight)
    jax.tree.map(np.testing.assert_array_equal, garbage, (value, grads))
    assert all(np.isfinite(grad).all() for grad in grads)
    # As if they had never been there.
    left = np.delete(np.arange(ALL), [3, 17])
    without = run(a[left], b[left], jnp.float32(5.0), jnp.ones(len(left)))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
        without,
        (value, (grads[0][left], grads[1][left], grads[2])),
    )
    assert run(a, b, jnp.float32(5.0), jnp.zeros(ALL))[0] == 0


# ---- what it costs


def arrays(jaxpr):
    """Shapes of everything that a program makes, in its loops and branches too."""
    for equation in jaxpr.eqns:
        yield from (out.aval.shape for out in equation.outvars)
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from arrays(inner)


@pytest.mark.parametrize("form, holds", [("gathered", True), ("chunked", False), ("ring", False)])
def test_streamed_forms_hold_neither_all_logits_nor_all_keys(pair, form, holds):
    width = pair[0].shape[-1]
    run = functools.partial(RUNS["inside shard_map"], form=form)
    shapes = set(arrays(jax.make_jaxpr(run)(*pair, 8.0, weights(True)).jaxpr))
    whole = (ALL, width)  # outside of shard_map, the global arrays
    inside = {shape for shape in shapes if shape != whole} if not holds else shapes
    assert max(map(np.prod, inside)) >= ROWS * width  # it does see the loops' insides
    assert ((ROWS, ALL) in shapes) == holds
    assert holds or max(np.prod(shape) for shape in inside) < ALL * width


def test_auto_is_by_size_and_a_name_is_itself():
    for form in contrastive.LOSS_IMPLEMENTATIONS:
        assert contrastive.choose_implementation(form, 1, 8) == form
    assert contrastive.choose_implementation("auto", 64, 64) == "gathered"
    assert contrastive.choose_implementation("auto", 128, 2_048) == "gathered"
    assert contrastive.choose_implementation("auto", 128, 32_768) == "chunked"
    assert contrastive.choose_implementation("auto", 4_096, 1_048_576) == "ring"
    assert (
        contrastive.choose_implementation("auto", 1_048_576, 1_048_576) == "chunked"
    )  # nobody to pass on to
    with pytest.raises(UserError, match="loss form 'rings': not one of gathered, chunked, ring"):
        contrastive.symmetric_info_nce(jnp.eye(2), jnp.eye(2), 1.0, form="rings")
