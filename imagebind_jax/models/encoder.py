"""One generic encoder for every modality: stem -> cls and positions -> trunk -> head -> unit sphere."""

import dataclasses
import math
from collections.abc import Callable

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from imagebind_jax.errors import UserError
from imagebind_jax.models import layers

# Non-overlapping patches of rank 1, 2 and 3 in the order of a convolution kernel's elements.
_PATCHES = {
    1: "b (l p) c -> b l (p c)",
    2: "b (h p) (w q) c -> b (h w) (p q c)",
    3: "b (t o) (h p) (w q) c -> b (t h w) (o p q c)",
}


_LARGEST = 10_000_000  # of any size: what is larger is a mistake, or a file that means harm


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Everything in which two encoders differ.

    `shape` is one input without its batch axis, channels last: (2, 224, 224, 3), (128, 204, 1),
    (2000, 6), or (77,) for tokens. `patch` and `stride` have one number per axis before the
    channels; a text encoder has `vocab_size` instead. `logit_scale` is the inverse temperature
    that multiplies this modality's cosines (None: 1, for the hub).

    `logit_bias` gives the encoder a learned scalar, which begins there and which the sigmoid
    objective adds to the logits; others do not use it. SigLIP begins at -10 for batches of 32,768
    (Zhai et al. 2023, arXiv:2303.15343): -log(batch - 1) is the counterpart for another batch.
    `mlp_head` puts a linear layer of the same width, with a bias, and an exact GELU before the
    head's projection (ImageBind's Table 5b).

    `lora` names what has a low-rank adapter in every block: the products "qkv", "out", "fc1",
    "fc2" (x W becomes x W + lora_scale * x A B), or "attn", a path from the attention's input to
    its output. `lora_scale` is alpha / rank in the usual notation. See `porting.lora`.
    """

    shape: tuple[int, ...]
    width: int
    depth: int
    heads: int
    patch: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()  # empty: the patch, no overlap
    vocab_size: int = 0
    mlp_ratio: float = 4.0  # of CLIP ViT-g and bigG it is not whole
    activation: str = "gelu"
    bias_kv: bool = False
    stem_norm: bool = False
    pre_norm: bool = False
    norm_eps: float = 1e-6  # CLIP's: 1e-5; the stem's is torch's default of 1e-5 always
    drop_path: float = 0.0
    head_dropout: float = 0.0
    position_std: float | None = None  # None: width ** -0.5
    logit_scale: float | None = None
    learn_scale: bool = False
    causal: bool = True  # of text: a token sees those before it; without effect elsewhere
    lora: tuple[str, ...] = ()
    lora_rank: int = 4
    lora_scale: float = 1.0
    logit_bias: float | None = None  # None: no such parameter
    mlp_head: bool = False

    younger_fields = ("logit_bias", "mlp_head")  # than runs, anchors and stores that are in use

    def __post_init__(self):
        for name in ("width", "depth", "heads"):
            if not 1 <= getattr(self, name) <= _LARGEST:
                raise UserError(f"{name} must be from 1 to {_LARGEST:,}, got {getattr(self, name)}")
        for name in ("shape", "patch", "stride"):
            sizes = getattr(self, name)
            if not all(1 <= size <= _LARGEST for size in sizes) or len(sizes) > 4:
                raise UserError(f"{name} {str(sizes)[:100]}: up to 4 sizes from 1 to {_LARGEST:,}")
        if not 0 <= self.vocab_size <= _LARGEST or self.vocab_size and len(self.shape) != 1:
            raise UserError(f"vocab_size {self.vocab_size} for inputs of shape {self.shape}")
        if not 1 <= self.mlp_ratio * self.width <= _LARGEST:  # which a NaN is not either
            raise UserError(f"mlp_ratio {self.mlp_ratio} of a width of {self.width}")
        for name in ("norm_eps", "logit_scale"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} must be a number > 0, got {value}")
        if self.logit_bias is not None and not math.isfinite(self.logit_bias):
            raise UserError(f"logit_bias must be a number, or None, got {self.logit_bias}")
        if self.width % self.heads:
            raise UserError(f"width {self.width} is not divisible by {self.heads} heads")
        if bool(self.patch) == bool(self.vocab_size):
            raise UserError("an encoder needs either a patch or a vocab_size")
        if self.patch and not len(self.patch) == len(self.shape) - 1 <= 3:
            raise UserError(f"patch {self.patch} does not fit inputs of shape {self.shape}")
        if self.stride and len(self.stride) != len(self.patch):
            raise UserError(f"stride {self.stride} does not fit patch {self.patch}")
        if self.activation not in layers.ACTIVATIONS:
            raise UserError(f"activation {self.activation!r}: not of {list(layers.ACTIVATIONS)}")
        if not set(self.lora) <= set(layers.LORA_TARGETS) or len(set(self.lora)) < len(self.lora):
            raise UserError(
                f"lora {self.lora}: each at most once of {', '.join(layers.LORA_TARGETS)}"
            )
        if self.lora_rank < 1:
            raise UserError(f"lora_rank must be at least 1, got {self.lora_rank}")
        if not (math.isfinite(self.lora_scale) and self.lora_scale > 0):
            raise UserError(f"lora_scale must be a number > 0, got {self.lora_scale}")

    @property
    def tokens(self) -> int:
        """Length of the sequence in the trunk, the cls token included."""
        if self.vocab_size:
            return self.shape[0]
        sizes = zip(self.shape, self.patch, self.stride or self.patch)
        return 1 + math.prod((n - patch) // stride + 1 for n, patch, stride in sizes)


def extract_patches(config: EncoderConfig, x: Float[Array, "b *shape"]) -> Float[Array, "b l n"]:
    """Inputs cut into non-overlapping patches, each flattened; what is left at an end is dropped."""
    patch, names = config.patch, ("p", "pq", "opq")
    whole = tuple(slice(n // p * p) for n, p in zip(config.shape, patch))
    sizes = dict(zip(names[len(patch) - 1], patch))
    return einops.rearrange(x[:, *whole], _PATCHES[len(patch)], **sizes)


def build_trunk(
    config: EncoderConfig,
    dtype: str = "float32",
    remat: str = "none",
    unroll: int = 1,
    gather: Callable | None = None,
) -> layers.TransformerTrunk:
    """The trunk of an encoder, as a part of the module in whose call this is called."""
    c = config
    return layers.TransformerTrunk(
        depth=c.depth,
        heads=c.heads,
        mlp_ratio=c.mlp_ratio,
        activation=c.activation,
        bias_kv=c.bias_kv,
        causal=c.causal and c.vocab_size > 0,
        pre_norm=c.pre_norm,
        drop_path=c.drop_path,
        norm_eps=c.norm_eps,
        dtype=dtype,
        remat=remat,
        unroll=unroll,
        adapters=layers.LoraConfig(c.lora, c.lora_rank, c.lora_scale),
        gather=gather,
        name="trunk",
    )


class Stem(nn.Module):
    """A bias-free convolution of rank 1, 2 or 3, flattened to a sequence of patch tokens."""

    config: EncoderConfig
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "b *shape"]) -> Float[Array, "b l d"]:
        c = self.config
        rank, stride = len(c.patch), c.stride or c.patch
        kernel = self.param("kernel", layers.xavier, (*c.patch, c.shape[-1], c.width))
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if stride == c.patch:  # a reshape and a product: several times faster than a convolution
            x = extract_patches(c, x) @ kernel.reshape(-1, c.width)
        else:
            axes = "DHW"[-rank:]
            x = jax.lax.conv_general_dilated(
                x,
                kernel,
                stride,
                "VALID",
                dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
            ).reshape(len(x), -1, c.width)
        if c.stem_norm:
            x = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)
        return x


class Encoder(nn.Module):
    """Inputs of one modality -> float32 embeddings on the unit sphere, and their logit scale."""

    config: EncoderConfig
    embed_dim: int
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    gather: Callable | None = None

    @nn.compact
    def __call__(
        self,
        x: Num[Array, "b *shape"],
        train: bool = False,
        rows: Int[Array, "b"] | None = None,
    ) -> tuple[Float[Array, "b e"], Float[Array, ""]]:
        """x: [B, *shape], or [B, clips, *shape] whose clips' embeddings are averaged.

        rows: each sample's number in the global batch (None: 0, 1, ...); what training drops of a
        sample depends on it, and on no other sample.

        One frame stands for all of `shape[0]` frames where the input has a single one. An average
        over clips is not normalised again (as in the released model). Raises UserError on any
        other shape.
        """
        rows = jnp.arange(len(x)) if rows is None else rows
        x, clips = self._flatten_clips(x)
        if clips is not None:
            rows = (rows[:, None] * clips + jnp.arange(clips)[None, :]).reshape(-1)
        z = self._embed(x, train, rows)
        z = z.astype(jnp.promote_types(z.dtype, jnp.float32))
        z = z * jax.lax.rsqrt(jnp.sum(z * z, axis=-1, keepdims=True) + 1e-12)
        if clips is not None:
            z = einops.reduce(z, "(b c) e -> b e", "mean", c=clips)
        scale = self._logit_scale()
        if self.config.logit_bias is not None:  # what uses it reads it from the parameters
            self.param("logit_bias", nn.initializers.constant(self.config.logit_bias), ())
        return z, scale

    def _flatten_clips(self, x):
        c, clips = self.config, None
        given = x.shape
        if x.ndim == len(c.shape) + 2:
            clips, x = x.shape[1], x.reshape(-1, *x.shape[2:])
        if x.ndim == len(c.shape) + 1 and len(c.shape) == 4 and x.shape[1] == 1:
            x = jnp.repeat(x, c.shape[0], axis=1)  # an image is a video of one frame repeated
        if x.shape[1:] != c.shape:
            raise UserError(f"{self.name} inputs of shape {given}: expected [B, *{c.shape}]")
        return x, clips

    def _embed(self, x, train, rows):
        c = self.config
        std = c.width**-0.5 if c.position_std is None else c.position_std
        tokens = x
        if c.vocab_size:
            embed = nn.Embed(
                c.vocab_size, c.width, embedding_init=nn.initializers.normal(0.02), name="embed"
            )
            x = embed(tokens)  # [B, L, D]
        else:
            x = Stem(c, self.dtype, name="stem")(x)  # [B, L - 1, D]
            cls = self.param("cls", nn.initializers.normal(c.width**-0.5), (c.width,))
            cls = jnp.broadcast_to(cls.astype(x.dtype), (len(x), 1, c.width))
            x = jnp.concatenate([cls, x], axis=1)  # [B, L, D]
        position = self.param("position", nn.initializers.normal(std), (c.tokens, c.width))
        blocks = build_trunk(c, self.dtype, self.remat, self.unroll, self.gather)
        x = blocks((x + position[None]).astype(self.dtype), train, rows)
        if c.vocab_size:  # the end-of-text token has the largest id
            x = jnp.take_along_axis(x, jnp.argmax(tokens, axis=-1)[:, None, None], axis=1)[:, 0]
        else:
            x = x[:, 0]
        x = nn.LayerNorm(epsilon=c.norm_eps, dtype=self.dtype, name="norm")(x)
        if train and c.head_dropout:
            keep = layers.row_dropout_mask(
                self.make_rng("dropout"), rows, c.head_dropout, x.shape[1:]
            )
            x = jnp.where(keep, x / (1 - c.head_dropout), 0)
        if c.mlp_head:
            hidden = nn.Dense(
                c.width, dtype=self.dtype, kernel_init=layers.xavier, name="head_hidden"
            )
            x = layers.exact_gelu(hidden(x))
        return nn.Dense(
            self.embed_dim,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=nn.initializers.normal(c.width**-0.5),
            name="head",
        )(x)

    def _logit_scale(self):
        scale = 1.0 if self.config.logit_scale is None else self.config.logit_scale
        if not self.config.learn_scale:
            return jnp.float32(scale)
        log = self.param("log_logit_scale", nn.initializers.constant(math.log(scale)), ())
        # CLIP's bound; and one before, as the gradient of an infinite scale would be no number.
        return jnp.minimum(jnp.exp(jnp.minimum(log, 5.0)), 100.0)
