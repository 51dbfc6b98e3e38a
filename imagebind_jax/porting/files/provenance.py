"""What a file or folder that we write says of itself: the model, the origin, a digest of each array."""

import hashlib
import json
from typing import Any

import msgspec
import numpy as np

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.version import __version__

FORMAT = 1
KEY = "imagebind_jax"  # of a note in another format's metadata
LARGEST = 16 << 20  # bytes; a note of the released model takes 100 kB


class WeightsMetadata(msgspec.Struct):
    """The model; where its weights come from (file, bytes, SHA-256, licence); {array: digest}."""

    config: ImageBindConfig
    origin: dict[str, str | int]
    digests: dict[str, str]


def encode_metadata(note: WeightsMetadata) -> str:
    """The note as JSON, with a SHA-256 of itself."""
    said = {"format": FORMAT, "version": __version__, **msgspec.to_builtins(note)}
    return json.dumps({**said, "seal": _sha256(said)}, indent=1)


def decode_metadata(text: str | bytes, where: object) -> WeightsMetadata:
    """The note. Raises UserError on one that was changed, damaged, or is of a newer version."""
    try:
        said = json.loads(text)
        whole = said.pop("seal") == _sha256(said)
        if said["format"] != FORMAT:
            raise UserError(
                f"{where} has format {said['format']!r}, not {FORMAT}: update this package"
            )
        note = msgspec.convert(said, WeightsMetadata)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UserError(
            f"{where} is damaged ({first_line(error)}): convert the weights again"
        ) from error
    if any(len(str(value)) > 4096 for value in note.origin.values()):
        raise UserError(f"{where}: what it says of its origin is too long")
    if not whole:
        raise UserError(f"{where} was changed since it was written: convert the weights again")
    return note


def array_sha256(x: np.ndarray) -> str:
    """The SHA-256 of an array's dtype, shape and bytes (C order)."""
    hashed = start_array_sha256(x.dtype, x.shape)
    hashed.update(array_bytes(x))
    return hashed.hexdigest()


def start_array_sha256(dtype: np.dtype, shape: tuple[int, ...]) -> Any:
    """The hash of `array_sha256`, to be updated with the bytes."""
    return hashlib.sha256(f"{dtype.name}{list(shape)}\n".encode())


def array_bytes(x: np.ndarray) -> memoryview:
    """The bytes of an array in C order; not copied where they lie so."""
    return np.array(x, order="C", copy=None).reshape(-1).view(np.uint8).data


def _sha256(said: dict) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
