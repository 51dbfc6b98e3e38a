"""Both directions of the contrastive loss without their matrices of logits, from the view of one device.

Logits exist for one piece of the keys at a time: the forward pass keeps a log-sum-exp of each row
and of each column, the backward pass makes them again. That is four matrix products, where plain
differentiation of both directions takes six. Pieces come in one of two ways: gathered, some rows
of every device ("chunked"), or passed on from device to device, each with its sums ("ring").
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float

from imagebind_jax.distributed.device_view import AxisName

# Pieces as they compile best for TPU v5e (`benchmarks/losses.py`): so many keys, where the logits
# are no more than this (16 MB), but of each device no fewer rows than this, as smaller shares are
# not gathered but summed over all devices, which sends twice as much.
CHUNK_KEYS, MAX_CHUNK_LOGITS, MIN_ROWS_PER_DEVICE = 8192, 2**22, 32

# No power is larger than e^this: 2**24 of them sum up to less than float32's largest, e^88 ...
_HEADROOM = 70.0
# ... and a sum above e^this is exact: a power that float32 loses, below e^-87, is not seen in it.
_SURE = -60.0


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def streamed_row_losses(
    query: Float[Array, "b e"],
    key: Float[Array, "b e"],
    live: Bool[Array, "b"] | None,
    axis_name: AxisName | None,
    ring: bool,
    chunk: int | None,
):
    """(losses, whether the positive wins) of each row among all keys, and of each key among all rows.

    Both are pairs of [b]: of this device's queries, and of its keys. query: times the scale.
    live: rows that count, for None all; the others must be zero vectors. chunk: keys of a piece.
    """
    return _forward(query, key, live, axis_name, ring, chunk)[0]


def _forward(query, key, live, axis_name, ring, chunk):
    walk = _ring_forward if ring else _gathered_forward
    by_query, by_key, positive = walk(query, key, live, axis_name, chunk)
    margins = tuple(others - positive for others, _ in (by_query, by_key))
    losses = tuple(jax.nn.softplus(margin) for margin in margins)
    won = tuple(positive > best for _, best in (by_query, by_key))
    return (losses, won), (query, key, positive, margins)


def _backward(axis_name, ring, chunk, kept, cotangents):
    query, key, positive, margins = kept
    g, _ = cotangents
    totals = tuple(jax.nn.softplus(margin) + positive for margin in margins)
    # By the positive's logit; not softmax - 1, which loses what is small.
    pull = -sum(g * jax.nn.sigmoid(margin) for g, margin in zip(g, margins))
    walk = _ring_backward if ring else _gathered_backward
    d_query, d_key = walk(query, (totals[0], g[0], pull), (key, totals[1], g[1]), axis_name, chunk)
    return d_query, d_key.astype(key.dtype), None


streamed_row_losses.defvjp(_forward, _backward)


# ---- gathered, a piece at a time


def _gathered_forward(query, key, live, axis_name, chunk):
    devices, own, ids = _gathered_pieces(len(query), axis_name, chunk)
    ceiling = _ceiling(query, key, axis_name)
    by_query, by_key, positive = _statistics(query, own, live, (key, live), ids, ceiling, axis_name)

    def home(x):  # of everybody's keys by this device's rows -> of its own keys by everybody's
        x = rearrange(x, "piece (device row) -> device (piece row)", device=devices)
        return x if axis_name is None else jax.lax.all_to_all(x, axis_name, 0, 0, tiled=True)

    return by_query, _merge(jax.tree.map(home, by_key)), positive


def _gathered_backward(query, of_query, guest, axis_name, chunk):
    _, own, ids = _gathered_pieces(len(query), axis_name, chunk)
    return _gradients(jnp.zeros_like(query), query, own, of_query, guest, ids, axis_name)


def _gathered_pieces(rows, axis_name, chunk):
    """(devices, global numbers of this device's rows [b], and of each piece's keys [pieces, keys])."""
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    first = 0 if axis_name is None else rows * jax.lax.axis_index(axis_name)
    chunk = chunk or max(min(CHUNK_KEYS, MAX_CHUNK_LOGITS // rows), MIN_ROWS_PER_DEVICE * devices)
    local = split_chunks(jnp.arange(rows), num_chunks(rows, chunk // devices))
    ids = rows * jnp.arange(devices)[None, :, None] + local[:, None, :]
    return (
        devices,
        first + jnp.arange(rows),
        rearrange(ids, "piece device row -> piece (device row)"),
    )


# ---- passed on


def _ring_forward(query, key, live, axis_name, chunk):
    own, ids = _ring_pieces(len(query), chunk)
    ceiling = _ceiling(query, key, axis_name)

    def visit(carry, turn):
        guest, (others, best) = carry
        after = _pass_on(guest, axis_name)  # which may travel while this one is looked at
        by_query, by_key, positive = _statistics(
            query, own, live, guest, _if_home(ids, turn), ceiling, None
        )
        more, better = (x.reshape(-1) for x in by_key)
        by_key = jnp.logaddexp(others, more), jnp.maximum(best, better)
        return (after, _pass_on(by_key, axis_name)), (by_query, positive)

    nothing = jnp.full_like(query[:, 0], -jnp.inf)
    start = (key, live), (nothing, nothing)
    turns = jnp.arange(jax.lax.axis_size(axis_name))
    (_, by_key), (by_query, positive) = jax.lax.scan(visit, start, turns)
    return _merge(by_query), by_key, jnp.sum(positive, axis=0)


def _ring_backward(query, of_query, guest, axis_name, chunk):
    own, ids = _ring_pieces(len(query), chunk)

    def visit(carry, turn):
        guest, d_guest, d_query = carry
        after = _pass_on(guest, axis_name)
        d_query, more = _gradients(d_query, query, own, of_query, guest, _if_home(ids, turn), None)
        return (after, _pass_on(d_guest + more, axis_name), d_query), None

    zeros = jnp.zeros_like(query)
    turns = jnp.arange(jax.lax.axis_size(axis_name))
    (_, d_key, d_query), _ = jax.lax.scan(visit, (guest, zeros, zeros), turns)
    return d_query, d_key


def _ring_pieces(rows, chunk):
    """(numbers of this device's rows [b], of the pieces of its keys [pieces, keys])."""
    own = jnp.arange(rows)
    return own, split_chunks(
        own, num_chunks(rows, chunk or min(CHUNK_KEYS, MAX_CHUNK_LOGITS // rows))
    )


def _if_home(ids, turn):
    """A device meets its own keys at the first turn; others are nobody's positives."""
    return jnp.where(turn == 0, ids, -1)


def _pass_on(tree, axis_name):
    devices = jax.lax.axis_size(axis_name)
    return jax.lax.ppermute(tree, axis_name, [(i, (i + 1) % devices) for i in range(devices)])


# ---- pieces, each gathered over `axis_name` before use


def _statistics(query, own, live, guest, ids, ceiling, axis_name):
    """Of the logits of others than the positive, (log-sum-exp, largest) by query [b], by key [pieces, keys].

    And the positives' logits [b], 0 for those that are not here.
    """

    def piece(part):
        ids, guest = part
        key, live_key = all_gather_rows(guest, axis_name)
        return _of_piece(query, key.astype(query.dtype), own, ids, live, live_key, ceiling)

    by_query, by_key, positive = jax.lax.map(piece, (ids, split_chunks(guest, len(ids))))
    return _merge(by_query), by_key, jnp.sum(positive, axis=0)


def _of_piece(query, key, own, ids, live, live_key, ceiling):
    def product():
        logits = jnp.einsum("be,ne->bn", query, key)
        same = own[:, None] == ids[None, :]
        hidden = same if live is None else same | ~live[:, None] | ~live_key[None, :]
        return logits, same, jnp.where(hidden, -jnp.inf, logits)

    # Relative to a number known beforehand (0 at scales up to 70), and not to the largest of the
    # same logits, all sums can be made as the product comes out: no logit goes to memory.
    logits, same, others = product()
    positive = jnp.sum(jnp.where(same, logits, 0), axis=1)
    best = jnp.max(others, axis=1), jnp.max(others, axis=0)
    reference = jnp.maximum(ceiling - _HEADROOM, 0)
    powers = jnp.exp(others - reference)
    sums = jnp.sum(powers, axis=1), jnp.sum(powers, axis=0)
    lives = (live, live_key)
    least = [jnp.min(x if y is None else jnp.where(y, x, 1)) for x, y in zip(sums, lives)]
    totals = jax.lax.cond(
        jnp.minimum(*least) > jnp.exp(_SURE),
        lambda: tuple(jnp.log(x) + reference for x in sums),
        # A row far from all others, at a scale above 60: again, and the slow way.
        lambda: tuple(jax.nn.logsumexp(product()[2], axis) for axis in (1, 0)),
    )
    by_query, by_key = zip(totals, best)
    return by_query, by_key, positive


def _gradients(d_query, query, own, of_query, guest, ids, axis_name):
    """(d_query with what comes from the guest added, gradient by the guest's rows).

    of_query: each row's log-sum-exp, gradient by its loss and gradient by its positive's logit;
    guest: keys, and the first two of each.
    """
    total, g, pull = (x[:, None] for x in of_query)

    def piece(d_query, part):
        ids, guest = part
        key, total_key, g_key = all_gather_rows(guest, axis_name)
        key = key.astype(query.dtype)
        logits = jnp.einsum("be,ne->bn", query, key)
        # A softmax is at most 1; a dead row's "softmax" could be inf, and inf * its 0 no number.
        of_rows = g * jnp.exp(jnp.minimum(logits - total, 0))
        of_columns = g_key[None, :] * jnp.exp(jnp.minimum(logits - total_key[None, :], 0))
        d_logits = jnp.where(own[:, None] == ids[None, :], pull, of_rows + of_columns)
        d_query += jnp.einsum("bn,ne->be", d_logits, key)
        d_key = jnp.einsum("bn,be->ne", d_logits, query)
        if axis_name is not None:
            d_key = jax.lax.psum_scatter(d_key, axis_name, tiled=True)
        return d_query, d_key

    d_query, d_key = jax.lax.scan(piece, d_query, (ids, split_chunks(guest, len(ids))))
    return d_query, d_key.reshape(query.shape)


def all_gather_rows(tree, axis_name: AxisName | None):
    """Every device's rows, in the order of the devices."""
    return tree if axis_name is None else jax.lax.all_gather(tree, axis_name, tiled=True)


def _ceiling(query, key, axis_name):
    """A number that no logit exceeds, by Cauchy and Schwarz: for unit vectors the scale."""

    def longest(z):
        z = z.astype(query.dtype)
        return jnp.sqrt(jnp.max(jnp.sum(z * z, axis=-1)))

    key = longest(key)
    return longest(query) * (key if axis_name is None else jax.lax.pmax(key, axis_name))


def _merge(statistics):
    """Of the parts, along the first axis, to those of the whole."""
    total, best = statistics
    return jax.nn.logsumexp(total, axis=0), jnp.max(best, axis=0)


def num_chunks(rows: int, most: int) -> int:
    """The smallest number of equal parts with at most `most` rows each, or one."""
    return next(n for n in range(1, rows + 1) if rows % n == 0 and rows // n <= max(most, 1))


def split_chunks(tree, parts: int):
    """Arrays in equal parts along their first axis, [parts, ...]."""
    return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), tree)
