"""Anchors: a frozen tower's embeddings of a few views of each record, read in place of its inputs."""

import dataclasses
import json
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError, first_line, one_line
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.sources.fingerprint import source_fingerprint
from imagebind_jax.inputs.sources.record import Source, Stamp, file_stamp, read_ranges
from imagebind_jax.inputs.transforms.augment import AugmentationParams
from imagebind_jax.storage.fingerprint import code_checksums, flatten_config, json_sha256
from imagebind_jax.storage.row_file import npy_header, read_json, read_metadata, verify_checksum
from imagebind_jax.version import __version__

PRECOMPUTED_PREFIX = "anchor:"  # before its modality: the embeddings in a batch
METADATA_FILE = "anchors.json"
AUGMENTATION_BYTES = (
    512  # bytes a view, of JSON: what it drew for both modalities, such as the crop
)
MAX_BLOCK_BYTES = 1 << 26  # bytes of a file, at most


@dataclasses.dataclass(frozen=True)
class FixedViews:
    """Of each record a pair's first modality is seen in `count` views only, always the same ones.

    All that is random in view k of record i is a function of (seed, i, k): what the first modality
    draws, and what both share (crop, flip, moment). What the second draws for itself, such as
    masked bands, is as new in every step as ever.
    """

    count: int
    seed: int = 0

    def __post_init__(self):
        if self.count < 1:
            raise UserError(f"views of a record must be at least 1, got {self.count}")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"the seed of views must be in [0, 2**32), got {self.seed}")

    def seeds(self, index: int, k: int) -> tuple[int, int]:
        """(of the first modality's own draws, of what both share) of view k of a record."""
        own, shared = np.random.default_rng([self.seed, index, k]).integers(2**63, size=2)
        return int(own), int(shared)


@dataclasses.dataclass(frozen=True)
class PrecomputedEmbeddings:
    """A folder that `imagebind-jax prepare CONFIG.py --anchors CKPT` has made."""

    folder: str | os.PathLike

    def __post_init__(self):
        object.__setattr__(self, "folder", os.fspath(self.folder))

    def facts(self) -> dict[str, Any]:
        """All that they depend on. Raises UserError where there are none."""
        path = pathlib.Path(self.folder) / METADATA_FILE
        if not path.exists():
            raise UserError(
                f"no anchors in {self.folder}: `imagebind-jax prepare CONFIG.py --anchors CKPT` "
                "makes them"
            )
        try:
            return read_json(path, dict[str, Any])
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({first_line(error)}): remove it") from error

    def open(self, wanted: Mapping[str, Any]) -> "PrecomputedReader":
        """Raises UserError unless they are whole, and of what is `wanted` (as of `precomputed_fingerprint_fields`)."""
        facts = self.facts()
        assert_same_fields(self.folder, facts, wanted)
        width = facts.get("width")  # of the tower, which is not at hand
        if not isinstance(width, int) or width < 1:
            raise UserError(
                f"{self.folder}/{METADATA_FILE} does not say how wide they are: remove it"
            )
        return PrecomputedReader(pathlib.Path(self.folder), facts)


def precomputed_fingerprint_fields(
    modality: str, source: Source, records: int, transform: Any, aligned: bool, views: FixedViews
) -> dict[str, Any]:
    """What of anchors' facts is known without the tower, as JSON gives it back."""
    facts = {
        "modality": modality,
        "views": views.count,
        "seed": views.seed,
        "aligned": aligned,
        "count": records,
        "records": source_fingerprint(source),
        "transform": flatten_config({"transform": transform}),
        "code": code_checksums(transform),
        "version": __version__,
    }
    return json.loads(json.dumps(facts))


def assert_same_fields(folder: str | os.PathLike, facts: Mapping, wanted: Mapping) -> None:
    """Raises UserError naming what of anchors is not as wanted."""
    if differ := list(_differing("", facts, wanted)):
        more = f" and {len(differ) - 3} more" if len(differ) > 3 else ""
        raise UserError(
            f"the anchors in {folder} are of another {'; '.join(differ[:3])}{more}: make others, "
            "or restore what they were made with"
        )


def _differing(name: str, found: Any, wanted: Any):
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        for key in wanted if not name else {**wanted, **found}:
            inner = key if name in ("", "transform") else f"{name}.{key}"
            yield from _differing(inner, found.get(key), wanted.get(key))
    elif found != wanted:
        yield f"{name} ({_short(found)}, not {_short(wanted)})"


def _short(value: Any) -> str:
    return one_line(str(value), 60)


class BlockLayout:
    """Which bytes of which file are of view k of record i: see `pack_view`."""

    def __init__(self, facts: Mapping[str, Any]):
        self.count, self.views, self.width = (facts[k] for k in ("count", "views", "width"))
        self.size = 4 * self.width + AUGMENTATION_BYTES + 4  # bytes of a view
        rows = max(1, MAX_BLOCK_BYTES // (self.views * self.size))
        self.blocks = [range(i, min(i + rows, self.count)) for i in range(0, self.count, rows)]
        self.of = json_sha256(facts)

    def shape(self, block: int) -> tuple[int, int]:
        """Of a file, as float32."""
        return len(self.blocks[block]), self.views * self.size // 4

    def where(self, index: int, k: int) -> tuple[int, int]:
        """(block, offset) of a view's bytes."""
        block, row = divmod(index, len(self.blocks[0]))
        start = len(npy_header(self.shape(block)))
        return block, start + (row * self.views + k) * self.size

    def said(self, block: int) -> dict[str, Any]:
        """What a block's note says that it is of."""
        return {"anchors": self.of, "block": block}


def block_path(folder: pathlib.Path, block: int) -> pathlib.Path:
    """Of a block, to which .npy and .json are added."""
    return folder / f"{block:06d}"


def encode_augmentation(made: AugmentationParams) -> bytes:
    """What a view has `made`, in AUGMENTATION_BYTES bytes. Raises UserError where it is more."""
    text = json.dumps(made).encode()  # floats exactly
    if len(text) > AUGMENTATION_BYTES:
        raise UserError(
            f"a view draws more than {AUGMENTATION_BYTES} bytes can hold ({len(made.get('operations', ()))} "
            "operations): anchors need an augmentation with fewer operations"
        )
    return text.ljust(AUGMENTATION_BYTES)


def pack_view(vector: Float[np.ndarray, "e"], text: bytes) -> bytes:
    """A view's bytes: its vector, what it drew, and a checksum of both."""
    data = vector.astype("<f4").tobytes() + text
    return data + zlib.crc32(data).to_bytes(4, "little")


class PrecomputedReader:
    """Anchors as a run reads them: by any number of threads, and sent to any process."""

    def __init__(self, folder: pathlib.Path, facts: Mapping[str, Any]):
        """Raises UserError where they are not whole."""
        self.facts, self._layout = facts, BlockLayout(facts)
        self._unusable: dict[int, str] = {}
        self._files: list[tuple[str, Stamp]] = []
        for block, rows in enumerate(self._layout.blocks):
            path = block_path(folder, block)
            file, shape = f"{path}.npy", self._layout.shape(block)
            try:
                note = read_metadata(path.with_name(f"{path.name}.json"))
                verify_checksum(note)
                self._files.append((file, file_stamp(file)))
                there = note.of == self._layout.said(block) and note.done == len(rows)
                size = len(npy_header(shape)) + 4 * shape[0] * shape[1]
                if not there or self._files[-1][1][0] != size:
                    raise ValueError("it is not finished")
                self._unusable |= {rows[int(row)]: why for row, why in note.unusable.items()}
            except (OSError, ValueError, IndexError) as error:  # a MediaError is one
                raise UserError(
                    f"{file}: {first_line(error)}: the same `imagebind-jax prepare` goes on"
                ) from error

    def read(self, index: int, k: int) -> tuple[Float[np.ndarray, "e"], AugmentationParams]:
        """(embedding, what was drawn) of view k of a record. Raises `MediaError`."""
        if index in self._unusable:
            raise MediaError("", self._unusable[index])
        block, offset = self._layout.where(index, k)
        file, stamp = self._files[block]
        [data] = read_ranges(file, stamp, [(offset, self._layout.size)])
        data, crc = data[:-4], data[-4:]
        if zlib.crc32(data).to_bytes(4, "little") != crc:
            raise MediaError(file, f"view {k} of record {index} is damaged")
        vector = np.frombuffer(data[:-AUGMENTATION_BYTES], "<f4").astype(np.float32)
        return vector, msgspec.json.decode(data[-AUGMENTATION_BYTES:], type=AugmentationParams)
