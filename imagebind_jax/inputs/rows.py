"""Records to rows of a batch: one record's model inputs, or a masked row that says what was wrong."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.inputs import crumbs
from imagebind_jax.inputs.augment import View
from imagebind_jax.inputs.media import MediaError
from imagebind_jax.inputs.sources import Record

Batch = dict[str, np.ndarray]
TRIED = 100  # records read to learn the shapes of a masked row


@runtime_checkable
class Transform(Protocol):
    """One modality of a record -> one model input; without `rng`, as for evaluation."""

    def __call__(self, record: Record, rng: np.random.Generator | None) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Standardised:
    """Another transform's output, minus `mean` and divided by `std`, of which there is one a channel.

    For data that is not what a released model was trained on: that has its constants built in.
    """

    transform: Transform
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        x = self.transform(record, rng)
        return (x - np.asarray(self.mean, x.dtype)) / np.asarray(self.std, x.dtype)


@dataclasses.dataclass(frozen=True)
class ToInputs:
    """record -> {modality: input}; modalities share the record's view, and each has its own rng.

    The view holds what aligned modalities have in common: the crop of an image and its depth map,
    the moment of a video and its sound. Not `aligned`, each draws a view of its own.
    """

    transforms: Mapping[str, Transform]
    aligned: bool = True

    def __call__(self, record: Record, rng: np.random.Generator | None) -> Batch:
        """Raises `MediaError` where a medium cannot be used, or an input is not finite."""
        rngs: list = [None] * len(self.transforms)
        if rng:  # no rng.spawn: it counts its calls, and grain uses one generator for many records
            *seeds, shared = rng.integers(2**63, size=len(rngs) + 1)
            rngs = [np.random.default_rng(seed) for seed in seeds]
            if self.aligned:
                record = {**record, "view": View(int(shared))}
        inputs = {name: t(record, r) for (name, t), r in zip(self.transforms.items(), rngs)}
        for name, x in inputs.items():
            if x.dtype.kind == "f" and not np.isfinite(x).all():
                raise MediaError(str(record.get("id", "this record")), f"{name} is not finite")
        return inputs


class Rows:
    """row(index, rng): {modality: input, "weight": 1 or 0, "bad": "" or what was wrong, as JSON}.

    A record that cannot be used gives zeros of weight 0, which are neither positive nor negative
    in the loss: the stream keeps its shape and its order.
    """

    def __init__(self, records: Sequence, to_inputs: ToInputs, name: str):
        self.records, self.to_inputs, self.name = records, to_inputs, name

    def __len__(self) -> int:
        return len(self.records)

    def row(self, index: int, rng: np.random.Generator | None) -> Batch:
        record: Mapping[str, Any] = {}
        crumbs.note(f"{self.name}, record {index}")
        try:
            record = self.records[index]
            inputs = self.to_inputs(record, rng)
            self._check_shapes(inputs)
            return _row(inputs, 1, "")
        except MediaError as error:
            file = error.source or f"record {index}"
            said = {"record": index, "file": file, "reason": error.reason}
            if "id" in record:
                said["id"] = str(record["id"])
            return _row(self._zeros, 0, json.dumps(said))
        finally:
            crumbs.note("")

    def _check_shapes(self, inputs: Batch) -> None:
        """A still among videos is a row of another shape, which no batch could hold."""
        for name, x in inputs.items():
            like = self._zeros[name]
            if (x.shape, x.dtype) != (like.shape, like.dtype):
                found, wanted = (f"{y.dtype} {list(y.shape)}" for y in (x, like))
                raise MediaError("", f"{name} is {found}, and not {wanted} as the first record's")

    @functools.cached_property
    def _zeros(self) -> Batch:
        """A row's shapes, learned from the first record that can be read: the same in any process."""
        first = None
        for index in range(min(len(self), TRIED)):
            try:
                inputs = self.to_inputs(self.records[index], None)
                return {name: np.zeros_like(x) for name, x in inputs.items()}
            except MediaError as error:
                first = first or error
        raise UserError(f"{self.name}: none of the first {index + 1} records can be used: {first}")


def _row(inputs: Batch, weight: int, bad: str) -> Batch:
    return {**inputs, "weight": np.array(weight, np.float32), "bad": np.array(bad)}


class InMemory(Rows):
    """Rows that are made once each, in their evaluation form, and kept.

    For sets of a few thousand small records, where decoding would take longer than the step.
    """

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._rows: dict[int, Batch] = {}

    def row(self, index: int, rng: np.random.Generator | None) -> Batch:
        if index not in self._rows:
            self._rows[index] = super().row(index, None)
        return self._rows[index]
