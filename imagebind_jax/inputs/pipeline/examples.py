"""Records to rows of a batch: one record's model inputs, or a masked row that says what was wrong."""

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from imagebind_jax.errors import UserError, one_line
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.pipeline.precomputed import (
    PRECOMPUTED_PREFIX,
    FixedViews,
    PrecomputedReader,
    encode_augmentation,
)
from imagebind_jax.inputs.sources import Record
from imagebind_jax.inputs.transforms.augment import SharedAugmentation
from imagebind_jax.runtime import breadcrumbs

Batch = dict[str, np.ndarray]
SHAPE_PROBE_LIMIT, SHAPE_PROBE_WANTED = (
    100,
    3,
)  # records read at most, and wanted, to learn what a row holds


@runtime_checkable
class Transform(Protocol):
    """One modality of a record -> one model input; without `rng`, as for evaluation."""

    def __call__(self, record: Record, rng: np.random.Generator | None) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class Standardize:
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
class ToModelInputs:
    """record -> {modality: input}; modalities share the record's view, and each has its own rng.

    The view holds what aligned modalities have in common: the crop of an image and its depth map,
    the moment of a video and its sound. Not `aligned`, each draws a view of its own.
    `views`: the first modality, and what is shared, is one of so many views of the record;
    `anchors`: which are embedded already, so that the first modality's transform is not called.
    """

    transforms: Mapping[str, Transform]
    aligned: bool = True
    views: FixedViews | None = None
    anchors: PrecomputedReader | None = None

    def __call__(self, record: Record, rng: np.random.Generator | None, index: int = 0) -> Batch:
        """index: the record's. Raises `MediaError` where a medium cannot be used, or an input is
        not finite."""
        inputs, transforms = {}, dict(self.transforms)
        rngs = dict.fromkeys(transforms)
        if rng:  # no rng.spawn: it counts its calls, and grain uses one generator for many records
            *seeds, shared = rng.integers(2**63, size=len(rngs) + 1)
            first, made = next(iter(transforms)), None
            if self.views:
                k = int(rng.integers(self.views.count))
                seeds[0], shared = self.views.seeds(index, k)
                if self.anchors:
                    del transforms[first]
                    inputs[f"{PRECOMPUTED_PREFIX}{first}"], made = self.anchors.read(index, k)
            rngs = {name: np.random.default_rng(seed) for name, seed in zip(rngs, seeds)}
            if self.aligned:
                record = {**record, "view": SharedAugmentation(int(shared), made)}
        inputs |= {name: transform(record, rngs[name]) for name, transform in transforms.items()}
        _check_finite(inputs, record)
        return inputs


def _check_finite(inputs: Batch, record: Record) -> None:
    for name, x in inputs.items():
        if x.dtype.kind == "f" and not np.isfinite(x).all():
            raise MediaError(str(record.get("id", "this record")), f"{name} is not finite")


@dataclasses.dataclass(frozen=True)
class ToAllViews:
    """record -> {"input": [views, ...], "drawn": [views, bytes]}: what `ToModelInputs` makes of its first
    modality in each of the record's views, and what the second has to follow."""

    transform: Transform
    aligned: bool
    views: FixedViews

    def __call__(self, record: Record, rng: np.random.Generator | None, index: int) -> Batch:
        """rng is not used. Raises `MediaError` as `ToModelInputs` does, and where the views' shapes differ."""
        inputs, shared = [], []
        for k in range(self.views.count):
            own, seed = self.views.seeds(index, k)
            view = SharedAugmentation(seed)
            seen = {**record, "view": view} if self.aligned else record
            inputs.append(self.transform(seen, np.random.default_rng(own)))
            shared.append(np.frombuffer(encode_augmentation(view.made), np.uint8))
        if len({(x.shape, x.dtype.str) for x in inputs}) > 1:
            raise MediaError(str(record.get("id", "this record")), "its views differ in shape")
        made = {"input": np.stack(inputs), "drawn": np.stack(shared)}
        _check_finite(made, record)
        return made


class Examples:
    """row(index, rng): {modality: input, "weight": 1 or 0, "bad": "" or what was wrong, as JSON}.

    A record that cannot be used gives zeros of weight 0, which are neither positive nor negative
    in the loss: the stream keeps its shape and its order.
    """

    def __init__(self, records: Sequence, to_inputs: ToModelInputs | ToAllViews, name: str):
        self.records, self.to_inputs, self.name = records, to_inputs, name

    def __len__(self) -> int:
        return len(self.records)

    def id(self, index: int) -> str:
        """What a record calls itself, in one line; or its number."""
        try:
            name = self.records[index].get("id")
        except MediaError:
            name = None
        return f"record {index}" if name is None else one_line(str(name), 100)

    def row(self, index: int, rng: np.random.Generator | None) -> Batch:
        inputs, bad = self.made(index, rng, self._check_shapes)
        return _row(self._zeros, 0, bad) if inputs is None else _row(inputs, 1, "")

    def made_alike(self, index: int) -> tuple[Batch | None, str]:
        """`made` without rng, of records that give what most of them do: others cannot be used."""
        return self.made(index, None, self._check_shapes)

    def made(
        self,
        index: int,
        rng: np.random.Generator | None,
        check: Callable[[Batch], None] = lambda inputs: None,
    ) -> tuple[Batch | None, str]:
        """(a record's inputs, "") or, where it cannot be used, (None, what was wrong as JSON)."""
        record: Mapping[str, Any] = {}
        breadcrumbs.set_current_read(f"{self.name}, record {index}")
        try:
            record = self.records[index]
            inputs = self.to_inputs(record, rng, index)
            check(inputs)
            return inputs, ""
        except MediaError as error:
            # Bounded, as a batch's messages become one array as wide as the longest.
            said: dict[str, Any] = {"record": index}
            said["file"] = one_line(error.source or f"record {index}", 300)
            said["reason"] = one_line(error.reason, 300)
            if "id" in record:
                said["id"] = one_line(str(record["id"]), 100)
            return None, json.dumps(said)
        except Exception as error:
            error.add_note(f"while making {self.name}, record {index}")
            raise
        finally:
            breadcrumbs.set_current_read("")

    def _any_rng(self) -> np.random.Generator | None:
        return np.random.default_rng(0)

    def _check_shapes(self, inputs: Batch) -> None:
        """A still among videos is a row of another shape, which no batch could hold."""
        for name, x in inputs.items():
            like = self._zeros[name]
            if (x.shape, x.dtype) != (like.shape, like.dtype):
                found, wanted = (f"{y.dtype} {list(y.shape)}" for y in (x, like))
                raise MediaError("", f"{name} is {found}, and not {wanted} as most records'")

    @functools.cached_property
    def _zeros(self) -> Batch:
        """What a row holds, learned from a few records all over the source: the same anywhere.

        The shapes that most of them have, so that no odd one among them makes all others wrong.
        """
        found: collections.Counter[tuple] = collections.Counter()
        first, tried = None, 0
        for index in dict.fromkeys(
            np.linspace(0, len(self) - 1, SHAPE_PROBE_LIMIT).astype(int).tolist()
        ):
            if found.total() == SHAPE_PROBE_WANTED:
                break
            tried += 1
            try:
                inputs = self.to_inputs(self.records[index], self._any_rng(), index)
            except MediaError as error:
                first = first or error
                continue
            found[tuple((name, x.shape, x.dtype.str) for name, x in inputs.items())] += 1
        if not found:
            raise UserError(f"{self.name}: none of {tried} records can be used: {first}")
        [(shapes, _)] = found.most_common(1)
        return {name: np.zeros(shape, dtype) for name, shape, dtype in shapes}


def _row(inputs: Batch, weight: int, bad: str) -> Batch:
    return {**inputs, "weight": np.array(weight, np.float32), "bad": np.array(bad)}


class CachedExamples(Examples):
    """Rows that are made once each, in their evaluation form, and kept.

    For sets of a few thousand small records, where decoding would take longer than the step.
    """

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._rows: dict[int, Batch] = {}

    def _any_rng(self) -> None:
        return None

    def row(self, index: int, rng: np.random.Generator | None) -> Batch:
        if index not in self._rows:
            self._rows[index] = super().row(index, None)
        return self._rows[index]
