"""Dense embeddings: a unit vector of the shared space for every patch of an input, without training."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagebind_jax.errors import UserError
from imagebind_jax.models import layers
from imagebind_jax.models.attention import self_attention
from imagebind_jax.models.encoder import EncoderConfig, Stem, build_trunk
from imagebind_jax.models.imagebind import ImageBind

METHODS = ("gaze", "value", "alike", "tokens")


def patch_embeddings(
    model: ImageBind,
    params: Mapping,
    x: Float[Array, "b ..."],
    *,
    modality: str = "vision",
    how: str = "gaze",
    reach: int = 1,
) -> Float[Array, "b h w e"]:
    """Unit vectors of patches, rows from the top; of a video the mean over its frames' patches.

    x: inputs as the encoder takes them, [B, *shape], an image of one frame among them; without
    clips. Only the last block is run otherwise than for `embed`, with the same parameters:

    * "gaze": the cls token, whose attention there is held on the patch and those up to `reach`
      away, each alike, instead of being spread over all. The rest of its way, past the MLP, norm
      and head, is what it was trained for: no other token ever was.
    * "value": the patch's own token, which takes up its own value (MaskCLIP: Zhou et al., Extract
      Free Dense Labels from CLIP, ECCV 2022).
    * "alike": the same, but the values of tokens with similar queries and of those with similar
      keys (SCLIP: Wang et al., Rethinking Self-Attention for Dense Vision-Language Inference, 2023).
    * "tokens": the patch's token as it is.

    On the world "gaze" finds far more than the others (`BENCHMARKS.md`); which of them is best for
    the released model nobody has measured. Learned key/value rows (bias_kv) belong to no patch, and
    only "tokens" attends to them. Raises UserError for a modality without a grid of patches, inputs
    of another shape, or an unknown `how`.
    """
    if modality not in params or modality not in model.config.encoders:
        raise UserError(f"no {modality!r} encoder here: only {', '.join(params)}")
    c = model.config.encoders[modality]
    if len(c.patch) < 2:
        raise UserError(f"{modality} has no grid of patches: of vision, depth, thermal or audio")
    if how not in METHODS or reach < 0:
        raise UserError(f"how={how!r}, reach={reach}: one of {', '.join(METHODS)}, and at least 0")
    given = x.shape
    if len(c.shape) == 4 and x.ndim == 5 and x.shape[1] == 1:
        x = jnp.repeat(x, c.shape[0], axis=1)  # an image is a video of one frame repeated
    if x.shape[1:] != c.shape:
        raise UserError(f"{modality} inputs of shape {given}: expected [B, *{c.shape}]")
    # Else products of float32 are of fewer bits on TPUs and recent GPUs.
    exact = "highest" if model.config.dtype == "float32" else None
    with jax.default_matmul_precision(exact):
        return _dense(c, model.config.dtype, how, reach, params[modality], x)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _dense(c, dtype, how, reach, tower, x):
    x = _before_last(c, dtype, tower, x)
    last = jax.tree.map(lambda leaf: leaf[-1], tower["trunk"]["blocks"])
    near = _near(c, reach) if how == "gaze" else None
    x = PatchBlock(c, dtype, _ATTEND[how], near).apply({"params": last}, x)
    z = _head(c, dtype, tower, x)
    grid = [(n - p) // s + 1 for n, p, s in zip(c.shape, c.patch, c.stride or c.patch)]
    z = einops.reduce(z, "b (t h w) e -> b h w e", "mean", h=grid[-2], w=grid[-1])
    return z * jax.lax.rsqrt(jnp.sum(z * z, axis=-1, keepdims=True) + 1e-12)


class PatchBlock(nn.Module):
    """`layers.Block` with the same parameters, for patches and not for all tokens.

    near: for each patch, the mean of what it and those around it give to the cls token; None: each
    patch has a token of its own.
    """

    config: EncoderConfig
    dtype: str
    attend: Callable
    near: Callable | None

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b p d"]:
        c, near = self.config, self.near
        norm = functools.partial(nn.LayerNorm, epsilon=c.norm_eps, dtype=self.dtype)
        adapters = layers.LoraConfig(c.lora, c.lora_rank, c.lora_scale)
        attention = layers.Attention(
            c.heads, c.bias_kv, False, self.dtype, adapters, self.attend, name="attn"
        )
        mlp = layers.MlpBlock(c.mlp_ratio, c.activation, self.dtype, adapters, name="mlp")
        y = norm(name="norm_1")(x)
        y = adapters("attn", y, attention(y))
        x = x[:, 1:] + y[:, 1:] if near is None else x[:, :1] + near(y[:, 1:])
        return x + mlp(norm(name="norm_2")(x))


def _before_last(c: EncoderConfig, dtype, tower, x):
    """What the last block takes, as `Encoder` makes it."""
    x = Stem(c, dtype).apply({"params": tower["stem"]}, x)
    cls = jnp.broadcast_to(tower["cls"].astype(x.dtype), (len(x), 1, c.width))
    x = jnp.concatenate([cls, x], axis=1)
    x = (x + tower["position"][None]).astype(dtype)
    if c.depth > 1:
        first = jax.tree.map(lambda leaf: leaf[:-1], tower["trunk"]["blocks"])
        blocks = build_trunk(dataclasses.replace(c, depth=c.depth - 1), dtype)
        return blocks.apply({"params": {**tower["trunk"], "blocks": first}}, x)
    if c.pre_norm:
        norm = nn.LayerNorm(epsilon=c.norm_eps, dtype=dtype)
        return norm.apply({"params": tower["trunk"]["pre_norm"]}, x)
    return x


def _head(c: EncoderConfig, dtype, tower, x):
    x = nn.LayerNorm(epsilon=c.norm_eps, dtype=dtype).apply({"params": tower["norm"]}, x)
    if c.mlp_head:
        hidden = nn.Dense(c.width, dtype=dtype)
        x = layers.exact_gelu(hidden.apply({"params": tower["head_hidden"]}, x))
    z = x @ tower["head"]["kernel"].astype(x.dtype)
    return z.astype(jnp.promote_types(z.dtype, jnp.float32))


def _near(c: EncoderConfig, reach: int) -> Callable[[Array], Array]:
    grid = [(n - p) // s + 1 for n, p, s in zip(c.shape, c.patch, c.stride or c.patch)]
    window = (1, 2 * reach + 1, 2 * reach + 1, 1)

    def total(x: Array) -> Array:
        return jax.lax.reduce_window(x, 0.0, jax.lax.add, window, (1, 1, 1, 1), "SAME")

    def mean(x: Array) -> Array:
        h, w = grid[-2:]
        planes = einops.rearrange(x, "b (t h w) d -> (b t) h w d", h=h, w=w)
        counts = total(jnp.ones((1, h, w, 1), jnp.float32))
        near = total(planes.astype(jnp.float32)) / counts
        return einops.rearrange(near, "(b t) h w d -> b (t h w) d", b=len(x)).astype(x.dtype)

    return mean


def _own_value(qkv, *bias, shift, heads, causal):
    return jnp.split(qkv + shift[None, None], 3, axis=-1)[2]


def _alike(qkv, *bias, shift, heads, causal):
    form = "b l (n h k) -> n b h l k"
    q, k, v = einops.rearrange(qkv + shift[None, None], form, n=3, h=heads).astype(jnp.float32)
    weights = sum(
        jax.nn.softmax(jnp.einsum("bhik,bhjk->bhij", x, x) * x.shape[-1] ** -0.5, axis=-1)
        for x in (q, k)
    )
    y = jnp.einsum("bhij,bhjk->bihk", weights, v)
    return einops.rearrange(y, "b l h k -> b l (h k)").astype(qkv.dtype)


_ATTEND: dict[str, Callable] = {
    "gaze": _own_value,
    "value": _own_value,
    "alike": _alike,
    "tokens": self_attention,
}
