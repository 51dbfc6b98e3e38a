"""Attention: its forms agree in value and gradient, and each platform gets the form meant for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from imagebind_jax.errors import UserError
from imagebind_jax.models import attention, attention_pallas, layers
from imagebind_jax.models.attention import self_attention

pytestmark = pytest.mark.jax

CASES = [(False, False), (True, False), (False, True), (True, True)]  # causal, a bias
HEADS = 3
NAMES = ["", "causal", "bias", "causal and bias"]


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape))


def inputs(bias, dtype=jnp.float32, batch=2, length=11, heads=HEADS, width=8):
    qkv = normal(0, batch, length, 3 * heads * width) * 1.5
    rows = [normal(i, heads, width) for i in (1, 2)] if bias else []
    return tuple(x.astype(dtype) for x in (qkv, *rows))


def by_hand(qkv, *bias, causal):
    """One query at a time, in float64."""
    qkv, bias = np.asarray(qkv, np.float64), [np.asarray(x, np.float64) for x in bias]
    heads, width = HEADS, qkv.shape[-1] // 3 // HEADS
    batch, length, _ = qkv.shape
    qkv = qkv.reshape(batch, length, 3, heads, width)
    out = np.zeros((batch, length, heads, width))
    for b, token, head in np.ndindex(batch, length, heads):
        seen = slice(token + 1) if causal else slice(None)
        keys, values = (
            np.concatenate([qkv[b, seen, 1 + i, head], *(x[head][None] for x in bias[i : i + 1])])
            for i in range(2)
        )
        power = np.exp(keys @ qkv[b, token, 0, head] / np.sqrt(width))
        out[b, token, head] = power @ values / power.sum()
    return out.reshape(batch, length, -1)


plain = functools.partial(self_attention, heads=HEADS, form="plain")


def shift_of(qkv):
    """What is taken from queries, keys and values, to be added by the form itself."""
    size = 1 if qkv.dtype == jnp.float32 else 0  # in fewer bits the difference would be rounded
    return jnp.linspace(-size, size, qkv.shape[-1], dtype=qkv.dtype)


def kernel(qkv, *bias, causal):
    """Our kernel, run without a TPU."""
    bias, shift = bias or (None, None), shift_of(qkv)
    qkv = qkv - shift[None, None]
    return attention._kernel(qkv, shift, *bias, heads=HEADS, causal=causal, interpret=True)


def kernel_gradients(qkv, shift, *bias, causal, gradient):
    bias = bias or (None, None)
    return attention._kernel_backward(gradient, qkv, shift, *bias, HEADS, causal, interpret=True)


@pytest.mark.parametrize(("causal", "bias"), CASES, ids=NAMES)
@pytest.mark.parametrize("form", [plain, kernel])
def test_a_form_is_the_weighted_mean_of_the_values(form, causal, bias):
    given = inputs(bias)
    np.testing.assert_allclose(
        form(*given, causal=causal), by_hand(*given, causal=causal), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("causal", "bias"), CASES, ids=NAMES)
def test_the_kernel_has_the_gradients_of_the_plain_form(causal, bias):
    qkv, *rows = inputs(bias)
    given = qkv, shift_of(qkv), *rows
    gradient = normal(3, 2, 11, 24)
    run = lambda qkv, shift, *rows: plain(qkv, *rows, shift=shift, causal=causal)  # noqa: E731
    expected = jax.vjp(run, *given)[1](gradient)
    found = kernel_gradients(*given, causal=causal, gradient=gradient)
    assert [x is None for x in found] == [False] * 2 + [not bias] * 2
    for ours, theirs in zip(found, expected):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
        assert jnp.abs(theirs).max() > 0.1


def test_the_kernel_in_bfloat16_is_as_near_to_float32_as_the_plain_form():
    given = inputs(True, jnp.bfloat16)
    exact = by_hand(*given, causal=False)
    errors = [
        np.abs(np.asarray(form(*given, causal=False), np.float64) - exact).max()
        for form in (kernel, plain)
    ]
    assert errors[0] <= max(1.5 * errors[1], 1e-2), errors
    assert kernel(*given, causal=False).dtype == jnp.bfloat16


def test_the_kernel_holds_large_scores():
    qkv, *bias = inputs(True)
    found = kernel(40 * qkv, *bias, causal=False)
    assert jnp.isfinite(found).all()
    np.testing.assert_allclose(found, plain(40 * qkv, *bias), rtol=1e-5, atol=1e-4)


def programs(remat, platform, dtype="bfloat16"):
    """The text of a trunk's gradient per device, as it goes to the compiler of a platform."""
    trunk = layers.TransformerTrunk(depth=2, heads=2, bias_kv=True, dtype=dtype, remat=remat)
    params = jax.eval_shape(trunk.init, jax.random.key(0), jnp.zeros((1, 9, 16)))
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("data")), out_specs=P())
    def gradients(params, x):
        params = jax.tree.map(lambda leaf: jax.lax.pcast(leaf, "data", to="varying"), params)
        loss = lambda params: jnp.sum(trunk.apply(params, x)[:, 0].astype(jnp.float32) ** 2)  # noqa: E731
        return jax.lax.psum(jax.grad(loss)(params), "data")

    traced = jax.jit(gradients).trace(params, jnp.zeros((8, 9, 16)))
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("remat", ["none", "full", "products"])
def test_a_tpu_runs_the_kernel_and_other_platforms_do_not(remat):
    on_tpu, on_cpu = programs(remat, "tpu"), programs(remat, "cpu")
    assert "tpu_custom_call" not in on_cpu
    # Forward and backward; where its output is not kept, forward a second time.
    assert on_tpu.count("@tpu_custom_call") == (3 if remat == "full" else 2)
    assert "1x2x9x10" in on_cpu and "1x2x9x10" not in on_tpu  # scores


def test_float32_is_plain_everywhere():
    assert "tpu_custom_call" not in programs("none", "tpu", "float32")


def test_a_program_of_many_devices_is_plain_outside_shard_map():
    """XLA refuses to split a kernel."""
    given = inputs(False, jnp.bfloat16)
    traced = jax.jit(functools.partial(self_attention, heads=HEADS)).trace(*given)
    assert "tpu_custom_call" not in traced.lower(lowering_platforms=("tpu",)).as_text()


def test_an_unknown_form_is_the_users_mistake():
    with pytest.raises(UserError, match="flash.*plain"):
        self_attention(*inputs(False), heads=HEADS, form="flash")


def test_what_the_kernel_tells_the_compiler_is_above_its_products():
    """Told nothing, a compiler takes a kernel's work for none."""
    cost = []
    qkv = jnp.zeros((4, 257, 3 * 1280), jnp.bfloat16)
    for call, extra in (
        (attention_pallas.attention_forward, ()),
        (attention_pallas.attention_backward, (0,)),
    ):
        more = [jnp.zeros((4, 257, 1280), jnp.bfloat16) for _ in extra]
        call = functools.partial(call, heads=16, causal=False)
        traced = jax.make_jaxpr(call)(qkv, jnp.zeros(3 * 1280, jnp.bfloat16), None, *more)
        (equation,) = (e for e in traced.jaxpr.eqns if e.primitive.name == "pallas_call")
        cost.append(equation.params["cost_estimate"].flops / 4)
    products = 4 * 257**2 * 1280
    assert 2 * products < cost[0] < 10 * products
    assert 2 * products < cost[1] / 2.5 < 10 * products


@pytest.mark.parametrize(("causal", "bias"), CASES, ids=NAMES)
def test_products_are_the_plain_form_with_its_gradients(causal, bias):
    given = inputs(bias)
    gradient = normal(3, 2, 11, 24)
    (found, back), (expected, plain) = (
        jax.vjp(functools.partial(self_attention, heads=HEADS, causal=causal, form=form), *given)
        for form in ("products", "plain")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    for ours, theirs in zip(back(gradient), plain(gradient)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=3e-6)
        assert jnp.abs(theirs).max() > 0.1
    far = self_attention(given[0] * 40, *given[1:], heads=HEADS, causal=causal, form="products")
    assert jnp.isfinite(far).all()  # the highest is taken off before the exponential


@pytest.mark.parametrize(("causal", "bias"), CASES, ids=NAMES)
def test_in_float64_nothing_is_rounded_to_float32(causal, bias):
    """A model in float64 is there to check others by."""
    with jax.enable_x64(True):
        given = inputs(bias, jnp.float64)
        found = self_attention(*given, heads=HEADS, causal=causal)
    np.testing.assert_allclose(found, by_hand(*given, causal=causal), rtol=0, atol=1e-13)
