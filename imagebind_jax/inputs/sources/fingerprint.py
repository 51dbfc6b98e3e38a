"""What tells the records of a source from any others, so that nothing made of those is taken for theirs."""

import glob
import os
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.sources import prepared
from imagebind_jax.inputs.sources.prepared import Prepared
from imagebind_jax.inputs.sources.record import Source
from imagebind_jax.inputs.sources.tar import TarShards
from imagebind_jax.inputs.sources.tfds import Tfds


def source_fingerprint(source: Source) -> Any:
    """As JSON. Of a prepared split the digests of its shards; of tar files their sizes and times.

    Of any other source the content of all its records, but of a file only size and time of its last
    change: a copied file is another, and every record is read. Raises UserError where the source
    cannot be opened.
    """
    if isinstance(source, Prepared):
        split = prepared.split_info(source.folder, source.split)
        name = pathlib.PurePath(source.folder).name
        return {
            "prepared": name,
            "split": source.split,
            "shards": [s.sha256 for s in split.shards],
        }
    if isinstance(source, Tfds):
        return {"tfds": repr(source)}
    if isinstance(source, TarShards):
        patterns = source.paths if isinstance(source.paths, tuple) else (source.paths,)
        found = sorted(path for pattern in patterns for path in glob.glob(str(pattern)))
        return {"tar": [_file(path) for path in found], "fields": repr(source.fields)}
    records, crc = source.open(), 0
    for index in range(len(records)):
        try:
            said = _content(records[index])
        except MediaError as error:
            said = [str(error)]
        crc = zlib.crc32(repr(said).encode(), crc)
    return {"source": type(source).__name__, "records": len(records), "crc32": crc}


def _content(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return _file(os.fspath(value))
    if isinstance(value, bytes):
        return len(value), zlib.crc32(value)
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str, zlib.crc32(np.ascontiguousarray(value).tobytes())
    if isinstance(value, Mapping):
        return [(str(key), _content(value[key])) for key in sorted(value, key=str)]
    if isinstance(value, (list, tuple)):
        return [_content(item) for item in value]
    if isinstance(value, (str, int, float, bool, np.generic)) or value is None:
        return repr(value)
    raise UserError(
        f"a record holds a {type(value).__name__}, of which cannot be told whether it changed: "
        "records hold files, bytes, arrays, texts, numbers, and lists and mappings of them"
    )


def _file(path: str) -> list[Any]:
    """Its name alone, so that a folder may be moved."""
    try:
        stat = os.stat(path)
    except OSError as error:
        return [os.path.basename(path), str(error.strerror)]
    return [os.path.basename(path), stat.st_size, stat.st_mtime_ns]
