"""The one door for untrusted bytes and paths: bounded, recognised by content, with one kind of error."""

import contextlib
import io
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from imagebind_jax.errors import UserError, one_line
from imagebind_jax.runtime import breadcrumbs
from imagebind_jax.storage.regular_file import RefusedFileError, open_regular_file

MAX_BYTES = 64 << 30  # of a file: media are read in parts, so this only stops nonsense

Source = bytes | str | os.PathLike

# What a file begins with -> what is in it; "RIFF" and "ftyp" say more further in.
MAGIC_BYTES = (
    (b"\xff\xd8\xff", "image"),
    (b"\x89PNG\r\n\x1a\n", "image"),
    (b"GIF8", "image"),
    (b"BM", "image"),
    (b"II*\x00", "image"),
    (b"MM\x00*", "image"),
    (b"v/1\x01", "exr"),
    (b"\x93NUMPY", "array"),
    (b"fLaC", "audio"),
    (b"OggS", "audio"),
    (b"ID3", "audio"),
    (b"\xff\xfb", "audio"),
    (b"\xff\xf3", "audio"),
    (b"\xff\xf2", "audio"),
    (b"FORM", "audio"),
    *((bytes([0xFF, second]), "container") for second in (0xF0, 0xF1, 0xF8, 0xF9)),  # ADTS: AAC
    (b"\x1aE\xdf\xa3", "container"),
)
# How errors call a `sniff_media_type`.
MEDIA_TYPE_LABELS = {
    "image": "an image",
    "audio": "a sound file",
    "container": "a video or M4A",
    "exr": "an OpenEXR image",
    "array": "a NumPy array",
    "": "text, or of a format that is not read here",
}
# What "ftyp" names where there are pictures, and not films, in it.
STILL_IMAGE_BRANDS = (
    b"heic",
    b"heix",
    b"hevc",
    b"heim",
    b"heis",
    b"msf1",
    b"mif1",
    b"avif",
    b"avis",
)
# What people have in place of media, and what to do about it.
COMMON_NON_MEDIA = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file: run `git lfs pull`"),
    (b"<!doctype html", "a web page: the download went wrong"),
    (b"<html", "a web page: the download went wrong"),
    (b"<?xml", "XML, not a medium"),
    (b"<svg", "SVG, which is a drawing program: render it to PNG first"),
    (b"%!ps", "PostScript, which is a program: convert it to PNG first"),
    (b"#extm3u", "a playlist, not a medium: give the file it names"),
    (b"ffconcat", "a playlist, not a medium: give the files it names"),
    (b"flv\x01", "a Flash video: convert it to MP4 first"),  # damaged ones crashed PyAV
)


class MediaError(UserError):
    """A file that cannot be used: `source` says which, `reason` why, `str()` is one line."""

    def __init__(self, source: str, reason: str):
        super().__init__(source, reason)  # both in args, so that it survives pickling by a worker
        self.source, self.reason = source, reason

    def __str__(self) -> str:
        return f"{one_line(self.source, 250)}: {one_line(self.reason, 400)}"


@contextlib.contextmanager
def wrap_decode_errors(source: Source) -> Iterator[None]:
    """The one place where whatever a decoder raises becomes a `MediaError` naming `source`."""
    try:
        yield
    except MediaError:
        raise
    except Exception as error:  # Pillow alone raises OSError, SyntaxError, IndexError, ...
        raise MediaError(source_name(source), f"{type(error).__name__}: {error}") from error


def source_name(source: Source) -> str:
    """How errors call it: the path, the number of bytes or, of what is no file, the type."""
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    is_path = isinstance(source, (str, os.PathLike))
    return os.fspath(source) if is_path else f"<{type(source).__name__}>"


def open_media(source: Source) -> io.BytesIO | io.BufferedReader:
    """Opens bytes or a regular file for reading.

    A directory, FIFO or device is a `MediaError`, as is what is neither a path nor bytes.
    """
    if isinstance(source, bytes):
        if not source:
            raise MediaError(source_name(source), "empty")
        return io.BytesIO(source)
    if not isinstance(source, (str, os.PathLike)):  # records may hold anything
        raise MediaError(source_name(source), "neither a path nor the bytes of a file")
    breadcrumbs.set_current_file(os.fspath(source))
    with wrap_decode_errors(source):
        try:
            return open_regular_file(source, MAX_BYTES)
        except RefusedFileError as error:
            raise MediaError(source_name(source), str(error)) from None


def sniff_media_type(source: Source) -> str:
    """What the content is, whatever the name says.

    "image", "audio", "container" (MP4, MOV, Matroska, WebM, AVI: video or only its sound), "exr",
    "array" (.npy), or "" where no decoder here claims it: text, or nothing known. A web page, a
    playlist, HEIC and the like are a `MediaError` that says so.
    """
    with open_media(source) as file:
        head = file.read(64)
    for beginning, what in COMMON_NON_MEDIA:
        if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(beginning):
            raise MediaError(source_name(source), what)
    if head[:4] == b"RIFF":
        return {b"WAVE": "audio", b"WEBP": "image", b"AVI ": "container"}.get(head[8:12], "")
    if head[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip", b"styp"):  # old QuickTime
        return "container"
    if head[4:8] == b"ftyp":
        if head[8:12] in STILL_IMAGE_BRANDS:
            raise MediaError(source_name(source), "HEIC or AVIF: convert it to JPEG or PNG first")
        return "container"
    return next((what for beginning, what in MAGIC_BYTES if head.startswith(beginning)), "")


def positive_field(record: Mapping[str, Any], wanted: str, remedy: str) -> float:
    """A field that has to be a number above 0. Raises `MediaError` with the remedy."""
    value = record.get(wanted)
    try:
        number = math.nan if value is None else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise MediaError(
            str(record.get("id", "this record")), f"{wanted} is {value!r}, but {remedy}"
        )
    return number


def first_field(record: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that the record has. Raises `MediaError` if it has none."""
    for wanted in names:
        if record.get(wanted) is not None:
            return record[wanted]
    raise MediaError(
        str(record.get("id", "this record")), f"no field {' or '.join(map(repr, names))}"
    )
