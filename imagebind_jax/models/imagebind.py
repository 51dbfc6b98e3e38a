"""ImageBind: {modality: inputs} -> {modality: unit vectors}, their logit scales, the named sizes."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from imagebind_jax.errors import UserError
from imagebind_jax.models.encoder import Encoder, EncoderConfig
from imagebind_jax.models.layers import REMAT_POLICIES

DTYPES = ("float32", "bfloat16", "float64")  # the last with JAX's 64 bits on, to check others by


@dataclasses.dataclass(frozen=True)
class ImageBindConfig:
    """A model: its encoders by modality, the width of the shared space, and how to compute it.

    `dtype` is the compute type (parameters, softmax, norms and scales stay float32), `remat`
    names what a block keeps for the backward pass (none: keep all), `unroll` how many blocks
    one iteration of the scan over layers holds.
    """

    encoders: Mapping[str, EncoderConfig]
    embed_dim: int = 1024
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1

    def __post_init__(self):
        for name in self.encoders:  # a part of paths and of other formats' names
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,30}", name):
                raise UserError(f"modality {name[:60]!a}: small letters, digits and _ only")
        if not self.encoders or self.embed_dim < 1:
            raise UserError(f"{len(self.encoders)} encoders into {self.embed_dim} dimensions")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype {self.dtype!r}: not one of {', '.join(DTYPES)}")
        if self.remat not in ("none", *REMAT_POLICIES):
            raise UserError(f"remat {self.remat!r}: not one of none, {', '.join(REMAT_POLICIES)}")

    def __hash__(self):  # a model is a static argument of jitted functions, and dicts have no hash
        encoders = tuple(sorted(self.encoders.items(), key=lambda item: item[0]))
        return hash((encoders, self.embed_dim, self.dtype, self.remat, self.unroll))


class ImageBind(nn.Module):
    """Six encoders, one unit sphere; only those whose modality is in the inputs are run."""

    config: ImageBindConfig
    gather: Callable | None = None  # (modality, {"params": a layer's}, dtype) -> them, whole

    @nn.compact
    def __call__(
        self,
        inputs: Mapping[str, Num[Array, "b ..."]],
        train: bool | Mapping[str, bool] = False,
        rows: Int[Array, "b"] | None = None,
    ) -> tuple[dict[str, Float[Array, "b e"]], dict[str, Float[Array, ""]]]:
        """Returns ({modality: embeddings}, {modality: logit scale}); multiply to get the
        released model's outputs. train: whether paths and features are dropped, of all encoders
        or by modality; rows: each sample's number in the global batch, which that depends on.
        Raises UserError on a modality the model lacks."""
        c = self.config
        embeddings, scales = {}, {}
        for modality, x in inputs.items():
            if modality not in c.encoders:
                raise UserError(f"no {modality!r} encoder here: only {', '.join(c.encoders)}")
            gather = self.gather and functools.partial(self.gather, modality)
            encoder = Encoder(
                c.encoders[modality], c.embed_dim, c.dtype, c.remat, c.unroll, gather, name=modality
            )
            trains = train if isinstance(train, bool) else train[modality]
            embeddings[modality], scales[modality] = encoder(x, trains, rows)
        return embeddings, scales


@functools.partial(jax.jit, static_argnums=0)
def init(config: ImageBindConfig, key: Array) -> dict:
    """Random parameters {modality: {...}} of every encoder."""
    inputs = {
        name: jnp.zeros((1, *c.shape), jnp.int32 if c.vocab_size else jnp.float32)
        for name, c in config.encoders.items()
    }
    return ImageBind(config).init(key, inputs)["params"]


def count_parameters(config: ImageBindConfig) -> dict[str, int]:
    """{modality: number of parameters}, without making any."""
    params = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
    return {
        modality: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tower))
        for modality, tower in params.items()
    }


Fields = dict[str, Any]


def _size(
    vision: Fields, text: Fields, audio: Fields, depth: Fields, thermal: Fields, imu: Fields
) -> dict[str, EncoderConfig]:
    """The six rows that the sizes share; only patches, widths and depths differ."""
    image: Fields = {"patch": (16, 16), "bias_kv": True, "stem_norm": True}
    return {
        "vision": EncoderConfig((2, 224, 224, 3), pre_norm=True, **vision),
        "text": EncoderConfig(
            (77,),
            vocab_size=49408,
            position_std=0.01,
            logit_scale=1 / 0.07,
            learn_scale=True,
            **text,
        ),
        "audio": EncoderConfig(
            (128, 204, 1), stride=(10, 10), drop_path=0.1, logit_scale=20.0, **image, **audio
        ),
        "depth": EncoderConfig((224, 224, 1), logit_scale=5.0, **image, **depth),
        "thermal": EncoderConfig((224, 224, 1), logit_scale=10.0, **image, **thermal),
        "imu": EncoderConfig(
            (2000, 6),
            patch=(8,),
            bias_kv=True,
            stem_norm=True,
            drop_path=0.7,
            head_dropout=0.5,
            position_std=0.01,
            logit_scale=5.0,
            **imu,
        ),
    }


# The released model, imagebind_huge: 1,200,781,057 parameters.
HUGE = ImageBindConfig(
    _size(
        vision={"patch": (2, 14, 14), "width": 1280, "depth": 32, "heads": 16},
        text={"width": 1024, "depth": 24, "heads": 16},
        audio={"width": 768, "depth": 12, "heads": 12},
        depth={"width": 384, "depth": 12, "heads": 8},
        thermal={"width": 768, "depth": 12, "heads": 12},
        imu={"width": 512, "depth": 6, "heads": 8},
    ),
    embed_dim=1024,
)

# The ablations' size: ViT-B/16 vision and CLIP's base text tower.
BASE = ImageBindConfig(
    _size(
        vision={"patch": (2, 16, 16), "width": 768, "depth": 12, "heads": 12},
        text={"width": 512, "depth": 12, "heads": 8},
        audio={"width": 768, "depth": 12, "heads": 12},
        depth={"width": 384, "depth": 12, "heads": 8},
        thermal={"width": 768, "depth": 12, "heads": 12},
        imu={"width": 512, "depth": 6, "heads": 8},
    ),
    embed_dim=512,
)

_SMALL: Fields = {"width": 96, "depth": 2, "heads": 3, "mlp_ratio": 2.0, "logit_scale": 10.0}
_IMAGE: Fields = {"patch": (32, 32), "bias_kv": True, **_SMALL}
# The demo's: 64 pixels, 32 tokens of text (the world's captions have 22 words at most).
# Large patches, few tokens: on two cores, many cheap steps teach more than a few fine-grained
# ones. No norm in these stems: it would hide how warm, near or loud a patch is.
TINY = ImageBindConfig(
    {
        "vision": EncoderConfig(
            (2, 64, 64, 3),
            patch=(2, 32, 32),
            width=128,
            depth=3,
            heads=4,
            mlp_ratio=2.0,
            stem_norm=True,
        ),
        "text": EncoderConfig((32,), vocab_size=49408, position_std=0.01, **_SMALL),
        "audio": EncoderConfig((128, 204, 1), **_IMAGE | {"patch": (128, 17)}),
        "depth": EncoderConfig((64, 64, 1), **_IMAGE),
        "thermal": EncoderConfig((64, 64, 1), **_IMAGE),
        "imu": EncoderConfig((2000, 6), **_IMAGE | {"patch": (200,)}),
    },
    embed_dim=64,
)


def embed(
    model: ImageBind, params: Mapping, inputs: Mapping[str, Any], *, scaled: bool = False
) -> dict[str, Float[Array, "b e"]]:
    """{modality: unit vectors} of a batch of inputs, {modality: arrays as the encoders take them}.

    scaled: multiply by each modality's logit scale, and leave averages over clips as they are:
    the outputs of the reference implementation.
    """
    embeddings, scales = _apply(model, params, dict(inputs))
    if scaled:
        return {modality: scales[modality] * z for modality, z in embeddings.items()}
    return {modality: _unit(z) for modality, z in embeddings.items()}


def _unit(z):
    """Rows of length 1; a row of zeros, which has no direction, stays."""
    length = jnp.linalg.norm(z, axis=-1, keepdims=True)
    return z / jnp.maximum(length, jnp.finfo(length.dtype).tiny)


@functools.partial(jax.jit, static_argnums=0)
def _apply(model, params, inputs):
    return model.apply({"params": params}, inputs)


def similarity(
    a: Float[Array, "n e"], b: Float[Array, "m e"], *, softmax_scale: float | None = None
) -> Float[Array, "n m"]:
    """Cosines of every row of a with every row of b, in [-1, 1].

    softmax_scale: multiply by it and take the softmax over b, as the reference's examples do:
    probabilities among exactly these b, sharper with a larger scale (text: the learned logit
    scale, 100 in the released model). They compare candidates; a cosine compares strangers.
    """
    cosines = _unit(jnp.asarray(a)) @ _unit(jnp.asarray(b)).T
    if softmax_scale is None:
        return cosines
    return jax.nn.softmax(softmax_scale * cosines, axis=-1)
