"""Uploaded files and sentences to vectors: what each is decides its content, within the page's limits."""

import contextlib
import os
import pathlib
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.decoders.audio_files import open_audio
from imagebind_jax.inputs.decoders.containers import open_container
from imagebind_jax.inputs.decoders.images import image_size
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.decoders.video import open_video
from imagebind_jax.inputs.thumbnails import thumbnail
from imagebind_jax.search import file_discovery
from imagebind_jax.search.encoders import CheckpointEncoders
from imagebind_jax.web.limits import PIXELS, SECONDS
from imagebind_jax.web.request_guard import is_upload

UPLOAD_TTL = 600.0  # seconds after which an upload that nobody asked about is removed


class EmbeddedItem(NamedTuple):
    """One thing that was embedded: a file, or a sentence."""

    name: str  # of the file without its folder, or the sentence
    modality: str
    vector: Float[np.ndarray, "e"]
    picture: bytes  # a small JPEG or PNG; empty: none


class UploadEmbedder:
    """Embeds uploads and sentences with one checkpoint; one at a time, as they share its devices."""

    def __init__(
        self,
        encoders: CheckpointEncoders,
        folder: pathlib.Path,
        fields: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        """folder: where uploads lie. fields: {modality: what its records have beside the file}."""
        self.encoders, self.folder, self._fields = encoders, folder, fields or {}
        self._lock = threading.Lock()

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.encoders.encoders)

    def words(self, text: str) -> EmbeddedItem:
        """A sentence. Raises UserError."""
        return self._embedded("text", text, text)

    def file(self, path: str, assumed: str = "") -> EmbeddedItem:
        """An upload, which is removed. assumed: its modality where its content cannot tell.

        Raises UserError, which names the file without its folder.
        """
        name = os.path.basename(path)
        if not is_upload(path, self.folder):
            raise UserError(f"{name} was not uploaded here")
        place = self.folder / f"{os.urandom(8).hex()}.upload"  # a name that says nothing
        try:
            os.replace(path, place)
            modality = assumed or modality_of(place, pathlib.PurePath(name).suffix.lower())
            if modality not in self.encoders.encoders:
                raise UserError(f"is {modality}, and this checkpoint has no encoder of it")
            check_size(place)
            medium: Any = file_discovery.read_text(str(place)) if modality == "text" else place
            return self._embedded(modality, name, medium)
        except MediaError as error:
            raise UserError(f"{name}: {self._told(error.reason)}") from error
        except (UserError, OSError) as error:
            raise UserError(f"{name}: {self._told(first_line(error))}") from error
        finally:
            self.remove(place)

    def _told(self, reason: str) -> str:
        """Without where on this machine it happened."""
        return reason.replace(f"{self.folder}{os.sep}", "").replace(str(self.folder), "")

    def _embedded(self, modality: str, name: str, medium: Any) -> EmbeddedItem:
        record = {**self._fields.get(modality, {}), "id": name, modality: medium}
        with self._lock:
            x, z = self.encoders.seen(modality, record)
        if not np.isfinite(z).all():
            raise UserError("gives a vector that is not finite")
        return EmbeddedItem(name, modality, z, thumbnail(modality, x))

    def discard(self, path: str) -> None:
        """An upload that is not read; of other files, nothing."""
        if is_upload(path, self.folder):
            self.remove(path)

    def remove(self, path: str | os.PathLike) -> None:
        """One upload, and the folder that it was alone in."""
        with contextlib.suppress(OSError):
            os.remove(path)
        self.sweep()

    def sweep(self) -> None:
        """Removes uploads that nobody asked about, and what gradio makes beside them."""
        now = time.time()
        for place, folders, names in os.walk(self.folder, topdown=False):
            for each in names:
                path = os.path.join(place, each)
                with contextlib.suppress(OSError):
                    status = os.lstat(path)
                    made = place == str(self.folder) and not status.st_size
                    if now - status.st_mtime > (5 if made else UPLOAD_TTL):
                        os.remove(path)
            for each in folders:
                with contextlib.suppress(OSError):  # not empty
                    os.rmdir(os.path.join(place, each))


def modality_of(path: pathlib.Path, suffix: str) -> str:
    """What an upload holds. suffix: of the name it came with, which tells texts from tables.

    Lists of files are refused: they would name this machine's. Raises UserError.
    """
    if not media.sniff_media_type(path):
        if suffix in file_discovery.TEXTS:
            return "text"
        if suffix in file_discovery.LINES:
            raise UserError("a list of files, and only media are read here: drop the files")
        if suffix not in file_discovery.TABLES:
            raise UserError("text, or of a format that is not read here")
        return "imu"
    found = file_discovery.discover_files([str(path)])
    if found.unusable:
        raise UserError(found.unusable[0][1])
    return found.items[0].modality


def check_size(path: pathlib.Path) -> None:
    """Raises UserError, MediaError where an upload has too many pixels or lasts too long."""
    kind = media.sniff_media_type(path)
    if kind == "image":
        width, height = image_size(path)
        if width * height > PIXELS:
            raise UserError(f"{width} x {height} pixels: at most {PIXELS:,} are read here")
    seconds = 0.0
    if kind == "audio":
        with open_audio(path) as recording:
            seconds = recording.seconds
    elif kind == "container":
        with open_container(path) as container:
            moving = bool(container.streams.video)
        if moving:
            with open_video(path) as video:
                seconds = float(video.duration)
        else:
            with open_audio(path) as recording:
                seconds = recording.seconds
    if seconds > SECONDS:
        raise UserError(f"{seconds:.0f} s: at most {SECONDS:.0f} s are read here, cut it")
