"""What is in a tar file and where: its headers read strictly, in one bounded pass."""

import io
import os
import tarfile
from collections.abc import Iterator

from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.sources.record import MAX_LINE_BYTES

BLOCK = 512
HEADER = 64 << 10  # bytes of a header about the next member
DIGITS = 8  # of a length in it, with the space behind
PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
REFUSED = {
    tarfile.LNKTYPE: "a hard link: pack with --hard-dereference",
    tarfile.SYMTYPE: "a link: pack with --dereference",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a FIFO",
    tarfile.GNUTYPE_SPARSE: "a sparse file: pack without --sparse",
}
PACKED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"\x28\xb5": "zstd"}


def iter_members(path: str) -> Iterator[tuple[str, int, int]]:
    """(name, offset, bytes) of each plain file. Folders are left out, all else is a `MediaError`.

    So is a file that is cut short, compressed, or more than one archive: nothing is lost silently.
    """
    with media.open_media(path) as file, media.wrap_decode_errors(path):
        length = os.fstat(file.fileno()).st_size
        if packed := PACKED.get(file.read(2)):
            raise media.MediaError(path, f"compressed ({packed}): unpack it to a plain .tar")
        extra: dict[str, str] = {}  # of the next header
        at = 0
        while True:
            file.seek(at)
            header = file.read(BLOCK)
            if len(header) < BLOCK:
                raise media.MediaError(path, f"cut short: its end mark is missing at byte {at}")
            if not any(header):
                _check_end(path, file)
                return
            member = _header(path, header, at)
            name, size = extra.get("path", member.name), member.size
            if "size" in extra:
                size = int(extra["size"])
            data = at + BLOCK
            holds = not member.isdir() and member.type not in REFUSED
            if size < 0 or (holds and data + size > length):
                raise media.MediaError(
                    path, f"cut short: {name!r:.200} of {size} bytes begins at {data} of {length}"
                )
            at = data + (-(-size // BLOCK) * BLOCK if holds else 0)
            if member.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
                extra |= _extra(path, file, member.type, size)
                continue
            if member.type in PLAIN and not member.isdir():
                _check_name(path, name)
                yield name, data, size
            elif not member.isdir() and member.type != tarfile.GNUTYPE_LONGLINK:
                what = REFUSED.get(member.type, f"of an unknown type {member.type!r}")
                raise media.MediaError(path, f"{name!r:.200} is {what}")
            extra = {}


def _header(path: str, header: bytes, at: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "backslashreplace")
    except tarfile.HeaderError as error:
        what = "damaged" if at else "not a tar file"
        raise media.MediaError(path, f"{what}: {error} at byte {at}") from error


def _extra(path: str, file: io.BufferedIOBase, kind: bytes, size: int) -> dict[str, str]:
    """What the data of a header about the next member says of it."""
    if size > HEADER:
        raise media.MediaError(path, f"a name or header of {size} bytes, more than {HEADER}")
    data = file.read(size)
    if kind == tarfile.GNUTYPE_LONGNAME:
        return {"path": data.partition(b"\0")[0].decode(errors="backslashreplace")}
    found: dict[str, str] = {}
    at = 0
    while at < len(data):  # "<length of all this> <key>=<value>\n"
        digits = data[at : at + DIGITS].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        record = data[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if not (record and len(record) == length and equals and record.endswith(b"\n")):
            raise media.MediaError(path, "damaged: an extended header cannot be read")
        if key.startswith(b"GNU.sparse"):
            raise media.MediaError(path, f"it holds {REFUSED[tarfile.GNUTYPE_SPARSE]}")
        if key in (b"path", b"size"):
            found[key.decode()] = value.decode(errors="backslashreplace")
        at += length
    return found if kind == tarfile.XHDTYPE else {}


def _check_name(path: str, name: str) -> None:
    if name.startswith("/") or ".." in name.split("/") or len(name) > 4096:
        raise media.MediaError(path, f"{name!r:.200} is no name for a file in an archive")


def _check_end(path: str, file: io.BufferedIOBase) -> None:
    rest = file.read(MAX_LINE_BYTES + 1)
    if any(rest) or len(rest) > MAX_LINE_BYTES:
        raise media.MediaError(
            path, "goes on after its end mark: it is damaged, or several archives in one file"
        )
