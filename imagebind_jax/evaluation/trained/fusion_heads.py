"""Heads that read one class out of the vectors of one modality or of several."""

from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

ModalityVectors = Mapping[str, Float[Array, "b _"]]
PresenceMask = Mapping[str, Bool[Array, "b"]]


class ModalityTokens(nn.Module):
    """One token a modality, in the order of their names: ([B, M, width], which of them count).

    A vector is projected; one that is missing is a learned token of its modality. In training each
    modality is taken for missing with probability `missing`, but never all that a sample has.
    """

    width: int
    missing: float = 0.0

    @nn.compact
    def __call__(
        self, z: ModalityVectors, there: PresenceMask, train: bool = False
    ) -> tuple[Float[Array, "b m w"], Bool[Array, "b m"]]:
        names = sorted(z)
        present = jnp.stack([there[name] for name in names], axis=1)
        if train and self.missing and len(names) > 1:
            kept = present & jax.random.bernoulli(
                self.make_rng("dropout"), 1 - self.missing, present.shape
            )
            present = jnp.where(kept.any(axis=1, keepdims=True), kept, present)
        tokens = jnp.stack([nn.Dense(self.width, name=name)(z[name]) for name in names], axis=1)
        absent = self.param("missing", nn.initializers.normal(0.02), (1, len(names), self.width))
        return jnp.where(present[:, :, None], tokens, absent), present


class ClassifierHead(nn.Module):
    """A hidden layer and one logit a class."""

    classes: int
    hidden: int
    dropout: float

    @nn.compact
    def __call__(self, x: Float[Array, "b d"], train: bool = False) -> Float[Array, "b c"]:
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.gelu(nn.Dense(self.hidden, name="hidden")(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes, name="logits")(x)


class ConcatFusion(nn.Module):
    """The tokens of all modalities side by side, then a hidden layer."""

    classes: int
    width: int = 128
    dropout: float = 0.1
    missing: float = 0.0

    @nn.compact
    def __call__(
        self, z: ModalityVectors, there: PresenceMask, train: bool = False
    ) -> Float[Array, "b c"]:
        tokens, _ = ModalityTokens(self.width, self.missing, name="tokens")(z, there, train)
        flat = tokens.reshape(len(tokens), -1)  # [B, M * W]
        return ClassifierHead(self.classes, 2 * self.width, self.dropout, name="readout")(
            flat, train
        )


class AttentionPoolFusion(nn.Module):
    """The mean of the tokens, each weighed by how a learned query likes it, then a hidden layer."""

    classes: int
    width: int = 128
    dropout: float = 0.1
    missing: float = 0.0

    @nn.compact
    def __call__(
        self, z: ModalityVectors, there: PresenceMask, train: bool = False
    ) -> Float[Array, "b c"]:
        tokens, present = ModalityTokens(self.width, self.missing, name="tokens")(z, there, train)
        key = jnp.tanh(nn.Dense(self.width, name="key")(tokens))
        scores = nn.Dense(1, use_bias=False, name="query")(key)[:, :, 0]  # [B, M]
        weights = jax.nn.softmax(jnp.where(present, scores, -1e9), axis=-1)
        pooled = jnp.einsum("bm,bmw->bw", weights, tokens)
        return ClassifierHead(self.classes, 2 * self.width, self.dropout, name="readout")(
            pooled, train
        )


class AddClassToken(nn.Module):
    """A learned class token before the others, and to each what tells its place."""

    @nn.compact
    def __call__(self, tokens: Float[Array, "b m w"]) -> Float[Array, "b n w"]:
        b, m, width = tokens.shape
        small = nn.initializers.normal(0.02)
        cls = jnp.tile(self.param("cls", small, (1, 1, width)), (b, 1, 1))
        place = self.param("place", small, (1, m + 1, width))
        return jnp.concatenate([cls, tokens], axis=1) + place


class TransformerFusion(nn.Module):
    """A class token that attends, with the modalities' tokens, through a few pre-norm blocks."""

    classes: int
    width: int = 128
    dropout: float = 0.1
    missing: float = 0.0
    depth: int = 2
    heads: int = 4

    @nn.compact
    def __call__(
        self, z: ModalityVectors, there: PresenceMask, train: bool = False
    ) -> Float[Array, "b c"]:
        tokens, present = ModalityTokens(self.width, self.missing, name="tokens")(z, there, train)
        x = AddClassToken(name="sequence")(tokens)
        seen = jnp.pad(present, ((0, 0), (1, 0)), constant_values=True)[:, None, None]
        width = self.width
        for i in range(self.depth):
            y = nn.LayerNorm(name=f"norm{i}")(x)
            x = x + nn.MultiHeadDotProductAttention(
                self.heads, dropout_rate=self.dropout, deterministic=not train, name=f"attention{i}"
            )(y, mask=seen)
            y = nn.LayerNorm(name=f"mlp_norm{i}")(x)
            y = nn.gelu(nn.Dense(2 * width, name=f"mlp{i}")(y))
            x = x + nn.Dropout(self.dropout, deterministic=not train)(
                nn.Dense(width, name=f"mlp_out{i}")(y)
            )
        return nn.Dense(self.classes, name="logits")(nn.LayerNorm(name="norm")(x[:, 0]))


HEADS: dict[str, type[nn.Module]] = {
    "concatenation": ConcatFusion,
    "attention": AttentionPoolFusion,
    "transformer": TransformerFusion,
}
