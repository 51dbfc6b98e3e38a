"""TensorFlow Datasets as a source, without TensorFlow, its media still encoded."""

import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.sources.record import (
    MEDIA,
    Record,
    check_fields,
    normalize_index,
    validate_record,
)


@dataclasses.dataclass(frozen=True)
class Tfds:
    """A split of a dataset that TFDS has prepared in its ArrayRecord format.

    name: as TFDS has it, "imagenet2012" or "mine/config:1.0.0". split: also "train[:1%]" and the
    like. fields: the record's field -> the dataset's feature, "captions/text" for one in another.
    Images stay encoded; arrays for a modality (a depth map, a sound) become .npy files.
    """

    name: str
    split: str
    data_dir: str | os.PathLike | None = None
    fields: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {"vision": "image", "label": "label"}
    )

    def __post_init__(self):
        if self.data_dir is not None:
            object.__setattr__(self, "data_dir", os.fspath(self.data_dir))
        check_fields(self.fields)

    def open(self) -> "TfdsRecords":
        """Raises UserError if it is not prepared on this machine, or has no such split or feature."""
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder(self.name, data_dir=self.data_dir)
            features = builder.info.features
            for feature in self.fields.values():
                _find(features, feature)
            data = builder.as_data_source(self.split, decoders=_encoded(features))
        except ImportError as error:
            raise UserError(f"{self.name} needs {error.name} even to be read: prepare it as a "
                            "Manifest or with `imagebind-jax prepare`") from error  # fmt: skip
        except KeyError as error:
            raise UserError(
                f"{self.name} has no feature {error.args[0]!r}: only {', '.join(features)}"
            ) from error
        except Exception as error:  # AssertionError, NotImplementedError, its own kinds
            raise UserError(
                f"TFDS cannot open {self.name} {self.split}: {first_line(error)}. It must be "
                f"prepared first: tfds.builder({self.name!r}, file_format='array_record')"
                ".download_and_prepare()"
            ) from error
        return TfdsRecords(self, data)


class TfdsRecords(Sequence[Record]):
    """The examples of an opened TFDS data source, as records."""

    def __init__(self, source: Tfds, data: Any):
        self._source, self._data = source, data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index):
        place = normalize_index(index, len(self))
        name = f"{self._source.name} {self._source.split}, example {place}"
        with media.wrap_decode_errors(name):
            example = self._data[place]
            record: dict[str, Any] = {"id": place}
            for key, feature in self._source.fields.items():
                record[key] = _value(key, _find(example, feature))
            return validate_record(record, name)

    def __reduce__(self):
        return Tfds.open, (self._source,)  # a builder's class may be one of __main__'s


def _find(example: Any, feature: str) -> Any:
    """Raises KeyError, with the feature's whole name."""
    for part in feature.split("/"):
        try:
            example = example[part]
        except (KeyError, TypeError):
            raise KeyError(feature) from None
    return example


def _encoded(features: Any) -> dict[str, Any]:
    """Decoders that leave images as they are in the files."""
    import tensorflow_datasets as tfds

    decoders: dict[str, Any] = {}
    for name, feature in features.items():
        if isinstance(feature, tfds.features.FeaturesDict):
            decoders[name] = _encoded(feature)
        elif isinstance(getattr(feature, "feature", feature), tfds.features.Image):
            decoders[name] = tfds.decode.SkipDecoding()
    return {name: decoder for name, decoder in decoders.items() if decoder != {}}


def _value(key: str, value: Any) -> Any:
    if isinstance(value, list):
        return [_value(key, item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if key in MEDIA and isinstance(value, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, value)
        return buffer.getvalue()
    return value.decode() if isinstance(value, bytes) and key not in MEDIA else value
