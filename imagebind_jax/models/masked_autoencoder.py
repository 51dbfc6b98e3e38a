"""A masked autoencoder of any modality with patches: an encoder that sees few of them, a light decoder.

He et al. 2022 (arXiv:2111.06377), and for log-mel Huang et al. 2022 (arXiv:2207.06405, AudioMAE).
"""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from imagebind_jax.errors import UserError
from imagebind_jax.models import layers
from imagebind_jax.models.encoder import EncoderConfig, Stem, build_trunk, extract_patches


@dataclasses.dataclass(frozen=True)
class MaskedConfig:
    """What is learned: an encoder, and a decoder that is thrown away afterwards.

    The encoder's patches must not overlap, as one would show what its neighbour hides: the audio
    encoder of the released model (patches of 16 every 10) cannot be learned like this.
    """

    encoder: EncoderConfig
    mask: float = 0.8  # share of the patches that the encoder does not see; AudioMAE's
    decoder_width: int = 512  # MAE's decoder. AudioMAE has 16 blocks with attention in windows;
    decoder_depth: int = 8  # here attention is over all patches, as in MAE.
    decoder_heads: int = 16
    dtype: str = "float32"  # of the computation, or bfloat16

    def __post_init__(self):
        if self.encoder.vocab_size:
            raise UserError("a masked autoencoder needs an encoder of patches, not of text")
        if self.encoder.stride not in ((), self.encoder.patch):
            raise UserError(
                f"patches of {self.encoder.patch} every {self.encoder.stride}: a masked autoencoder "
                "needs patches that do not overlap, stride=()"
            )
        if not 0 < self.mask < 1 or not 0 < self.visible < self.patches:
            raise UserError(
                f"mask {self.mask} of {self.patches} patches: some must be hidden, and some not"
            )
        for name in ("decoder_width", "decoder_depth", "decoder_heads"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.decoder_width % self.decoder_heads:
            raise UserError(
                f"decoder_width {self.decoder_width} is not divisible by {self.decoder_heads} heads"
            )
        if self.dtype not in ("float32", "bfloat16"):
            raise UserError(f"dtype {self.dtype!r}: not one of float32, bfloat16")

    @property
    def patches(self) -> int:
        return self.encoder.tokens - 1

    @property
    def visible(self) -> int:
        """How many of the patches the encoder sees."""
        return self.patches - round(self.mask * self.patches)


class UnpooledEncoder(nn.Module):
    """An encoder without its head: all tokens after trunk and norm, cls first.

    Its parameters have the names that `Encoder` gives them, so that they can be used in one.
    """

    config: EncoderConfig
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *shape"],
        visible: Int[Array, "b v"] | None = None,
        train: bool = False,
    ) -> Float[Array, "b l d"]:
        """visible: which patches of each sample go into the trunk, in this order; None: all."""
        c = self.config
        std = c.width**-0.5 if c.position_std is None else c.position_std
        x = Stem(c, self.dtype, name="stem")(x)
        cls = self.param("cls", nn.initializers.normal(c.width**-0.5), (c.width,))
        position = self.param("position", nn.initializers.normal(std), (c.tokens, c.width))
        x = x + position[None, 1:]
        if visible is not None:
            x = jnp.take_along_axis(x, visible[:, :, None], axis=1)  # [B, V, D]
        first = jnp.broadcast_to(cls.astype(x.dtype) + position[0], (len(x), 1, c.width))
        x = jnp.concatenate([first, x], axis=1)
        x = build_trunk(c, self.dtype)(x.astype(self.dtype), train)
        return nn.LayerNorm(epsilon=c.norm_eps, dtype=self.dtype, name="norm")(x)


class Decoder(nn.Module):
    """Tokens of the visible patches -> a prediction of every patch."""

    config: MaskedConfig

    @nn.compact
    def __call__(self, x: Float[Array, "b k d"], order: Int[Array, "b l"]) -> Float[Array, "b l n"]:
        c = self.config
        width = c.decoder_width
        small = nn.initializers.normal(0.02)
        x = nn.Dense(width, dtype=c.dtype, kernel_init=layers.xavier, name="embed")(x)
        hidden = self.param("mask", small, (width,)).astype(x.dtype)
        hidden = jnp.broadcast_to(hidden, (len(x), c.patches - c.visible, width))
        tokens = jnp.concatenate([x[:, 1:], hidden], axis=1)  # [B, L, W], the visible ones first
        tokens = jnp.take_along_axis(tokens, jnp.argsort(order, axis=-1)[:, :, None], axis=1)
        x = jnp.concatenate([x[:, :1], tokens], axis=1)
        position = self.param("position", small, (c.patches + 1, width))
        x = layers.TransformerTrunk(
            depth=c.decoder_depth, heads=c.decoder_heads, dtype=c.dtype, name="trunk"
        )((x + position[None]).astype(c.dtype))
        x = nn.LayerNorm(epsilon=c.encoder.norm_eps, dtype=c.dtype, name="norm")(x)
        elements = math.prod(c.encoder.patch) * c.encoder.shape[-1]
        pixels = nn.Dense(elements, dtype=c.dtype, kernel_init=layers.xavier, name="pixels")
        return pixels(x[:, 1:]).astype(jnp.float32)


class MaskedAutoencoder(nn.Module):
    """Inputs, and an order of each one's patches of which the first are seen -> all patches."""

    config: MaskedConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b *shape"], order: Int[Array, "b l"]
    ) -> Float[Array, "b l n"]:
        c = self.config
        tokens = UnpooledEncoder(c.encoder, c.dtype, name="encoder")(x, order[:, : c.visible])
        return Decoder(c, name="decoder")(tokens, order)


def random_order(key: Array, samples: int, patches: int) -> Int[Array, "samples patches"]:
    """A permutation of the patches for each sample of a batch."""
    return jnp.argsort(jax.random.uniform(key, (samples, patches)), axis=-1)


def reconstruction_loss(
    config: MaskedConfig,
    prediction: Float[Array, "b l n"],
    x: Float[Array, "b *shape"],
    order: Int[Array, "b l"],
) -> Float[Array, "b"]:
    """Each sample's mean squared error over its hidden patches, of which each is normalised.

    A patch less its mean, by its standard deviation: MAE's better targets, and AudioMAE's.
    """
    wanted = extract_patches(config.encoder, x).astype(jnp.float32)
    wanted = wanted - wanted.mean(axis=-1, keepdims=True)
    wanted = wanted * jax.lax.rsqrt(jnp.square(wanted).mean(axis=-1, keepdims=True) + 1e-6)
    hidden = order[:, config.visible :, None]
    wanted, prediction = (jnp.take_along_axis(y, hidden, axis=1) for y in (wanted, prediction))
    return jnp.square(prediction - wanted).mean(axis=(1, 2))
