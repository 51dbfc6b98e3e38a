"""What a config says of two modalities that are learned together."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.examples import Transform
from imagebind_jax.inputs.pipeline.precomputed import (
    FixedViews,
    PrecomputedEmbeddings,
    PrecomputedReader,
    precomputed_fingerprint_fields,
)
from imagebind_jax.inputs.sources import Source


@dataclasses.dataclass(frozen=True)
class ModalityPair:
    """Two modalities that are learned together, and the records that hold both."""

    modalities: tuple[str, str]
    source: Source
    weight: float = 1.0  # share of the steps, relative to the other pairs'
    replication: float = 1.0  # how often an epoch holds a record; 1.25: always every fourth twice
    aligned: bool = True  # the same crop, flip and moment for both; else each its own
    # In place of the config's: vision beside depth is augmented otherwise than beside sound.
    inputs: Mapping[str, Transform] = dataclasses.field(default_factory=dict)
    views: FixedViews | None = (
        None  # of each record's first modality only so many, always the same ones
    )
    anchors: PrecomputedEmbeddings | None = (
        None  # their embeddings, in place of the first modality's inputs
    )

    def __post_init__(self):
        if len(set(self.modalities)) != 2:
            raise UserError(f"a pair is of two different modalities, not {self.modalities}")
        if unknown := self.inputs.keys() - set(self.modalities):
            raise UserError(f"inputs of {sorted(unknown)}, which the pair {self.name} has not")
        if self.anchors and not self.views:
            raise UserError(
                f"the anchors of {self.name} need to know of which views: views=FixedViews(8)"
            )
        if not 0 < self.weight < math.inf:
            raise UserError(f"the weight of {self.modalities} must be > 0, got {self.weight}")
        if not 1 <= self.replication < 1e6:
            raise UserError(
                f"the replication of {self.modalities} must be at least 1, got {self.replication}"
            )

    @property
    def name(self) -> str:
        return "+".join(self.modalities)

    @property
    def encoded(self) -> tuple[str, ...]:
        """The modalities whose encoders are run: not that which anchors stand for."""
        return self.modalities if self.anchors is None else self.modalities[1:]

    def anchored(
        self, inputs: Mapping[str, Transform], records: int, views: FixedViews
    ) -> dict[str, Any]:
        """What anchors of this pair depend on, but for the tower. inputs: the config's."""
        first = self.modalities[0]
        transform = self.inputs.get(first) or inputs[first]
        return precomputed_fingerprint_fields(
            first, self.source, records, transform, self.aligned, views
        )

    def opened(self, inputs: Mapping[str, Transform], records: int) -> PrecomputedReader | None:
        """Its anchors, if it has any. Raises UserError unless they are whole, and of this pair."""
        if self.anchors is None or self.views is None:
            return None
        return self.anchors.open(self.anchored(inputs, records, self.views))
