"""torch.save files made by hand, byte for byte, so that every byte can also be wrong."""

import struct
import zlib

import numpy as np


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return b"X" + struct.pack("<L", len(data)) + data


def number(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def name(full: str) -> bytes:
    module, _, last = full.rpartition(".")
    return f"c{module}\n{last}\n".encode()


def numbers(values) -> bytes:
    return b"(" + b"".join(number(value) for value in values) + b"t"


ORDERED = name("collections.OrderedDict") + b")R"
FALSE, TRUE, NONE = b"\x89", b"\x88", b"N"
V2 = "torch._utils._rebuild_tensor_v2"


def storage(
    key="0", count: int | bytes = 4, kind: str | bytes = "torch.FloatStorage", **parts: bytes
) -> bytes:
    """BINPERSID of a storage; `parts` replace opcodes of the tuple."""
    fields = {
        "word": text("storage"),
        "kind": kind if isinstance(kind, bytes) else name(kind),
        "key": text(key),
        "device": text("cpu"),
        "count": count if isinstance(count, bytes) else number(count),
    } | parts
    return b"(" + b"".join(fields.values()) + b"tQ"


make_storage = storage  # where an argument has its name


def tensor(
    shape=(4,), strides=(1,), offset=0, function=V2, *, grad=FALSE, hooks=ORDERED, more=b"",
    storage=None, **parts: bytes,
) -> bytes:  # fmt: skip
    """A call of `_rebuild_tensor_v2`. Every argument may be opcodes; `parts` go to the storage."""
    return b"".join([
        name(function),
        b"(",
        storage or make_storage(**parts),
        offset if isinstance(offset, bytes) else number(offset),
        shape if isinstance(shape, bytes) else numbers(shape),
        strides if isinstance(strides, bytes) else numbers(strides),
        grad,
        hooks,
        more,
        b"tR",
    ])  # fmt: skip


def called(function: str, *arguments: bytes) -> bytes:
    return name(function) + b"(" + b"".join(arguments) + b"tR"


def items(entries: dict[str, bytes]) -> bytes:
    return b"(" + b"".join(text(key) + value for key, value in entries.items()) + b"u"


def mapping(**entries: bytes) -> bytes:
    return b"}" + items(entries)


def bag(attributes: dict[str, bytes] | None = None, kind="__torch__.Net", **more: bytes) -> bytes:
    """An object of TorchScript."""
    return name(kind) + b")\x81}" + items((attributes or {}) | more) + b"b"


def description(top: bytes) -> bytes:
    return b"\x80\x02" + top + b"."


FOUR = np.arange(1, 5, dtype=np.float32).tobytes()


def torch_file(top: bytes, *, raw: bytes | None = None, data=None, records=None, **lies) -> bytes:
    """A whole file with the description `top`, whose storages are `data` ({key: bytes})."""
    members = {
        "data.pkl": description(top) if raw is None else raw,
        "byteorder": b"little",
        **{f"data/{key}": value for key, value in ({"0": FOUR} if data is None else data).items()},
        "version": b"3\n",
    } | (records or {})
    kept = {f"top/{key}": value for key, value in members.items() if value is not None}
    return zipped(list(kept.items()), **lies)


def script_file(top: bytes, *, code: bytes = b"import os\n" * 99, each=None, records=None, **lies):
    """As `torch_file`, of torch.jit.save: with code, which it deflates, and constants."""
    program = {
        "code/__torch__.py": zlib.compress(code, 9, -15),
        "constants/0": FOUR,
        "constants.pkl": b"\x80\x02).",
    }
    known = {"method": 8, "size": len(code), "crc": zlib.crc32(code)}
    each = {"top/code/__torch__.py": known} | (each or {})
    return torch_file(top, records=program | (records or {}), each=each, **lies)


def zipped(members, *, each=None, descriptors=False, zip64=False, gap=b"", comment=b"", **end):
    """A zip archive of (name, bytes) members, stored.

    `each[name]` changes that member's fields in both headers, or, as "local_..." or "central_...",
    in one; `end` changes fields of the end record, as "end64_..." those of zip64's.
    """
    body, directory = b"", b""
    for key, data in members:
        lie = (each or {}).get(key, {})
        encoded = key if isinstance(key, bytes) else key.encode()
        fields = {
            "name": encoded,
            "flags": 0x808 if descriptors else 0x800,
            "method": 0,
            "crc": zlib.crc32(data),
            "packed": len(data),
            "size": len(data),
            "extra": b"",
            "offset": len(body),
            "data": data,
            "disk": 0,
        } | {k: v for k, v in lie.items() if not k.startswith(("local_", "central_"))}
        one = fields | {k[6:]: v for k, v in lie.items() if k.startswith("local_")}
        two = fields | {k[8:]: v for k, v in lie.items() if k.startswith("central_")}
        sums = [0, 0, 0] if descriptors else [one["crc"], one["packed"], one["size"]]
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 0, one["flags"], one["method"], 0, 0, *sums,
                            len(one["name"]), len(one["extra"]))  # fmt: skip
        body += one["name"] + one["extra"] + one["data"]
        if descriptors:
            body += struct.pack("<4s3L", b"PK\7\x08", one["crc"], one["packed"], one["size"])
        body += gap
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 0, 0, two["flags"], two["method"], 0, 0,
                                 two["crc"], two["packed"], two["size"], len(two["name"]),
                                 len(two["extra"]), 0, two["disk"], 0, 0, two["offset"])  # fmt: skip
        directory += two["name"] + two["extra"]
    wide = {k[6:]: v for k, v in end.items() if k.startswith("end64_")}
    facts = {"count": len(members), "length": len(directory), "start": len(body), "disk": 0}
    tail = directory
    if zip64:
        far = facts | {"place": len(body) + len(directory)} | wide
        tail += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 0, 0, far["disk"], 0, far["count"],
                            far["count"], far["length"], far["start"])  # fmt: skip
        tail += struct.pack("<4sLQL", b"PK\6\7", 0, far["place"], 1)
    near = facts | {k: v for k, v in end.items() if not k.startswith("end64_")}
    tail += struct.pack("<4s4H2LH", b"PK\5\6", near["disk"], 0, near["count"], near["count"],
                        near["length"], near["start"], len(comment))  # fmt: skip
    return body + tail + comment
