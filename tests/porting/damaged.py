"""Checkpoints that were good before something happened to them."""

import pathlib
import struct

from torch_bytes import (
    ORDERED,
    bag,
    items,
    mapping,
    number,
    script_file,
    tensor,
    text,
    torch_file,
    zipped,
)

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "torch"
# Opcodes that are allowed.
SMALL = b"()}]NQRbacehqtu\x81.\x85\x86\x87\x88\x89\x8a\x90\x93\x94KMJXGj\x8c"


def originals() -> list[bytes]:
    """Whole files that carry checksums: some of torch, some made by hand."""
    made = [
        torch_file(mapping(a=tensor(), b=tensor((2, 2), (1, 2)), c=tensor((), (), 3))),
        torch_file(ORDERED + items({"w": tensor()}), zip64=True, descriptors=True),
        torch_file(mapping(epoch=number(3), name=text("x"), state_dict=mapping(w=tensor()))),
        script_file(bag(n=number(3), a=bag(w=tensor()), b=bag(w=tensor())), descriptors=True),
    ]
    unchecked = {"no_checksums.pt", "legacy.pt", "namespace.pt", "conjugate.pt"}
    return made + [p.read_bytes() for p in sorted(GOLDEN.glob("*.pt")) if p.name not in unchecked]


def raw(rng, content: bytes, others: list[bytes]) -> bytes:
    """Bytes changed by a bad disk, a cut download or a careless editor."""
    data = bytearray(content)
    at = rng.randrange(len(data))
    length = min(rng.choice((1, 2, 4, 16, 64, 500)), len(data) - at)
    match rng.randrange(9):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            for _ in range(rng.randrange(1, 9)):
                data[rng.randrange(len(data))] = rng.randrange(256)
        case 2:
            del data[at:]
        case 3:
            del data[at : at + length]
        case 4:
            data[at:at] = rng.randbytes(length)
        case 5:
            data[at : at + length] = bytes(length)
        case 6:
            data[at : at + length] = b"\xff" * length
        case 7:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            data[at : at + length] = other[start : start + length]
        case 8:
            start = rng.randrange(len(data))
            data[at : at + length] = data[start : start + length]
    return bytes(data)


def made(rng, content: bytes, others: list[bytes]) -> bytes:
    """A description or a container changed by someone who knows the format: checksums are right."""
    members, deflated = unpacked(content), headers(content)
    if rng.random() < 0.3:  # the container lies, in both headers alike or in one
        which, _ = rng.choice(members)
        field = rng.choice(("flags", "method", "crc", "packed", "size", "offset", "extra", "disk"))
        value = rng.choice((0, 1, 4, 8, 16, 17, 64, 2**16 - 1, 2**31))
        if field in ("flags", "method", "disk"):
            value %= 2**16
        if field == "extra":
            value = struct.pack("<2H2Q", 1, 16, value, value)[: rng.randrange(21)]
        side = rng.choice(("", "local_", "central_"))
        more = {"size": value, "packed": value} if field == "size" else {field: value}
        lie = {f"{side}{key}": number for key, number in more.items()}
        end = {rng.choice(("count", "start", "length")): value} if rng.random() < 0.1 else {}
        if not all(isinstance(v, int) and v < 2**16 for v in end.values()):
            end = {}
        choices = {"descriptors": rng.random() < 0.3, "zip64": rng.random() < 0.3}
        each = deflated | {which: deflated.get(which, {}) | lie}
        return zipped(members, each=each, **choices, **end)
    names = dict(members)
    top = next(name for name in names if name.endswith("data.pkl"))
    data = bytearray(names[top])
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(2, max(len(data), 3))
        length = rng.choice((1, 2, 5, 20, 60))
        match rng.randrange(6):
            case 0:
                data[at : at + 1] = bytes([rng.choice(SMALL)])
            case 1:
                data[at:at] = bytes(rng.choices(SMALL, k=length))
            case 2:
                del data[at : at + length]
            case 3:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 4:
                start = rng.randrange(len(data))
                data[at:at] = data[start : start + length]
            case 5:
                other = next(v for k, v in unpacked(rng.choice(others)) if k.endswith("data.pkl"))
                start = rng.randrange(len(other))
                data[at : at + length] = other[start : start + length]
    names[top] = bytes(data)
    if rng.random() < 0.1:
        which = rng.choice(list(names))
        names[which] = names[which][: rng.randrange(len(names[which]) + 1)]
    return zipped(list(names.items()), each=deflated)


def unpacked(content: bytes) -> list[tuple[str, bytes]]:
    """The members of a good archive, from its directory; deflated ones as they are."""
    return [(name, data) for name, data, _ in _members(content)]


def headers(content: bytes) -> dict[str, dict[str, int]]:
    """What `zipped` must be told of the deflated members: the code of TorchScript."""
    return {name: fields for name, _, fields in _members(content) if fields["method"]}


def _members(content: bytes):
    count, _, at = struct.unpack_from("<H2L", content, len(content) - 12)
    for _ in range(count):
        (method,) = struct.unpack_from("<H", content, at + 10)
        crc, packed, size, name_length, extra = struct.unpack_from("<3L2H", content, at + 16)
        (offset,) = struct.unpack_from("<L", content, at + 42)
        name = content[at + 46 : at + 46 + name_length].decode()
        start = offset + 30 + sum(struct.unpack_from("<2H", content, offset + 26))
        data = content[start : start + packed]
        yield name, data, {"method": method, "crc": crc, "size": size}
        at += 46 + name_length + extra
