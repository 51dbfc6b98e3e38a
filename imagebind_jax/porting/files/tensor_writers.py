"""Tensor files written as a stream, one tensor in memory: safetensors, and PyTorch's zip format."""

import concurrent.futures
import contextlib
import io
import json
import pathlib
import queue
import struct
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from imagebind_jax.porting.files import provenance
from imagebind_jax.porting.files.provenance import KEY
from imagebind_jax.porting.torch_pickle.torch_file import TensorSpec
from imagebind_jax.storage import atomic

Specs = Mapping[str, TensorSpec]
Named = Iterable[tuple[str, np.ndarray]]
Describe = Callable[[Mapping[str, str]], provenance.WeightsMetadata]  # of {name: digest}

_SAFE = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_STORAGE = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
}
_DIGEST = 64  # characters of a SHA-256
_NOTE_ROOM = 64 << 10  # bytes for what a note says beside digests
_HASHING = concurrent.futures.ThreadPoolExecutor(1, "sha256")


@contextlib.contextmanager
def prefetch_next(tensors: Named) -> Iterator[Named]:
    """The same tensors, the next one made by another thread while one is being written."""
    made: queue.Queue = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def make() -> None:
        try:
            for named in tensors:
                made.put(named)
                if stopped.is_set():
                    return
            made.put(None)
        except BaseException as error:  # raised where the tensors are wanted
            made.put(error)

    def taken() -> Iterator[tuple[str, np.ndarray]]:
        while (item := made.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=make, daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        stopped.set()
        while thread.is_alive():  # it may be waiting for room
            with contextlib.suppress(queue.Empty):
                made.get(timeout=0.05)


def write_safetensors(path: pathlib.Path, specs: Specs, tensors: Named, describe: Describe) -> None:
    """Writes `tensors`, which come in the order of `specs`, and their digests.

    The note stands in the file's own metadata: safetensors has no checksums. `describe` makes it
    of the digests, when all is written.
    """
    # The note is known last and stands first: room is kept, for spaces may end a header.
    digests = dict.fromkeys(specs, "0" * _DIGEST)
    with atomic.atomic_write(path) as file:
        room = len(_safe_header(specs, "")) + _NOTE_ROOM + len(json.dumps(digests, indent=1)) * 2
        room += -room % 8
        file.seek(room)
        for name, x in tensors:
            digests[name] = _write(file.write, x, specs[name])
        header = _safe_header(specs, provenance.encode_metadata(describe(digests)), room)
        assert len(header) == room, "a longer note than there was room for"
        file.seek(0)
        file.write(header)


def _safe_header(specs: Specs, said: str, length: int = 0) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt", KEY: said}}
    offset = 0
    for name, spec in specs.items():
        header[name] = {
            "dtype": _SAFE[spec.dtype.name],
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    encoded = json.dumps(header).encode().ljust(length - 8)
    encoded += b" " * (-len(encoded) % 8)  # tensors begin at a multiple of 8
    return struct.pack("<Q", len(encoded)) + encoded


def write_torch(
    path: pathlib.Path, specs: Specs, tensors: Named, describe: Describe | None = None
) -> None:
    """The same as a state dict for `torch.load(weights_only=True)`: a zip of an OrderedDict.

    The note, if there is one, is a member of the zip that PyTorch passes over.
    """
    digests = {}
    numbers = {name: i for i, name in enumerate(specs)}
    with (
        atomic.atomic_write(path) as file,
        zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
    ):
        top = "archive"  # whatever the file is called later
        _member(archive, f"{top}/data.pkl", _state_dict(specs))
        _member(archive, f"{top}/byteorder", b"little")
        for name, x in tensors:
            info = _info(archive, f"{top}/data/{numbers[name]}", specs[name].nbytes)
            with archive.open(info, "w") as member:
                digests[name] = _write(member.write, x, specs[name])
        _member(archive, f"{top}/version", b"3\n")
        if describe:
            _member(
                archive, f"{top}/{KEY}.json", provenance.encode_metadata(describe(digests)).encode()
            )


def _write(write: Callable, x: np.ndarray, spec: TensorSpec) -> str:
    assert x.shape == spec.shape and x.dtype == spec.dtype, (x.shape, x.dtype, spec)
    x = np.array(x, order="C", copy=None)
    hashed = _HASHING.submit(provenance.array_sha256, x)  # both let go of Python's lock
    write(provenance.array_bytes(x))
    return hashed.result()


def _member(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    with archive.open(_info(archive, name, len(content)), "w") as member:
        member.write(content)


def _info(archive: zipfile.ZipFile, name: str, size: int) -> zipfile.ZipInfo:
    """A member whose bytes begin at a multiple of 64, so that they can be mapped as they are."""
    info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
    info.file_size = size
    assert archive.fp is not None
    zip64 = 20 if size * 1.05 > zipfile.ZIP64_LIMIT else 0
    begin = archive.fp.tell() + 30 + len(name.encode()) + zip64 + 4
    padding = -begin % 64
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding  # as PyTorch pads
    return info


def _state_dict(specs: Specs) -> bytes:
    """The object graph of an OrderedDict of contiguous tensors, each with a storage of its own.

    In pickle's opcodes of protocol 2, as `torch.save` writes them and `torch.load` allows them.
    """
    out = io.BytesIO()
    ordered_dict = b"ccollections\nOrderedDict\n)R"
    out.write(b"\x80\x02" + ordered_dict + b"(")
    for i, (name, spec) in enumerate(specs.items()):
        count = spec.nbytes // spec.dtype.itemsize
        strides = [1]
        for size in spec.shape[:0:-1]:
            strides.insert(0, strides[0] * max(size, 1))
        out.write(_text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((")
        out.write(_text("storage") + b"ctorch\n" + _STORAGE[spec.dtype.name].encode() + b"\n")
        out.write(_text(str(i)) + _text("cpu") + _integer(count) + b"tQ" + _integer(0))
        out.write(b"(" + b"".join(map(_integer, spec.shape)) + b"t")
        out.write(b"(" + b"".join(map(_integer, strides if spec.shape else [])) + b"t")
        out.write(b"\x89" + ordered_dict + b"tR")
    out.write(b"u.")
    return out.getvalue()


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _integer(number: int) -> bytes:
    if number < 2**31:
        return b"J" + struct.pack("<i", number)
    encoded = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded
