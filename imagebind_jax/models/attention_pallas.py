"""Attention over short sequences as one kernel for a TPU: the scores never leave the chip.

One turn of the kernel has one row of the batch with all its heads in fast memory, and works
through its heads one by one. Scores are held keys by queries, so that a query's maximum and sum
run down the rows: additions, where sums along a row cross lanes. The backward kernel computes the
probabilities again, from the same inputs.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

_MEMORY = 64 * 2**20  # bytes of fast memory, of 128 MiB on a v5e
_MASKED = -1e30
_PEAK = 2 * 4 * 128 * 128  # FLOPs a cycle of the v5e's four matrix units


def attention_forward(
    qkv: Float[Array, "b l n"],
    shift: Float[Array, "n"],
    bias: Float[Array, "2 d"] | None,
    *,
    heads: int,
    causal: bool,
    interpret: bool = False,
) -> Float[Array, "b l d"]:
    """Attention's output, all heads side by side.

    qkv: queries, keys and values, each [B, L, H * K], side by side; shift is added to them. bias:
    one more key and value for every sequence, which a causal mask never hides. interpret: run
    without a TPU, slowly.
    """
    out = _out_shape(qkv, (*qkv.shape[:2], qkv.shape[-1] // 3))
    inputs = [qkv, shift[None]] if bias is None else [qkv, shift[None], bias]
    kernel = functools.partial(_forward, heads=heads, causal=causal)
    return _call(kernel, inputs, [out], heads, _cycles(13, 60), "attention", interpret)[0]


def attention_backward(
    qkv: Float[Array, "b l n"],
    shift: Float[Array, "n"],
    bias: Float[Array, "2 d"] | None,
    gradient: Float[Array, "b l d"],
    *,
    heads: int,
    causal: bool,
    interpret: bool = False,
) -> tuple[Float[Array, "b l n"], Float[Array, "n"], Float[Array, "2 d"] | None]:
    """The gradients of qkv, shift and bias, from that of the output.

    That of the shift is a sum of the first one: made outside, it would be read again for it.
    """
    outs = [_out_shape(qkv, qkv.shape), _out_shape(qkv, (len(qkv), 1, qkv.shape[-1]), jnp.float32)]
    inputs = [qkv, shift[None], gradient]
    if bias is not None:
        outs.append(_out_shape(qkv, (len(qkv), *bias.shape), jnp.float32))
        inputs.append(bias)
    kernel = functools.partial(_backward, heads=heads, causal=causal)
    made = _call(kernel, inputs, outs, heads, _cycles(27, 120), "attention_back", interpret)
    dshift = made[1].sum((0, 1)).astype(shift.dtype)
    return made[0], dshift, None if bias is None else made[2].sum(0).astype(bias.dtype)


def _forward(qkv, shift, *rest, heads, causal):
    *bias, out = rest
    for columns, query, keys, values in _heads(qkv, shift, bias, heads):
        powers, total = _softmax_numerators(query, keys, causal)
        made = sum(_dot(value, x.astype(query.dtype), 0, 0) for value, x in zip(values, powers))
        out[0, :, columns] = (made / total).T.astype(out.dtype)  # [L, K]


def _backward(qkv, shift, gradient, *rest, heads, causal):
    # The bias comes first where there is one, and its gradient last.
    bias, (dqkv, dshift, *dbias) = (rest[:1], rest[1:]) if len(rest) == 4 else ((), rest)
    width = gradient.shape[-1]
    for columns, query, keys, values in _heads(qkv, shift, bias, heads):
        d = gradient[0, :, columns]  # [L, K]
        powers, total = _softmax_numerators(query, keys, causal)
        probabilities = [x / total for x in powers]  # [S, L], as all until the products
        slopes = [_dot(value, d, 1, 1) for value in values]
        mean = sum((p * s).sum(0, keepdims=True) for p, s in zip(probabilities, slopes))
        scale = query.shape[-1] ** -0.5
        scores = [(p * (s - mean) * scale).astype(d.dtype) for p, s in zip(probabilities, slopes)]
        dquery = sum(_dot(key, ds, 0, 0) for key, ds in zip(keys, scores)).T
        dkeys = [_dot(ds, query, 1, 0) for ds in scores]
        dvalues = [_dot(p.astype(d.dtype), d, 1, 0) for p in probabilities]
        for i, part in enumerate((dquery, dkeys[0], dvalues[0])):
            dqkv[0, :, _shifted_columns(columns, i * width)] = part.astype(dqkv.dtype)
            dshift[0, 0:1, _shifted_columns(columns, i * width)] = part.sum(0, keepdims=True)
        for out in dbias:
            out[0, 0:1, columns] = dkeys[1]
            out[0, 1:2, columns] = dvalues[1]


def _heads(qkv, shift, bias, heads):
    """Of each head: its columns, queries [L, K], keys and values: [L, K], and of a bias [1, K]."""
    width = qkv.shape[-1] // 3
    for head in range(heads):
        columns = slice(head * width // heads, (head + 1) * width // heads)
        query, key, value = (
            qkv[0, :, part] + shift[0:1, part]
            for part in (_shifted_columns(columns, i * width) for i in range(3))
        )
        keys = [key, *(row[0:1, columns] for row in bias)]
        values = [value, *(row[1:2, columns] for row in bias)]
        yield columns, query, keys, values


def _softmax_numerators(query, keys, causal):
    """e to the scores less the largest, [S, L] of each set of keys, and their sums [1, L]."""
    scores = [_dot(key, query, 1, 1) * query.shape[-1] ** -0.5 for key in keys]
    if causal:
        key, token = (jax.lax.broadcasted_iota(jnp.int32, scores[0].shape, i) for i in (0, 1))
        scores[0] = jnp.where(key <= token, scores[0], _MASKED)
    largest = functools.reduce(jnp.maximum, [x.max(0, keepdims=True) for x in scores])
    powers = [jnp.exp(x - largest) for x in scores]
    return powers, sum(x.sum(0, keepdims=True) for x in powers)


def _dot(a, b, i, j):
    """The product over axis i of a and j of b, in float32."""
    axes = (((i,), (j,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)


def _shifted_columns(columns: slice, by: int) -> slice:
    return slice(columns.start + by, columns.stop + by)


def _out_shape(x: jax.Array, shape: tuple[int, ...], dtype: Any = None) -> jax.ShapeDtypeStruct:
    """What a kernel makes: it differs between devices, inside `shard_map`, as x does."""
    varying = jax.typeof(x).manual_axis_type
    return jax.ShapeDtypeStruct(shape, dtype or x.dtype, manual_axis_type=varying)


def _cycles(tile: int, head: int) -> Callable[[int], int]:
    """Cycles that a head takes on a v5e, for a count of tiles of 8 x 128 scores.

    Bounds, a little above the compiler's final schedule (its bundles, and beside them, as if
    never at the same time, what its matrix products occupy the matrix units), for the encoders of
    ImageBind huge.
    """
    return lambda tiles: tile * tiles + head


def _call(kernel, inputs, outs, heads, cycles, name, interpret):
    batch, length = inputs[0].shape[:2]
    tiles = -(-length // 8) * -(-length // 128)
    arrays = [*inputs, *outs]
    # A compiler that is told nothing takes a kernel's work for none. What takes its time is less
    # the products than everything around them, so the work told is its time, as products.
    cost = pl.CostEstimate(
        flops=batch * heads * cycles(tiles) * _PEAK,
        transcendentals=batch * heads * length**2,
        bytes_accessed=sum(x.size * x.dtype.itemsize for x in arrays),
    )
    return pl.pallas_call(
        kernel,
        out_shape=outs,
        grid=(batch,),
        in_specs=[_block(x.shape) for x in inputs],
        out_specs=[_block(x.shape) for x in outs],
        cost_estimate=cost,
        name=name,
        interpret=interpret,
        compiler_params=_compiler_params(),
    )(*inputs)


def _block(shape: tuple[int, ...]) -> pl.BlockSpec:
    """One row of the batch; the whole of what has no batch."""
    if len(shape) == 2:
        return pl.BlockSpec(shape, lambda row: (0, 0))
    return pl.BlockSpec((1, *shape[1:]), lambda row: (row, 0, 0))


def _compiler_params():
    from jax.experimental.pallas import tpu  # slow to import, and only of use to a TPU's compiler

    return tpu.CompilerParams(dimension_semantics=("parallel",), vmem_limit_bytes=_MEMORY)
