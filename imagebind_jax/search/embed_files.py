"""`imagebind-jax embed`: files of any modality into a store of embeddings, however often it is stopped."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from imagebind_jax.errors import UserError, one_line
from imagebind_jax.evaluation.batching import ShapeBatcher
from imagebind_jax.evaluation.model_embedder import matches_encoder_shape
from imagebind_jax.inputs.pipeline import batches as pair_batches
from imagebind_jax.inputs.pipeline.examples import Batch, Examples, ToModelInputs
from imagebind_jax.inputs.thumbnails import thumbnail
from imagebind_jax.runtime import console
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.search import file_discovery
from imagebind_jax.search.encoders import CheckpointEncoders
from imagebind_jax.search.file_discovery import Discovery, EmbedItem, ItemRecords
from imagebind_jax.search.store_writer import StoreWriter, file_stamp, open_writer
from imagebind_jax.storage.fingerprint import flatten_config, json_sha256

ITEMS_IN_MEMORY = 8192  # files whose vectors are in memory at once


def embed_files(
    paths: Sequence[str],
    encoders: CheckpointEncoders,
    out: str | os.PathLike,
    *,
    assumed: Mapping[str, Sequence[str]] | None = None,
    fields: Mapping[str, Mapping[str, Any]] | None = None,
    sound: bool = False,
    retry: bool = False,
    threads: int | None = None,
    workers: int = 0,
    patience: float = 60.0,
    say: Callable[[str], None] = console.print_line,
) -> dict[str, int]:
    """Embeds what the paths name (`file_discovery.discover_files`) into the store `out`, which is begun or added to.

    What is in the store and has not changed since is not embedded again; what cannot be used is
    listed in `unusable.jsonl`, and tried again with `retry`, or once it has changed. threads or
    worker processes read and decode; patience: seconds that one file may take.
    Returns {"embedded", "unusable", "there"}: how many now, and how many were in the store before.
    Raises UserError.
    """
    begun = time.monotonic()
    found = file_discovery.discover_files(paths, assumed, fields, sound=sound)
    items = _with_encoder(found, encoders, say)
    threads = threads or os.cpu_count() or 1
    with open_writer(out, encoders.width, encoders.checkpoint, encoders.family) as writer:
        said = {m: _digest(encoders, m) for m in {item.modality for item in items}}
        new = [item for item in items if not writer.has(item.key, _stamp(item), _fields(item))]
        todo = [
            item
            for item in new
            if retry or not writer.had(item.key, _stamp(item), _item_fingerprint(item, said))
        ]
        there = len(items) - len(new)
        counts = {"embedded": 0, "unusable": 0, "there": there}
        _note_unusable(found, writer)
        say(_summary_line(found, items, there, len(new) - len(todo)))
        modalities = list(dict.fromkeys(item.modality for item in todo))
        with Progress("embed", len(todo), shown=bool(todo)) as progress:
            encoders.tell = progress.say
            for modality in modalities:
                mine = [item for item in todo if item.modality == modality]
                progress.say(f"{modality}: loading the encoder")
                writer.describe(modality, encoders.described(modality))
                for start in range(0, len(mine), ITEMS_IN_MEMORY):
                    part = mine[start : start + ITEMS_IN_MEMORY]
                    made = _prefetch_inputs(part, encoders, modality, threads, workers, patience)
                    _write_embeddings(
                        writer, encoders, modality, part, made, said, counts, progress
                    )
        unusable = list(writer.why.values())
    return _report(counts, unusable, time.monotonic() - begun, out, say)


def _prefetch_inputs(
    items: Sequence[EmbedItem],
    encoders: CheckpointEncoders,
    modality: str,
    threads: int,
    workers: int,
    patience: float,
) -> Iterator[tuple[Batch | None, str]]:
    to_inputs = ToModelInputs({modality: encoders.transform(modality)})
    make = _LoadItem(Examples(ItemRecords(items), to_inputs, modality), modality)
    return pair_batches.prefetch_each(make, len(items), 0, threads, workers, patience)


class _LoadItem:
    """An item's input, its picture and what it says of itself, in a thread or another process."""

    def __init__(self, rows: Examples, modality: str):
        self._rows, self._modality = rows, modality

    def __call__(self, index: int) -> tuple[Batch | None, str]:
        item = self._rows.records.items[index]  # type: ignore[attr-defined]
        before = _stamp(item)  # of what is read: it may change meanwhile
        made, bad = self._rows.made(index, None)
        if made is None:
            return None, bad
        picture = thumbnail(self._modality, made[self._modality])
        said = msgspec.json.encode({**file_discovery.media_info(item), **_row(item, before)})
        return {**made, "picture": _bytes(picture), "about": _bytes(said)}, ""


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _write_embeddings(
    writer: StoreWriter,
    encoders: CheckpointEncoders,
    modality: str,
    items: Sequence[EmbedItem],
    made: Iterator[tuple[Batch | None, str]],
    said_of: Mapping[str, str],
    counts: dict[str, int],
    progress: Progress,
) -> None:
    """Adds a row for each item, in order, as soon as it and all before it are done."""
    bench, encoder = encoders.bench(modality), encoders.encoders[modality]
    table = np.zeros((len(items), encoders.width), np.float32)
    batches = ShapeBatcher(bench.runner("embed", modality, {}), bench.batch_size, table)
    waiting: dict[int, tuple[bytes, bytes]] = {}  # row -> its picture, what it says of itself
    done = 0

    def finished(up_to: int) -> None:
        nonlocal done
        for row in range(done, up_to):
            if row in waiting:
                picture, said = waiting.pop(row)
                writer.add(table[row], {**json.loads(said), **_fields(items[row])}, picture)
                counts["embedded"] += 1
        done = up_to
        bad = f", {counts['unusable']} unusable" if counts["unusable"] else ""
        progress.update(counts["embedded"] + counts["unusable"], f"{modality}{bad}")

    for row, (inputs, why) in enumerate(made):
        if inputs is not None and not matches_encoder_shape(inputs[modality], encoder):
            why = f"an input of {list(inputs[modality].shape)}, and the encoder takes {list(encoder.shape)}"
            inputs = None
        if inputs is None:
            item = items[row]
            about = {
                "said": _item_fingerprint(item, said_of),
                "why": why.removeprefix(f"{item.source}: "),
            }
            writer.unusable({**_fields(item), **_row(item, _stamp(item)), **about})
            counts["unusable"] += 1
        else:
            x = inputs[modality]
            waiting[row] = inputs["picture"].tobytes(), inputs["about"].tobytes()
            batches.add(row, x if x.ndim == len(encoder.shape) + 1 else x[None])
        finished(batches.finished(row + 1))
    batches.end()
    finished(len(items))


def _row(item: EmbedItem, stamp: Any) -> dict[str, Any]:
    """What items.jsonl says of it, beside its fields; nothing that a manifest says takes its place."""
    return {"key": item.key, "modality": item.modality, "file": item.source, "stamp": stamp}


def _fields(item: EmbedItem) -> dict[str, Any]:
    reserved = ("key", "modality", "file", "stamp", "said", "why")
    return {name: value for name, value in item.fields.items() if name not in reserved}


def _digest(encoders: CheckpointEncoders, modality: str) -> str:
    return json_sha256(flatten_config({"transform": encoders.transform(modality)}))


def _item_fingerprint(item: EmbedItem, of: Mapping[str, str]) -> str:
    """What else decides whether it can be used: its fields, and how inputs are made of it."""
    return json_sha256([_fields(item), of[item.modality]])


def _stamp(item: EmbedItem) -> Any:
    return file_stamp(item.source) if item.text is None else item.text


def _with_encoder(
    found: Discovery, encoders: CheckpointEncoders, say: Callable[[str], None]
) -> list[EmbedItem]:
    """Those that the checkpoint has an encoder for. Raises UserError where it has for none."""
    lacking = sorted({item.modality for item in found.items} - encoders.encoders.keys())
    for modality in lacking:
        count = sum(item.modality == modality for item in found.items)
        line = f"{count:,} of {modality}: the checkpoint has no encoder for them"
        if len(lacking) == len({item.modality for item in found.items}):
            raise UserError(f"{line}, only of {', '.join(encoders.encoders)}")
        say(f"passed over: {line}")
    return [item for item in found.items if item.modality in encoders.encoders]


def _note_unusable(found: Discovery, writer: StoreWriter) -> None:
    for file, why in found.unusable:
        key, changed = f"file:{file}", file_stamp(file)
        if not writer.had(key, changed):
            writer.unusable({"key": key, "file": file, "stamp": changed, "why": why})
        writer.why[key] = one_line(f"{file}: {why}", 400)


def _summary_line(found: Discovery, items: Sequence[EmbedItem], there: int, known: int) -> str:
    """One line: what was found, and how much of it is new."""
    counts: dict[str, int] = {}
    for item in items:
        counts[item.modality] = counts.get(item.modality, 0) + 1
    line = "found " + (", ".join(f"{n:,} {m}" for m, n in counts.items()) or "nothing usable")
    if there:
        line += f"; {there:,} of them are in the store"
    if known:
        line += f"; {known:,} are known to be unusable (--retry tries them again)"
    if found.passed_over:
        most = sorted(found.passed_over.items(), key=lambda each: -each[1])[:4]
        line += f"; not media: {', '.join(f'{n:,} {suffix}' for suffix, n in most)}"
    return line


def _report(
    counts: dict[str, int],
    unusable: Sequence[str],
    seconds: float,
    out: str | os.PathLike,
    say: Callable[[str], None],
) -> dict[str, int]:
    for line in unusable[:5]:
        say(f"unusable: {line}")
    if len(unusable) > 5:
        say(
            f"unusable: and {len(unusable) - 5:,} more, all in {os.path.join(out, 'unusable.jsonl')}"
        )
    if not counts["embedded"] and not counts["there"] and unusable:
        raise UserError(f"none of {len(unusable):,} files could be embedded: {unusable[0]}")
    rate = f", {counts['embedded'] / seconds:.1f} a second" if counts["embedded"] else ""
    say(f"{counts['embedded']:,} embedded in {seconds:.0f} s{rate} -> {out}")
    return {**counts, "unusable": len(unusable)}
