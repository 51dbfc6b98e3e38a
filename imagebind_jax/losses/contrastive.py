"""The losses of a pair of modalities, written once from the view of one device."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagebind_jax.distributed.device_view import AxisName
from imagebind_jax.errors import UserError
from imagebind_jax.losses import streamed

OBJECTIVES = ("info_nce", "sigmoid", "regression", "joint")
LOSS_IMPLEMENTATIONS = ("gathered", "chunked", "ring")
# Of one device; at so many (2,048 keys on 16 TPU v5e) chunks save 0.01 of 0.05 ms, and compile slower.
GATHERED_LOGITS = 2**18
# Above so many keys, pieces of which every device has a tile of rows hold more than 64 MB of logits.
CHUNKED_KEYS = 2**19


def info_nce(
    query: Float[Array, "b e"],
    key: Float[Array, "b e"],
    scale: Float[Array, ""] | float,
    *,
    weight: Float[Array, "b"] | None = None,
    axis_name: AxisName | None = None,
) -> Float[Array, ""]:
    """InfoNCE of each query against all keys of the global batch; row i's positive is key i.

    query, key: this device's rows of unit vectors. scale: inverse temperature, multiplies the
    cosines. weight: one weight a row; a row of weight 0 is neither a positive nor a negative.
    axis_name: the mapped axis (or axes) whose devices share their keys; None on one device.
    Returns the weighted mean over the global batch, the same number on every device; chance is
    the logarithm of the number of keys. Source: ImageBind (arXiv:2305.05665), equation 1.
    """
    query, key = (_zero_masked_rows(z, weight) for z in (query, key))
    loss, _ = _row_losses(query, key, scale, weight, axis_name)
    return _global_mean(loss, weight, axis_name)


def symmetric_info_nce(
    a: Float[Array, "b e"],
    b: Float[Array, "b e"],
    scale: Float[Array, ""] | float,
    *,
    weight: Float[Array, "b"] | None = None,
    axis_name: AxisName | None = None,
    form: str = "gathered",
    chunk: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The symmetric loss of a pair of modalities, `info_nce(a, b) + info_nce(b, a)`, and metrics.

    form: the same numbers for other memory. "gathered" holds all keys and all logits of its rows;
    "chunked" gathers keys a piece at a time; in "ring" they travel from device to device.
    chunk: keys of a piece, at most; None chooses. Pieces are equal parts of a device's rows, so a
    prime number of rows makes slow ones.
    `accuracy` is the (weighted) fraction of rows, of both directions, whose positive has the
    largest logit, and alone: a tie counts as wrong, so a model that maps all to one point has 0.
    Raises UserError on an unknown form.
    """
    if form not in LOSS_IMPLEMENTATIONS:
        raise UserError(f"loss form {form!r}: not one of {', '.join(LOSS_IMPLEMENTATIONS)}")
    a, b = (_zero_masked_rows(z, weight) for z in (a, b))
    if form == "gathered":
        loss_a, won_a = _row_losses(a, b, scale, weight, axis_name)
        loss_b, won_b = _row_losses(b, a, scale, weight, axis_name)
    else:
        # The gradient by the scale is that of this product, as of any other.
        query = scale * a.astype(_dtype(a, b, scale))
        live = None if weight is None else weight > 0
        (loss_a, loss_b), (won_a, won_b) = streamed.streamed_row_losses(
            query, b, live, axis_name, form == "ring" and axis_name is not None, chunk
        )
    loss = _global_mean(loss_a + loss_b, weight, axis_name)
    won = (won_a.astype(loss.dtype) + won_b.astype(loss.dtype)) / 2
    return loss, {"accuracy": _global_mean(won, weight, axis_name)}


def training_loss(
    name: str,
    a: Float[Array, "b e"],
    b: Float[Array, "b e"],
    scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float = 0.0,
    *,
    weight: Float[Array, "b"] | None = None,
    axis_name: AxisName | None = None,
    form: str = "gathered",
    chunk: int | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """What a run minimises for a pair of modalities, by its name in the config, and metrics.

    "info_nce" is `symmetric_info_nce`, "sigmoid" `sigmoid_loss`, the only one that adds `bias` to its
    logits, "regression" `regression_loss`, and "joint" the sum of the first and the last, as in
    ImageBind's appendix (arXiv:2305.05665). Arguments as of `symmetric_info_nce`; sigmoid has the gathered
    form whatever is asked for. `accuracy` is `symmetric_info_nce`'s in all of them.
    Raises UserError on an unknown name.
    """
    if name not in OBJECTIVES:
        raise UserError(f"objective {name!r}: not one of {', '.join(OBJECTIVES)}")
    rows: dict[str, Any] = {"weight": weight, "axis_name": axis_name}
    if name == "info_nce":
        return symmetric_info_nce(a, b, scale, **rows, form=form, chunk=chunk)
    if name == "joint":
        loss, metrics = symmetric_info_nce(a, b, scale, **rows, form=form, chunk=chunk)
        return loss + regression_loss(a, b, **rows), metrics
    # Of these the cosines' order is a metric, from which nothing is learned.
    fixed = jax.lax.stop_gradient((a, b, scale))
    if name == "regression":
        _, metrics = symmetric_info_nce(*fixed, **rows, form=form, chunk=chunk)
        return regression_loss(a, b, **rows), metrics
    _, metrics = symmetric_info_nce(*fixed, **rows)
    return sigmoid_loss(a, b, scale, bias, **rows), metrics


def sigmoid_loss(
    query: Float[Array, "b e"],
    key: Float[Array, "b e"],
    scale: Float[Array, ""] | float,
    bias: Float[Array, ""] | float = 0.0,
    *,
    weight: Float[Array, "b"] | None = None,
    axis_name: AxisName | None = None,
) -> Float[Array, ""]:
    """Is key j query i's? Of each pair of the global batch -log sigmoid(+-(scale * cosine + bias)).

    The sign is + on the diagonal and - elsewhere. Arguments as of `info_nce`. Returns the weighted
    mean over queries of the sum over all keys that count, the same number on every device; where
    scale and bias are 0, log(2) times the number of keys. Source: SigLIP (Zhai et al. 2023,
    arXiv:2303.15343), equation 1.
    """
    query, key = (_zero_masked_rows(z, weight) for z in (query, key))
    logits, own, live = _logits(query, key, scale, weight, axis_name)
    logits = logits + bias
    loss = jax.nn.softplus(jnp.where(own, -logits, logits))
    if live is not None:
        loss = jnp.where(own | live, loss, 0)
    return _global_mean(jnp.sum(loss, axis=-1), weight, axis_name)


def regression_loss(
    a: Float[Array, "b e"],
    b: Float[Array, "b e"],
    *,
    weight: Float[Array, "b"] | None = None,
    axis_name: AxisName | None = None,
) -> Float[Array, ""]:
    """The weighted mean over rows of the squared distance of the two unit vectors, in [0, 4].

    Both towers learn by it, where both are trained: with the hub frozen it matches the image's
    embedding. Arguments as of `info_nce`. Source: ImageBind's appendix (arXiv:2305.05665).
    """
    dtype = _dtype(a, b)
    a, b = (_zero_masked_rows(z, weight).astype(dtype) for z in (a, b))
    return _global_mean(jnp.sum((a - b) ** 2, axis=-1), weight, axis_name)


def choose_implementation(form: str, rows: int, keys: int) -> str:
    """The form that "auto" stands for; any other is itself.

    rows: of one device; keys: of all. Compiled for 256 TPU v5e (`benchmarks/losses.py`).
    """
    if form != "auto":
        return form
    if rows * keys <= GATHERED_LOGITS:
        return "gathered"
    return "chunked" if keys <= CHUNKED_KEYS or rows == keys else "ring"


def _row_losses(query, key, scale, weight, axis_name):
    """Each row's loss, and whether its positive wins."""
    logits, own, live = _logits(query, key, scale, weight, axis_name)
    positive = jnp.sum(jnp.where(own, logits, 0), axis=-1)
    if live is not None:  # a dead row keeps its own, so that its (unused) loss is a number
        logits = jnp.where(own | live, logits, -jnp.inf)
    best = jnp.max(jnp.where(own, -jnp.inf, logits), axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - positive, positive > best


def _logits(query, key, scale, weight, axis_name):
    """(logits [b, n] of this device's rows and all keys, whether positives, which keys count [1, n])."""
    rows = len(query)
    dtype = _dtype(query, key, scale)
    key, weight = streamed.all_gather_rows((key, weight), axis_name)
    logits = scale * jnp.einsum("be,ne->bn", query.astype(dtype), key.astype(dtype))  # [B, N]
    first = 0 if axis_name is None else rows * jax.lax.axis_index(axis_name)
    own = first + jnp.arange(rows)[:, None] == jnp.arange(len(key))[None, :]
    return logits, own, None if weight is None else (weight > 0)[None, :]


def _dtype(*arrays):
    return jnp.result_type(*arrays, jnp.float32)


def _zero_masked_rows(z, weight):
    """Rows of weight 0 may hold anything, even what is no number."""
    return z if weight is None else jnp.where(weight[:, None] > 0, z, 0)


def _global_mean(rows, weight, axis_name):
    weight = jnp.ones_like(rows) if weight is None else weight.astype(rows.dtype)
    total, count = jnp.sum(jnp.where(weight > 0, weight * rows, 0.0)), jnp.sum(weight)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.where(count > 0, count, 1.0)
