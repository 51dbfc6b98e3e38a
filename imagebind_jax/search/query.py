"""`imagebind-jax search`: a question of any modalities, and its answers as a table, JSON or a page."""

import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError, one_line
from imagebind_jax.inputs import default_transforms
from imagebind_jax.inputs.thumbnails import thumbnail
from imagebind_jax.runtime import console
from imagebind_jax.search import exact
from imagebind_jax.search.approximate import ApproximateIndex
from imagebind_jax.search.encoders import CheckpointEncoders, compose_query
from imagebind_jax.search.exact import Hit
from imagebind_jax.search.results_html import QueryCard, write_search_html
from imagebind_jax.search.store import EmbeddingStore


class QueryPart(NamedTuple):
    """A part of a question: a text, or a file, and how much it counts."""

    modality: str
    said: str
    weight: float = 1.0


def load_store_encoders(
    store: EmbeddingStore,
    checkpoint: str | os.PathLike | None = None,
    config: str | os.PathLike | None = None,
    tell: Callable[[str], None] = lambda what: None,
) -> CheckpointEncoders:
    """The encoders that a store was made with. Raises UserError where they are not to be had.

    checkpoint: where it is now, if it was moved.
    """
    place = checkpoint or store.note.checkpoint
    if not os.path.exists(place):
        if checkpoint:
            raise UserError(f"no checkpoint {checkpoint}")
        raise UserError(f"{place}, which {store.folder} was made with, is gone: give --checkpoint")
    transforms = {}
    for modality, of in store.note.of.items():
        flat = {f"inputs.{key}": value for key, value in of.get("transform", {}).items()}
        if (
            not of.get("code")
            and (found := default_transforms.transform_from_run(flat, "transform")) is not None
        ):
            transforms[modality] = found
    encoders = CheckpointEncoders(place, config=config, transforms=transforms, tell=tell)
    if encoders.family != store.note.family:
        raise UserError(
            f"{place} is not the checkpoint that {store.folder} was made with "
            f"({store.note.checkpoint}): their vectors cannot be compared"
        )
    encoders.expected = {
        m: of["parameters"] for m, of in store.note.of.items() if "parameters" in of
    }
    return encoders


def query_vector(
    encoders: CheckpointEncoders,
    parts: Sequence[QueryPart],
    fields: Mapping[str, Mapping[str, Any]] | None = None,
) -> Float[np.ndarray, "e"]:
    """The unit vector of a question. Raises UserError, MediaError.

    fields: {modality: what its records have beside the file}, such as a depth camera's.
    """
    return _embed_query(encoders, parts, fields)[0]


def _embed_query(
    encoders: CheckpointEncoders,
    parts: Sequence[QueryPart],
    fields: Mapping[str, Mapping[str, Any]] | None,
) -> tuple[Float[np.ndarray, "e"], list[np.ndarray]]:
    """(the unit vector of a question, what the encoders saw of its parts)."""
    if not parts:
        raise UserError("nothing is asked: give --text, --image, --audio, ...")
    if any(not part.said.strip() for part in parts):
        raise UserError("a query is empty")
    seen = [encoders.seen(part.modality, _record(part, fields or {})) for part in parts]
    return compose_query([z for _, z in seen], [part.weight for part in parts]), [
        x for x, _ in seen
    ]


def _record(part: QueryPart, fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    text = part.modality == "text"
    medium = part.said if text else pathlib.Path(os.path.expanduser(part.said))
    return {**fields.get(part.modality, {}), "id": part.said, part.modality: medium}


def run_search(
    index: str | os.PathLike,
    parts: Sequence[QueryPart],
    *,
    k: int = 10,
    modalities: Sequence[str] = (),
    where: Sequence[str] = (),
    approximate: bool = False,
    as_json: bool = False,
    page: str | os.PathLike | None = None,
    checkpoint: str | os.PathLike | None = None,
    config: str | os.PathLike | None = None,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    say: Callable[..., None] = console.print_line,
) -> list[Hit]:
    """Asks a store, and says what is found. Raises UserError, MediaError."""
    store = EmbeddingStore(index)
    if page and (os.path.isdir(page) or not os.path.isdir(os.path.dirname(os.path.abspath(page)))):
        raise UserError(f"--page {page}: a file in a folder that is there")
    if approximate and (modalities or where):
        raise UserError("--approximate searches all rows: leave it out with --modality and --where")
    rows = exact.candidate_mask(
        store, modalities, where
    )  # mistakes first, before gigabytes are loaded
    opened = ApproximateIndex(store) if approximate else None
    encoders = load_store_encoders(store, checkpoint, config)
    query, seen = _embed_query(encoders, parts, fields)
    if opened is not None:
        hits = exact.load_hits(store, *opened.nearest(query, k))
    else:
        [found], [cosines] = exact.exact_top_k(store, query[None], k, rows)
        hits = exact.load_hits(store, found, cosines)
    if as_json:
        say(json.dumps([_plain(hit) for hit in hits], indent=1))
    else:
        for line in format_hits(hits):
            say(line)
    if page:
        asked = [QueryCard(*part, thumbnail(part.modality, x)) for part, x in zip(parts, seen)]
        write_search_html(pathlib.Path(page), store, asked, hits)
        say(f"{page}: open it in a browser", to_stderr=as_json)
    return hits


def format_hits(hits: Sequence[Hit]) -> list[str]:
    """The hits as lines for a terminal: cosine, modality, file; of texts what they say."""
    if not hits:
        return ["nothing found: no row may be an answer"]
    lines = [f"{'cosine':>7}  {'modality':9} file"]
    for hit in hits:
        said = hit.item.get("text") if hit.modality == "text" else None
        shown = _short(hit.file) + (f": {one_line(said, 80)}" if isinstance(said, str) else "")
        lines.append(f"{hit.cosine:>7.3f}  {hit.modality:9} {shown}")
    return lines


def _short(file: str) -> str:
    """Relative to where one is, if it lies below."""
    here = os.getcwd() + os.sep
    gone = "" if os.path.exists(file) or ", line " in file else "  (gone)"
    return one_line(file.removeprefix(here), 300) + gone


def _plain(hit: Hit) -> dict[str, Any]:
    rest = {k: v for k, v in hit.item.items() if k not in ("key", "stamp")}
    return {**rest, "row": hit.row, "cosine": round(hit.cosine, 6)}
