"""Encoders that go on learning under a head, and where their parameters come from."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import Embedder, EvalInputs, HasWeights
from imagebind_jax.evaluation.trained.fit_classifier import MultimodalArrays
from imagebind_jax.evaluation.trained.fusion_heads import PresenceMask
from imagebind_jax.models.encoder import Encoder
from imagebind_jax.models.imagebind import ImageBindConfig


@dataclasses.dataclass(frozen=True, eq=False)
class FineTuningInputs:
    """What encoders read, and the parameters they start from."""

    config: ImageBindConfig
    params: Mapping[str, Mapping[str, Any]]
    samples: MultimodalArrays

    @classmethod
    def of(cls, bench: Embedder, splits: Sequence[Sequence[EvalInputs]]) -> "FineTuningInputs":
        """Of the records of all splits, split after split.

        Raises UserError where the bench has embeddings alone, or items are of different shapes.
        """
        if not isinstance(bench, HasWeights):
            raise UserError(
                "fine_tune needs encoders, and these are embeddings of another system: give "
                "--checkpoint, or leave fine_tune out"
            )
        names = sorted(items.modality for items in splits[0])
        config, params = bench.weights(names)
        arrays = {}
        for name in names:
            of = [items for split in splits for items in split if items.modality == name]
            read = [bench.inputs(items) for items in of]
            there = np.concatenate([usable for _, usable in read])
            shapes = {x.shape[1:] for x, usable in read if usable.any()}
            if len(shapes) != 1:
                raise UserError(
                    f"{of[0].name}: inputs of {len(shapes)} shapes {sorted(shapes)}: choose one "
                    "transform for all splits, of inputs of one shape"
                )
            (shape,) = shapes
            blank = [x if x.shape[1:] == shape else np.zeros((len(x), *shape)) for x, _ in read]
            arrays[name] = np.concatenate(blank), there
        return cls(config, params, MultimodalArrays.of(arrays))

    def module(self, head: nn.Module) -> "FineTunedModel":
        """Takes the samples where the head alone takes standardised embeddings."""
        return FineTunedModel(self.config, head)


class FineTunedModel(nn.Module):
    """Encoders, each a top-level part by its modality, under a head.

    The head reads (z - mean) / deviation of unit vectors z, by the collection "standard":
    {modality: {"mean": [1, e], "deviation": [1, 1]}}, which is not learned.
    """

    config: ImageBindConfig
    head: nn.Module

    @nn.compact
    def __call__(
        self, x: Mapping[str, Array], there: PresenceMask, train: bool = False
    ) -> Float[Array, "b c"]:
        c, z = self.config, {}
        for name in sorted(x):
            encoder = Encoder(c.encoders[name], c.embed_dim, c.dtype, c.remat, c.unroll, name=name)
            mean, _ = encoder(x[name], train)
            length = jnp.linalg.norm(mean, axis=-1, keepdims=True)
            standard: Any = self.get_variable("standard", name)
            z[name] = (mean / jnp.maximum(length, 1e-12) - standard["mean"]) / standard["deviation"]
        return self.head(z, there, train)
