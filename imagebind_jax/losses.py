"""Contrastive losses, written once from the view of one device."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

AxisName = str | tuple[str, ...]


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
    loss, _ = _rows(query, key, scale, weight, axis_name)
    return _global_mean(loss, weight, axis_name)


def pair_loss(
    a: Float[Array, "b e"],
    b: Float[Array, "b e"],
    scale: Float[Array, ""] | float,
    *,
    weight: Float[Array, "b"] | None = None,
    axis_name: AxisName | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """The symmetric loss of a pair of modalities, `info_nce(a, b) + info_nce(b, a)`, and metrics.

    `accuracy` is the fraction of rows, of both directions, whose positive has the largest logit.
    """
    forward, correct_a = _rows(a, b, scale, weight, axis_name)
    backward, correct_b = _rows(b, a, scale, weight, axis_name)
    loss = _global_mean(forward + backward, weight, axis_name)
    correct = (correct_a.astype(jnp.float32) + correct_b.astype(jnp.float32)) / 2
    return loss, {"accuracy": _global_mean(correct, weight, axis_name)}


def _rows(query, key, scale, weight, axis_name):
    """Each row's loss and whether its positive wins."""
    rows = len(query)
    labels = jnp.arange(rows)
    if axis_name is not None:
        key = jax.lax.all_gather(key, axis_name, tiled=True)
        labels = labels + rows * jax.lax.axis_index(axis_name)
        if weight is not None:
            weight = jax.lax.all_gather(weight, axis_name, tiled=True)
    query, key = query.astype(jnp.float32), key.astype(jnp.float32)
    logits = scale * jnp.einsum("be,ne->bn", query, key)  # [B, N]
    if weight is not None:
        logits = jnp.where(weight[None, :] > 0, logits, -jnp.inf)
    positive = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
    if weight is not None:  # a row without a positive has no loss, and no gradient of it
        positive = jnp.where(jnp.isfinite(positive), positive, 0.0)
    loss = jax.nn.logsumexp(logits, axis=-1) - positive
    return loss, jnp.argmax(logits, axis=-1) == labels


def _global_mean(rows, weight, axis_name):
    weight = jnp.ones_like(rows) if weight is None else weight.astype(rows.dtype)
    total, count = jnp.sum(jnp.where(weight > 0, weight * rows, 0.0)), jnp.sum(weight)
    if axis_name is not None:
        total, count = jax.lax.psum((total, count), axis_name)
    return total / jnp.maximum(count, 1.0)
