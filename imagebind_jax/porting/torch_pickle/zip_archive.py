"""The zip container that torch.save writes: records of stored bytes, one behind the other."""

import dataclasses
import mmap
import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from imagebind_jax.errors import UserError

MAX_MEMBERS = 100_000
MAX_DIRECTORY = 32 << 20  # bytes; 100,000 members of torch take 10 MiB
SLICE = 16 << 20  # bytes per call of the checksum

# PKWARE's APPNOTE 6.3.10, sections 4.3.7 to 4.3.16
END = struct.Struct("<4s4H2LH")
LOCATOR = struct.Struct("<4sLQL")
END64 = struct.Struct("<4sQ2H2L4Q")
CENTRAL = struct.Struct("<4s6H3L5H2L")
LOCAL = struct.Struct("<4s5H3L2H")
ONES = 0xFFFFFFFF  # of a 32-bit field: the value stands in the zip64 block
WITH_DESCRIPTOR, UTF8, ENCRYPTED = 1 << 3, 1 << 11, 1 << 0
STORED, DEFLATED = 0, 8
AGAIN = "download or copy it again"
# What torch.jit.save adds: source code, which it deflates, the numbers in it, and files of users.
_PROGRAM = re.compile(r"[^/]+/((code|constants|extra)/.*|constants\.pkl)")


@dataclasses.dataclass(frozen=True, slots=True)
class ZipMember:
    """One member: `size` bytes of the file from `start` on. `name` is without the top folder."""

    name: str
    start: int
    size: int
    crc: int


class _Member(NamedTuple):
    """An entry of the zip directory; `packed` bytes of the file are `size` bytes of data."""

    offset: int
    flags: int
    method: int
    name: bytes
    crc: int
    packed: int
    size: int


class TorchZip:
    """The records of a mapped torch.save file by name, and their checksums.

    `names` are those of all members. `records` lacks what belongs to a TorchScript program, the one
    thing that may be compressed: it cannot be read. `has_code` says whether there is one.

    What can be read in two ways is refused: the members tile the file from its first byte to the
    directory, the directory reaches to the end, every local header says what the directory says.
    Raises UserError without the file's name, which the caller knows.
    """

    def __init__(self, pages: mmap.mmap | bytes):
        self.pages = pages
        members = list(_tiled(pages))
        found = [record for record, _ in members]
        # torch.serialization.set_crc32_options(False) writes 0 for every member, data or not.
        self.has_checksums = any(record.crc for record in found)
        tops = {record.name.partition("/")[0] for record in found}
        if len(tops) != 1 or any("/" not in record.name for record in found):
            raise UserError("is a zip archive, but not one of torch.save: it is not one folder")
        below = len(tops.pop()) + 1
        self.names = [record.name[below:] for record in found]
        if len({name.casefold() for name in self.names}) < len(found):
            raise UserError("two members of the zip archive have the same name")
        self.has_code = any(name.startswith("code/") for name in self.names)
        self.records: dict[str, ZipMember] = {}
        for (record, method), name in zip(members, self.names):
            is_program = _PROGRAM.fullmatch(record.name) is not None
            if method != STORED and not (is_program and self.has_code):
                raise _compressed(record.name)
            if not is_program:
                self.records[name] = dataclasses.replace(record, name=name)

    def read(self, name: str, limit: int) -> bytes:
        """The verified bytes of a small record. Raises UserError beyond `limit` bytes."""
        record = self.records[name]
        if record.size > limit:
            raise UserError(f"its {name} is {record.size:,} bytes, more than {limit:,}")
        self.verify(record)
        return self.pages[record.start : record.start + record.size]

    def verify(self, record: ZipMember) -> None:
        """Raises UserError unless the record has the CRC-32 that the archive says, if it says."""
        if not self.has_checksums:
            return
        crc, end = 0, record.start + record.size
        with memoryview(self.pages) as view:
            for start in range(record.start, end, SLICE):
                with view[start : min(start + SLICE, end)] as part:
                    crc = zlib.crc32(part, crc)
        if crc != record.crc:
            raise UserError(f"its record {record.name[:60]!a} is damaged (CRC-32); {AGAIN}")


def _tiled(pages) -> Iterator[tuple[ZipMember, int]]:
    """The members and their methods, in the file's order, each beginning where the last ends."""
    at, end, count = _directory(pages)
    directory, end = pages[at:end], at
    members, at = [], 0
    for _ in range(count):
        member, at = _member(directory, at)
        members.append(member)
    if at != len(directory):
        raise UserError(f"its zip directory is damaged; {AGAIN}")
    members.sort()
    starts = [member.offset for member in members]
    at = 0
    for member, following in zip(members, [*starts[1:], end]):
        if member.offset != at:
            low, high = sorted((at, member.offset))
            raise UserError(f"bytes {low:,} to {high:,} are in no member")
        start = _data_start(pages, member, end)
        at = start + member.packed
        if at > following:
            raise UserError(f"its member {_text(member.name)!a} reaches into the next; {AGAIN}")
        if member.flags & WITH_DESCRIPTOR and 0 < following - at <= 24:
            _check_descriptor(pages[at:following], member)
            at = following
        yield ZipMember(_text(member.name), start, member.packed, member.crc), member.method
    if at != end:
        raise UserError(f"bytes {at:,} to {end:,} are in no member")


def _directory(pages) -> tuple[int, int, int]:
    """Where the central directory starts and ends, and the number of its members."""
    at = len(pages) - END.size
    if at < 0 or pages[at : at + 4] != b"PK\5\6":
        if pages.rfind(b"PK\5\6", max(0, at - 0xFFFF), max(0, at + 3)) >= 0:
            raise UserError(f"bytes follow the end of its zip archive; {AGAIN}")
        raise UserError(f"is cut short: the directory at the end is missing; {AGAIN}")
    _, *disks, here, count, size, start, comment = END.unpack_from(pages, at)
    short = (here, count, size, start)
    wide = at - LOCATOR.size
    if wide >= END64.size and pages[wide : wide + 4] == b"PK\6\7":
        _, disk, place, number = LOCATOR.unpack_from(pages, wide)
        at = wide - END64.size
        mark, length, _, _, *more, here, count, size, start = END64.unpack_from(pages, at)
        agree = all(s in (w, top) for s, w, top in zip(
            short, (here, count, size, start), (0xFFFF, 0xFFFF, ONES, ONES)
        ))  # fmt: skip
        if not agree or (mark, length, disk, place, number) != (b"PK\6\6", 44, 0, at, 1):
            raise UserError(f"its zip64 directory contradicts itself; {AGAIN}")
        disks += more
    if any(disks) or comment or here != count or start + size != at:
        raise UserError(f"its zip directory is damaged, or the file was cut or joined; {AGAIN}")
    if not 0 < count <= MAX_MEMBERS or size > MAX_DIRECTORY:
        raise UserError(f"its zip directory names {count:,} members in {size:,} bytes")
    return start, at, count


def _member(directory: bytes, at: int) -> tuple[_Member, int]:
    """The entry at `at`, and where the next one is."""
    if at + CENTRAL.size > len(directory):
        raise UserError(f"its zip directory is damaged; {AGAIN}")
    mark, _, _, flags, method, _, _, crc, packed, size, *rest = CENTRAL.unpack_from(directory, at)
    name_length, extra_length, comment_length, disk, _, _, offset = rest
    at += CENTRAL.size
    name = directory[at : at + name_length]
    extra = directory[at + name_length : at + name_length + extra_length]
    at += name_length + extra_length
    if mark != b"PK\1\2" or extra_length > 1024 or comment_length or disk or at > len(directory):
        raise UserError(f"its zip directory is damaged; {AGAIN}")
    size, packed, offset = _widened(extra, size, packed, offset)
    if flags & ENCRYPTED:
        raise UserError(f"its member {_text(name)!a} is encrypted")
    is_known = method == DEFLATED or (method == STORED and packed == size)
    if not is_known or flags & ~(WITH_DESCRIPTOR | UTF8):
        raise _compressed(_text(name))
    return _Member(offset, flags, method, name, crc, packed, size), at


def _compressed(name: str) -> UserError:
    return UserError(
        f"its member {name!a} is compressed, which torch.save never does; "
        "it was packed by another program: save it again with torch.save"
    )


def _widened(extra: bytes, *fields: int) -> tuple[int, ...]:
    """The 32-bit fields, those that are all ones taken from the zip64 block of `extra`."""
    values, at = None, 0
    while at < len(extra):
        kind, length = struct.unpack_from("<2H", extra.ljust(at + 4, b"\0"), at)
        if at + 4 + length > len(extra) or (kind == 1 and (values is not None or length % 8)):
            raise UserError(f"its zip directory has a damaged extra field; {AGAIN}")
        if kind == 1:
            values = struct.unpack_from(f"<{length // 8}Q", extra, at + 4)
        at += 4 + length
    if fields.count(ONES) != len(values or ()):
        raise UserError(f"its zip64 sizes contradict themselves; {AGAIN}")
    wide = iter(values or ())
    return tuple(next(wide) if field == ONES else field for field in fields)


def _data_start(pages, member: _Member, end: int) -> int:
    """Where a member's data begins; its local header must say what the directory says."""
    offset, flags, method, name, *known = member
    if offset + LOCAL.size > end:
        raise UserError(f"its member {_text(name)!a} lies outside of the file; {AGAIN}")
    mark, _, *way, _, _, crc, packed, whole, name_length, extra_length = LOCAL.unpack_from(
        pages, offset
    )
    at = offset + LOCAL.size + name_length + extra_length
    name_here = pages[offset + LOCAL.size : at - extra_length]
    # The block is read only where it is needed: torch pads with it, and beyond 4 GiB it writes
    # one that holds half of the sizes.
    extra = pages[at - extra_length : at] if ONES in (packed, whole) else b""
    whole, packed = _widened(extra, whole, packed)
    sums = [known, [0, 0, 0]] if flags & WITH_DESCRIPTOR else [known]
    same = (mark, way, name_here) == (b"PK\3\4", [flags, method], name)
    if not same or [crc, packed, whole] not in sums:
        raise UserError(f"its member {_text(name)!a} contradicts the zip directory; {AGAIN}")
    return at


def _check_descriptor(descriptor: bytes, member: _Member) -> None:
    """What follows the data where the local header was written before its size was known."""
    sums = (member.crc, member.packed, member.size)
    bodies = [struct.pack("<3L", *sums)] if max(sums[1:]) < ONES else []
    bodies.append(struct.pack("<L2Q", *sums))
    if descriptor.removeprefix(b"PK\7\x08") not in bodies:
        raise UserError(f"the bytes behind a member are no descriptor of it; {AGAIN}")


def _text(name: bytes) -> str:
    """A member's name, if it is one that stays where it is put."""
    try:
        text = name.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    if not text.isprintable() or "\\" in text or {"", ".", ".."} & set(text.split("/")):
        raise UserError(f"a member of the zip archive is named {name[:60]!r}")
    return text
