"""Transformer layers: attention with an optional bias key/value, MLP, block, trunk, adapters."""

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),  # ImageBind, OpenCLIP
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # OpenAI's CLIP
}

# What a block keeps for its backward pass; everything else is computed again.
REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}

xavier = nn.initializers.xavier_uniform()
kaiming = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # torch's for nn.Linear

# What an adapter may stand beside: a block's four products, or the whole of its attention.
ADAPTABLE = ("qkv", "out", "fc1", "fc2", "attn")


@dataclasses.dataclass(frozen=True)
class Adapters:
    """Which parts of a block have a low-rank adapter, its rank, and the factor before it."""

    targets: tuple[str, ...] = ()
    rank: int = 4
    scale: float = 1.0

    def __call__(self, target: str, x: jax.Array, y: jax.Array, axes: int = 1) -> jax.Array:
        """y, the output of a part of the block for x, plus what its adapter adds, if it has one.

        `axes` is how many trailing axes of x are contracted. Call it from a module's own call.
        """
        if target not in self.targets:
            return y
        adapter = Lora(self.rank, y.shape[x.ndim - axes :], axes, name=f"{target}_lora")
        return y + self.scale * adapter(x.astype(y.dtype))


class Lora(nn.Module):
    """x a b through a narrow middle (Hu et al. 2021); b is zero at first, so nothing changes."""

    rank: int
    features: tuple[int, ...]
    axes: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b l *d"]) -> Float[Array, "b l *f"]:
        zeros = nn.initializers.zeros
        a = self.param("a", kaiming, (*x.shape[-self.axes :], self.rank))
        b = self.param("b", zeros, (self.rank, *self.features))
        hidden = jnp.tensordot(x, a.astype(x.dtype), self.axes)  # [B, L, R]
        return jnp.tensordot(hidden, b.astype(x.dtype), 1)


class Attention(nn.Module):
    """Multi-head self-attention; `bias_kv` appends one learned key/value row to the sequence."""

    heads: int
    bias_kv: bool = False
    causal: bool = False
    dtype: str = "float32"
    adapters: Adapters = Adapters()

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        width = x.shape[-1]
        head = (self.heads, width // self.heads)
        qkv = nn.DenseGeneral((3, *head), dtype=self.dtype, kernel_init=xavier, name="qkv")(x)
        qkv = self.adapters("qkv", x, qkv)
        query, key, value = (qkv[:, :, i] for i in range(3))  # [B, L, H, K]
        if self.bias_kv:
            init = nn.initializers.normal(width**-0.5)  # torch's xavier_normal of [1, 1, D]
            key, value = (
                jnp.concatenate([rows, jnp.broadcast_to(row, (len(x), 1, *head))], axis=1)
                for rows, row in (
                    (key, self.param("bias_k", init, head).astype(key.dtype)),
                    (value, self.param("bias_v", init, head).astype(value.dtype)),
                )
            )  # [B, L + 1, H, K]
        # The softmax inside is float32 whatever the dtype of its inputs.
        x = jax.nn.dot_product_attention(query, key, value, is_causal=self.causal)
        out = nn.DenseGeneral(width, (-2, -1), dtype=self.dtype, kernel_init=xavier, name="out")
        return self.adapters("out", x, out(x), axes=2)


class MlpBlock(nn.Module):
    """Linear, activation, linear: width -> ratio * width -> width."""

    ratio: float = 4.0
    activation: str = "gelu"
    dtype: str = "float32"
    adapters: Adapters = Adapters()

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=xavier)
        hidden = self.adapters("fc1", x, dense(round(self.ratio * x.shape[-1]), name="fc1")(x))
        hidden = ACTIVATIONS[self.activation](hidden)
        return self.adapters("fc2", hidden, dense(x.shape[-1], name="fc2")(hidden))


class Block(nn.Module):
    """Pre-norm residual block; each branch is dropped per sample with the block's own rate."""

    heads: int
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    bias_kv: bool = False
    causal: bool = False
    drop_path: bool = False
    norm_eps: float = 1e-6
    dtype: str = "float32"
    adapters: Adapters = Adapters()

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], rate: Float[Array, ""]):
        norm = functools.partial(nn.LayerNorm, epsilon=self.norm_eps, dtype=self.dtype)
        attention = Attention(
            self.heads, self.bias_kv, self.causal, self.dtype, self.adapters, name="attn"
        )
        mlp = MlpBlock(self.mlp_ratio, self.activation, self.dtype, self.adapters, name="mlp")
        y = norm(name="norm_1")(x)
        x = x + self._drop_path(self.adapters("attn", y, attention(y)), rate)
        x = x + self._drop_path(mlp(norm(name="norm_2")(x)), rate)
        return x, None  # the pair that a scan's body returns

    def _drop_path(self, branch, rate):
        if not self.drop_path:
            return branch
        shape = (branch.shape[0], 1, 1)
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, shape)
        return jnp.where(keep, branch / (1 - rate).astype(branch.dtype), 0)


class Trunk(nn.Module):
    """`depth` blocks as one scan over stacked parameters; drop-path ramps linearly to `drop_path`."""

    depth: int
    heads: int
    mlp_ratio: float = 4.0
    activation: str = "gelu"
    bias_kv: bool = False
    causal: bool = False
    pre_norm: bool = False
    drop_path: float = 0.0
    norm_eps: float = 1e-6
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    adapters: Adapters = Adapters()

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], train: bool = False) -> Float[Array, "b l d"]:
        if self.pre_norm:
            x = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="pre_norm")(x)
        block = Block
        if self.remat != "none":
            block = nn.remat(Block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            length=self.depth,
            unroll=min(self.unroll, self.depth),
        )(
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            activation=self.activation,
            bias_kv=self.bias_kv,
            causal=self.causal,
            drop_path=train and self.drop_path > 0,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            adapters=self.adapters,
            name="blocks",
        )
        x, _ = blocks(x, jnp.linspace(0.0, self.drop_path, self.depth))
        return x
