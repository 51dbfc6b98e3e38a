"""Transformer layers: attention with an optional bias key/value, MLP, block, trunk, adapters."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Float, Int

from imagebind_jax.models.attention import is_per_device_trace, self_attention


@jax.custom_jvp
def exact_gelu(x: jax.Array) -> jax.Array:
    """x times the normal distribution's share below x, exactly (not tanh's approximation).

    By erf, as PyTorch does: erfc, which keeps more digits of results near 0, takes so long that a
    TPU's compiler no longer computes it again within the products (`BENCHMARKS.md`).
    """
    f = _to_float32(x)
    return (f * _normal_cdf(f)).astype(x.dtype)


@exact_gelu.defjvp
def _gelu_gradient(at, along):  # JAX 0.12 cannot derive erf's under shard_map
    (x,), (dx,) = at, along
    f, df = _to_float32(x), _to_float32(dx)
    share = _normal_cdf(f)
    slope = share + f * jnp.exp(-0.5 * f * f) / math.sqrt(2 * math.pi)
    return (f * share).astype(x.dtype), (df * slope).astype(dx.dtype)


def _to_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))  # one rounding, at the end


def _normal_cdf(x: jax.Array) -> jax.Array:
    """The normal distribution's share below x."""
    return 0.5 + 0.5 * jax.lax.erf(x * math.sqrt(0.5))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": exact_gelu,  # ImageBind, OpenCLIP
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),  # OpenAI's CLIP
}

# What a block keeps for its backward pass; everything else is computed again.
REMAT_POLICIES = {
    "full": None,
    "dots": jax.checkpoint_policies.dots_saveable,
    "dots_no_batch": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    # What the products and the attention make, but for the last product.
    "products": jax.checkpoint_policies.save_only_these_names("qkv", "attention", "out", "fc1"),
}

xavier = nn.initializers.xavier_uniform()
kaiming = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # torch's for nn.Linear

# What an adapter may stand beside: a block's four products, or the whole of its attention.
LORA_TARGETS = ("qkv", "out", "fc1", "fc2", "attn")


@dataclasses.dataclass(frozen=True)
class LoraConfig:
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


def row_dropout_mask(
    key: jax.Array, rows: Int[Array, "b"], rate: Float[Array, ""] | float, shape: tuple[int, ...]
) -> jax.Array:
    """[B, *shape] of booleans, false with probability `rate`.

    A row's are a function of the key and of its number in the global batch alone: the same on any
    number of devices, and in any micro-batches.
    """
    draw = lambda row: jax.random.uniform(jax.random.fold_in(key, row), shape, jnp.float32)  # noqa: E731
    return jax.vmap(draw)(rows) >= rate


def pin_row_major_layout(x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
    """x, which on a TPU lies in memory as it is indexed.

    Where a device's rows are a multiple of a tile's and the tokens are not, its compiler would
    rather have tokens first, and copy to and from what the attention takes.
    """
    if not is_per_device_trace():
        return x
    layout = Layout(major_to_minor=(0, 1, 2))
    constrained = functools.partial(with_layout_constraint, layouts=layout)
    return jax.lax.platform_dependent(x, tpu=constrained, default=lambda x: x)


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
    """Multi-head self-attention; `bias_kv` appends one learned key/value row to the sequence.

    `attend` is what becomes of queries, keys and values: dense embeddings have another (`dense`).
    """

    heads: int
    bias_kv: bool = False
    causal: bool = False
    dtype: str = "float32"
    adapters: LoraConfig = LoraConfig()
    attend: Callable = self_attention

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        width = x.shape[-1]
        head = (self.heads, width // self.heads)
        qkv, shift = SplitHeadsDense((width,), (3, *head), self.dtype, name="qkv")(
            x
        )  # [B, L, 3 * H * K]
        split = qkv.reshape(*x.shape[:-1], 3, *head)
        qkv = self.adapters("qkv", x, split).reshape(qkv.shape)
        qkv = checkpoint_name(qkv, "qkv")
        bias: tuple[jax.Array, ...] = ()
        if self.bias_kv:
            init = nn.initializers.normal(width**-0.5)  # torch's xavier_normal of [1, 1, D]
            names = ("bias_k", "bias_v")
            bias = tuple(self.param(name, init, head).astype(qkv.dtype) for name in names)
        # The bias is added there, where a TPU has its gradient for nothing.
        y = self.attend(qkv, *bias, shift=shift, heads=self.heads, causal=self.causal)  # [B, L, D]
        y = checkpoint_name(y, "attention")
        out, shift = SplitHeadsDense(head, (width,), self.dtype, name="out")(y)
        out = checkpoint_name(out + shift[None, None], "out")
        return self.adapters("out", y.reshape(*x.shape[:-1], *head), out, axes=2)


class SplitHeadsDense(nn.Module):
    """nn.DenseGeneral from and to several axes side by side: (product of plain matrices, bias).

    A TPU lays out [heads, width of a head] in tiles padded to [8, 128]; side by side, heads need
    no padding and no copies between layouts.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b l n"]) -> tuple[Float[Array, "b l m"], Float[Array, "m"]]:
        n, m = math.prod(self.inputs), math.prod(self.outputs)
        init = lambda key, shape: xavier(key, (n, m)).reshape(shape)  # noqa: E731
        kernel = self.param("kernel", init, (*self.inputs, *self.outputs))
        bias = self.param("bias", nn.initializers.zeros, self.outputs)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return x @ kernel.reshape(n, m), bias.reshape(m)


class MlpBlock(nn.Module):
    """Linear, activation, linear: width -> ratio * width -> width."""

    ratio: float = 4.0
    activation: str = "gelu"
    dtype: str = "float32"
    adapters: LoraConfig = LoraConfig()

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=xavier)
        hidden = self.adapters("fc1", x, dense(round(self.ratio * x.shape[-1]), name="fc1")(x))
        # Kept for the backward pass is its input alone, and not what its derivative is made of.
        activation = jax.checkpoint(ACTIVATIONS[self.activation], prevent_cse=False)
        hidden = activation(checkpoint_name(pin_row_major_layout(hidden), "fc1"))
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
    adapters: LoraConfig = LoraConfig()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], rate: Float[Array, ""], rows: Int[Array, "b"] | None = None
    ):
        norm = functools.partial(nn.LayerNorm, epsilon=self.norm_eps, dtype=self.dtype)
        attention = Attention(
            self.heads, self.bias_kv, self.causal, self.dtype, self.adapters, name="attn"
        )
        mlp = MlpBlock(self.mlp_ratio, self.activation, self.dtype, self.adapters, name="mlp")
        x = pin_row_major_layout(x)
        y = norm(name="norm_1")(x)
        x = pin_row_major_layout(
            x + self._drop_path(self.adapters("attn", y, attention(y)), rate, rows)
        )
        x = x + self._drop_path(mlp(norm(name="norm_2")(x)), rate, rows)
        return x, None  # the pair that a scan's body returns

    def _drop_path(self, branch, rate, rows):
        if not self.drop_path:
            return branch
        keep = row_dropout_mask(self.make_rng("dropout"), rows, rate, (1, 1))
        return jnp.where(keep, branch / (1 - rate).astype(branch.dtype), 0)


class TransformerTrunk(nn.Module):
    """`depth` blocks as one scan over stacked parameters; drop-path ramps linearly to `drop_path`.

    `gather` makes one layer's parameters whole where devices hold parts of them (`sharding`), from
    {"params": its parameters} and the compute type, just before the layer needs them.
    """

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
    adapters: LoraConfig = LoraConfig()
    gather: Callable | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], train: bool = False, rows: Int[Array, "b"] | None = None
    ) -> Float[Array, "b l d"]:
        """rows: each row's number in the global batch, which its dropped paths depend on."""
        if self.pre_norm:
            x = nn.LayerNorm(epsilon=self.norm_eps, dtype=self.dtype, name="pre_norm")(x)
        drop_path = train and self.drop_path > 0
        if drop_path and rows is None:
            rows = jnp.arange(len(x))
        block: Any = Block
        if self.gather is not None:
            whole = functools.partial(self.gather, dtype=self.dtype)
            block = nn.map_variables(block, "params", whole, mutable=False)
        if self.remat != "none":  # around the gathering: what is gathered is not kept
            block = nn.remat(block, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        blocks = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=self.depth,
            unroll=min(self.unroll, self.depth),
        )(
            heads=self.heads,
            mlp_ratio=self.mlp_ratio,
            activation=self.activation,
            bias_kv=self.bias_kv,
            causal=self.causal,
            drop_path=drop_path,
            norm_eps=self.norm_eps,
            dtype=self.dtype,
            adapters=self.adapters,
            name="blocks",
        )
        x, _ = blocks(x, jnp.linspace(0.0, self.drop_path, self.depth), rows)
        return x
