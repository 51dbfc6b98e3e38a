"""Files, folders, globs and manifests to items to embed: what each holds decides its modality."""

import collections
import contextlib
import csv
import glob
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from numpy.lib import format as npy

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.decoders.audio_files import open_audio
from imagebind_jax.inputs.decoders.containers import import_pyav, open_container
from imagebind_jax.inputs.decoders.images import image_size
from imagebind_jax.inputs.decoders.imu_files import read_imu
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.decoders.video import open_video
from imagebind_jax.inputs.sources import Manifest, Record
from imagebind_jax.inputs.sources.record import MAX_LINE_BYTES, MEDIA

TABLES, LINES = (".csv", ".tsv"), (".jsonl", ".ndjson")
TEXTS = (".txt",)
UNSUPPORTED = "nothing that is read here"


class EmbedItem(NamedTuple):
    """One thing to embed: a file, or a text, as one modality."""

    modality: str
    source: str  # the file's absolute path; of a text in a manifest, that with its line
    fields: Mapping[str, Any]  # what the transform reads beside it, and what filters may ask for
    text: str | None = None  # where it is no file

    @property
    def key(self) -> str:
        """What tells it from all others: a part of a recording is not the whole."""
        if self.text is not None:
            return f"{self.modality}:{self.source}"
        part = "".join(f"#{k}={self.fields[k]}" for k in ("start", "seconds") if k in self.fields)
        return f"{self.modality}:{os.path.realpath(self.source)}{part}"


class Discovery(NamedTuple):
    """What was found, what of it cannot be used and why, and how many other files there were."""

    items: list[EmbedItem]
    unusable: list[tuple[str, str]]  # (file, why)
    passed_over: Mapping[str, int]  # suffix -> files of a folder that are no media


class ItemRecords(Sequence[Record]):
    """The items of one modality as records for its transform."""

    def __init__(self, items: Sequence[EmbedItem]):
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index):
        item = self.items[index]
        medium: Any = pathlib.Path(item.source) if item.text is None else item.text
        if item.modality == "text" and item.text is None:
            medium = read_text(item.source)
        return {**item.fields, "id": item.source, item.modality: medium}


def discover_files(
    paths: Sequence[str],
    assumed: Mapping[str, Sequence[str]] | None = None,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    sound: bool = False,
) -> Discovery:
    """Everything that the paths name, in their order, folders sorted; each thing once.

    paths: files, folders (with all below them, but for what is hidden), globs and manifests (JSONL,
    or CSV that names modalities). Images and videos are vision, sound files audio, tables and arrays
    of six columns imu, OpenEXR depth, .txt one text each. assumed: {modality: paths} whose files are
    of that modality, such as depth maps, which no content tells from other images. fields:
    {modality: what its records have beside the file}. sound: of videos also their sound.
    Raises UserError for a path that is not there, or where nothing is found.
    """
    search = _Search(fields or {}, sound)
    for modality, given in (assumed or {}).items():
        for path in given:
            search.path(path, modality)
    said, search.items = search.items, {}
    for search.only_manifests in (True, False):  # what they name is of the modality that they say
        for path in paths:
            search.path(path, None)
    search.items |= said
    if not search.items and not search.unusable:
        other = ", ".join(f"{n} {suffix}" for suffix, n in search.passed_over.most_common(3))
        raise UserError(
            f"nothing to embed in {', '.join(map(str, paths)) or 'no path'}"
            + (f": only {other}" if other else "")
        )
    return Discovery(list(search.items.values()), list(search.unusable.items()), search.passed_over)


class _Search:
    def __init__(self, fields: Mapping[str, Mapping[str, Any]], sound: bool):
        self.items: dict[str, EmbedItem] = {}
        self.unusable: dict[str, str] = {}
        self.passed_over: collections.Counter[str] = collections.Counter()
        self.only_manifests = False
        self._fields, self._sound = fields, sound
        self._claimed: set[str] = set()  # files whose modality was said

    def path(self, given: str, modality: str | None) -> None:
        path = os.path.expanduser(os.fspath(given))
        if os.path.isdir(path):
            for file in self._below(path):
                self._file(file, modality, named=False)
        elif os.path.lexists(path):
            self._file(path, modality, named=True)
        elif glob.has_magic(path):
            matches = sorted(glob.glob(path, recursive=True))
            if not matches:
                raise UserError(f"no file matches {given}")
            for match in matches:
                self.path(match, modality)
        else:
            raise UserError(f"no file or folder {given}")

    def _file(self, path: str, modality: str | None, *, named: bool) -> None:
        path = os.path.abspath(path)
        suffix = os.path.splitext(path)[1].lower()
        try:
            path.encode()
        except UnicodeEncodeError:
            if not self.only_manifests:
                self.unusable[ascii(path)] = "its name is not UTF-8: rename it"
            return
        try:
            listed = modality is None and (
                suffix in LINES or suffix in TABLES and _is_manifest(path, named)
            )
            if modality is not None:
                self._add(modality, path)
                self._claimed.add(os.path.realpath(path))
            elif listed == self.only_manifests and listed:
                self._manifest(path)
            elif listed == self.only_manifests and os.path.realpath(path) not in self._claimed:
                self._content(path, suffix, named)
        except MediaError as error:
            self.unusable[path] = error.reason

    def _content(self, path: str, suffix: str, named: bool) -> None:
        try:
            found = list(self._modalities(path, suffix))
        except MediaError:
            if named or suffix not in TABLES:
                raise
            found = []  # a table of something else
        for each in found:
            self._add(each, path)
        if not found and named:
            raise MediaError(path, UNSUPPORTED)
        if not found:
            self.passed_over[suffix or "without suffix"] += 1

    def _below(self, folder: str) -> Iterator[str]:
        def unreadable(error: OSError) -> None:
            if self.only_manifests:
                self.unusable[str(error.filename)] = error.strerror or "cannot be read"

        for place, folders, names in os.walk(folder, onerror=unreadable):
            if {"store.json", "embeddings.npy"} <= set(
                names
            ):  # a store of ours is nothing to embed
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            links = sum(os.path.islink(os.path.join(place, name)) for name in folders)
            if links and not self.only_manifests:
                self.passed_over["links to folders"] += links
            yield from (os.path.join(place, name) for name in sorted(names) if name[0] != ".")

    def _modalities(self, path: str, suffix: str) -> Iterator[str]:
        kind = media.sniff_media_type(path)
        if kind == "image":
            yield "vision"
        elif kind == "audio":
            yield "audio"
        elif kind == "exr":
            yield "depth"
        elif kind == "array":
            yield _of_array(path)
        elif kind == "container":
            yield from self._streams(path)
        elif suffix in TABLES:
            read_imu(path)  # whether it is one: a table may be anything
            yield "imu"
        elif suffix in TEXTS:
            yield "text"

    def _streams(self, path: str) -> Iterator[str]:
        with open_container(path) as container:
            cover = import_pyav().stream.Disposition.attached_pic  # a sound file's
            moving = [s for s in container.streams.video if not s.disposition & cover]
            heard = bool(container.streams.audio)
        if moving:
            yield "vision"
        if heard and (self._sound or not moving):
            yield "audio"
        if not moving and not heard:
            raise MediaError(path, "neither video nor sound in it")

    def _manifest(self, path: str) -> None:
        try:
            records = Manifest(path).open()
        except UserError as error:
            raise MediaError(path, str(error)) from error
        for index in range(len(records)):
            try:
                record = records[index]
            except MediaError as error:
                self.unusable[error.source] = error.reason
                continue
            self._record(record, f"{path}, line {record['id']}")

    def _record(self, record: Record, name: str) -> None:
        others = {k: v for k, v in record.items() if k not in (*MEDIA, "text", "id")}
        if isinstance(text := record.get("text"), str) and set(MEDIA) & record.keys():
            others["caption"] = text
        for modality in MEDIA:
            if isinstance(medium := record.get(modality), pathlib.Path):
                self._claimed.add(os.path.realpath(medium))
                self._add(modality, str(medium), others)
            elif modality in record:
                self.unusable[name] = "a list of frames: give a video, or each as an image"
        texts = [text] if isinstance(text, str) else text or []
        for i, each in enumerate(texts):
            source = name if len(texts) == 1 else f"{name}, text {i + 1}"
            self._put(EmbedItem("text", source, others, each))

    def _add(self, modality: str, path: str, fields: Mapping[str, Any] | None = None) -> None:
        self._put(EmbedItem(modality, path, {**self._fields.get(modality, {}), **(fields or {})}))

    def _put(self, item: EmbedItem) -> None:
        self.items.setdefault(item.key, item)


def _is_manifest(path: str, named: bool) -> bool:
    """Whether a table names modalities; in a folder, where tables are of anything, also a file."""
    with media.wrap_decode_errors(path), media.open_media(path) as file:
        head = file.read(MAX_LINE_BYTES).decode("utf-8-sig", "replace").split("\n")[0]
        columns = {column.strip() for column in next(csv.reader([head]), [])}
    if not {*MEDIA, "text"} & columns:
        return False
    if named:
        return True
    try:
        first = Manifest(path).open()[0]
    except (UserError, IndexError):
        return False
    return "text" in first or any(os.path.isfile(str(first.get(name))) for name in MEDIA)


def _of_array(path: str) -> str:
    with media.wrap_decode_errors(path), media.open_media(path) as file:
        npy.read_magic(file)
        shape, _, _ = npy.read_array_header_1_0(file)
    if len(shape) == 2 and shape[1] in (6, 7):
        return "imu"
    raise MediaError(path, f"an array of {list(shape)}: a depth map, say, is named by --depth")


def read_text(path: str) -> str:
    """The whole of a text file, without white space around it. Raises `MediaError`."""
    with media.wrap_decode_errors(path), media.open_media(path) as file:
        data = file.read(MAX_LINE_BYTES + 1)
        if len(data) > MAX_LINE_BYTES:
            raise MediaError(path, f"more than {MAX_LINE_BYTES} bytes of text")
        text = data.decode("utf-8-sig").strip()
        if not text:
            raise MediaError(path, "no text in it")
        return text


def media_info(item: EmbedItem) -> dict[str, Any]:
    """What a file says of itself, for people and filters: width, height, or seconds."""
    found: dict[str, Any] = {}
    with contextlib.suppress(MediaError):  # it has been read; what it says beside matters less
        if item.text is not None:
            found["text"] = item.text[:1000]
        elif item.modality == "text":
            found["text"] = read_text(item.source)[:1000]
        elif item.modality == "audio":
            with open_audio(item.source) as recording:
                found["seconds"] = round(recording.seconds, 3)
        elif item.modality == "vision" and media.sniff_media_type(item.source) == "container":
            with open_video(item.source) as video:
                found["seconds"] = round(float(video.duration), 3)
        elif item.modality == "vision":
            found["width"], found["height"] = image_size(item.source)
    return found
