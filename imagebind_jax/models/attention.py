"""Self-attention in the form that is fastest on each backend; the forms agree in value and gradient."""

import functools

import einops
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from imagebind_jax.errors import UserError

IMPLEMENTATIONS = ("auto", "plain", "products", "kernel", "cudnn")
MAX_KERNEL_TOKENS = (
    1024  # tokens for the kernel: a head's scores and their gradients fit in fast memory
)


def self_attention(
    qkv: Float[Array, "b l n"],
    bias_k: Float[Array, "h k"] | None = None,
    bias_v: Float[Array, "h k"] | None = None,
    *,
    shift: Float[Array, "n"] | None = None,
    heads: int,
    causal: bool = False,
    form: str = "auto",
) -> Float[Array, "b l d"]:
    """softmax(q k^T / sqrt(K)) v, the softmax in float32 whatever the dtype (but float64 on a CPU).

    qkv: queries, keys and values side by side, the D = H * K numbers of each head by head. shift:
    what is added to them first, for every token, as the bias of the product that they come from.
    bias_k and bias_v: one more key and value for every sequence, which a causal mask never hides.
    form: "plain" lets XLA compile the products; "kernel" is our own for a TPU, and plain on other
    platforms; "cudnn" is NVIDIA's; "products" is plain in the order that XLA fuses best on a CPU.
    "auto" takes the fastest for the platform that the program is compiled for (`BENCHMARKS.md`): in
    half precision ours on a TPU and NVIDIA's on a GPU, otherwise "products" on a CPU, else plain.
    """
    if form not in IMPLEMENTATIONS:
        raise UserError(f"attention form {form!r}: not one of {', '.join(IMPLEMENTATIONS)}")
    if form == "auto":
        form = _best(qkv, heads)
    if form == "kernel":
        shift = jnp.zeros(qkv.shape[-1:], qkv.dtype) if shift is None else shift
        return _fused(qkv, shift, bias_k, bias_v, heads, causal)
    qkv = qkv if shift is None else qkv + shift[None, None]
    if form == "products":
        return _products(qkv, bias_k, bias_v, heads, causal)
    implementation = "cudnn" if form == "cudnn" else "xla"
    return _plain(qkv, bias_k, bias_v, heads, causal, implementation)


def _best(qkv: jax.Array, heads: int) -> str:
    """By the process where it has a GPU; else "kernel", which decides when it is compiled."""
    width = qkv.shape[-1] // 3 // heads
    if jax.default_backend() == "gpu":
        fits = qkv.dtype in (jnp.bfloat16, jnp.float16) and width % 8 == 0 and width <= 128
        return "cudnn" if fits else "plain"
    if jax.default_backend() == "cpu" and qkv.dtype in (jnp.float32, jnp.float64):
        return "products"
    fits = qkv.dtype == jnp.bfloat16 and qkv.shape[1] <= MAX_KERNEL_TOKENS
    return "kernel" if fits and is_per_device_trace() else "plain"


def is_per_device_trace() -> bool:
    """Whether what is traced sees one device's rows, as in `shard_map`: XLA cannot split some
    things, kernels and layouts, between devices, and would make the whole batch on each."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes) or jax.device_count() == 1


def _plain(qkv, bias_k, bias_v, heads, causal, implementation="xla"):
    query, key, value = einops.rearrange(qkv, "b l (n h k) -> n b l h k", n=3, h=heads)
    mask = None
    if bias_k is not None:
        key, value = (
            jnp.concatenate([x, jnp.broadcast_to(bias, (len(x), 1, *bias.shape))], axis=1)
            for x, bias in ((key, bias_k), (value, bias_v))
        )  # [B, L + 1, H, K]
        if causal:
            length = query.shape[1]
            seen = jnp.tril(jnp.ones((length, length), bool))
            mask = jnp.pad(seen, ((0, 0), (0, 1)), constant_values=True)[None, None]
    y = jax.nn.dot_product_attention(
        query,
        key,
        value,
        mask=mask,
        is_causal=causal and mask is None,
        implementation=implementation,
    )
    return einops.rearrange(y, "b l h k -> b l (h k)")


def _products(qkv, bias_k, bias_v, heads, causal):
    """Heads before tokens, the scale on the short side, the division after the values.

    Each product then is one fusion with its half of the softmax, and no matrix of weights is copied.
    """
    query, key, value = einops.rearrange(qkv, "b l (n h k) -> n b h l k", n=3, h=heads)
    if bias_k is not None:
        key, value = (
            jnp.concatenate([x, jnp.broadcast_to(row[:, None], (*x.shape[:2], 1, x.shape[3]))], 2)
            for row, x in ((bias_k, key), (bias_v, value))
        )  # [B, H, L + 1, K]
    wide = jnp.promote_types(qkv.dtype, jnp.float32)
    product = functools.partial(jnp.matmul, preferred_element_type=wide)
    logits = product(query * query.shape[-1] ** -0.5, jnp.swapaxes(key, 2, 3))
    if causal:  # the appended row, last, is never hidden
        seen = jnp.tril(jnp.ones(logits.shape[-2:], bool))
        seen = seen if bias_k is None else seen.at[:, -1].set(True)
        logits = jnp.where(seen[None, None], logits, -jnp.inf)
    highest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp(logits - highest)
    y = product(weights.astype(value.dtype), value) / jnp.sum(weights, axis=-1, keepdims=True)
    return einops.rearrange(y.astype(value.dtype), "b h l k -> b l (h k)")


# One gradient around the choice of platform, not one in each branch: what a branch keeps for its
# backward pass would be kept by all.
@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _fused(qkv, shift, bias_k, bias_v, heads, causal):
    how = {"heads": heads, "causal": causal}
    ours, plain = functools.partial(_kernel, **how), functools.partial(_shifted, **how)
    return jax.lax.platform_dependent(qkv, shift, bias_k, bias_v, tpu=ours, default=plain)


def _shifted(qkv, shift, bias_k, bias_v, heads, causal):
    return _plain(qkv + shift[None, None], bias_k, bias_v, heads, causal)


def _fused_forward(qkv, shift, bias_k, bias_v, heads, causal):
    inputs = qkv, shift, bias_k, bias_v
    return _fused(*inputs, heads, causal), inputs


def _fused_backward(heads, causal, inputs, gradient):
    def plain(gradient, *inputs):
        run = functools.partial(_shifted, heads=heads, causal=causal)
        return jax.vjp(run, *inputs)[1](gradient)

    ours = functools.partial(_kernel_backward, heads=heads, causal=causal)
    return jax.lax.platform_dependent(gradient, *inputs, tpu=ours, default=plain)


_fused.defvjp(_fused_forward, _fused_backward)


def _kernel(qkv, shift, bias_k, bias_v, heads, causal, interpret=False):
    from imagebind_jax.models import attention_pallas  # Pallas is slow to import

    bias = _stack(bias_k, bias_v)
    how = {"heads": heads, "causal": causal, "interpret": interpret}
    return attention_pallas.attention_forward(qkv, shift, bias, **how)


def _kernel_backward(gradient, qkv, shift, bias_k, bias_v, heads, causal, interpret=False):
    from imagebind_jax.models import attention_pallas

    bias, how = _stack(bias_k, bias_v), {"heads": heads, "causal": causal, "interpret": interpret}
    dqkv, dshift, dbias = attention_pallas.attention_backward(qkv, shift, bias, gradient, **how)
    if dbias is None:
        return dqkv, dshift, None, None
    return dqkv, dshift, *dbias.reshape(2, *bias_k.shape)


def _stack(bias_k, bias_v):
    return None if bias_k is None else jnp.stack([bias_k, bias_v]).reshape(2, -1)
