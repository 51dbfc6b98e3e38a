"""The commands for files of one's own: embed, search, page; and what all commands do around their work."""

import argparse
import contextlib
import warnings
from collections.abc import Iterator

from imagebind_jax.errors import UserError
from imagebind_jax.runtime.console import print_line


def with_compilation_cache() -> contextlib.AbstractContextManager[None]:
    """Compiled programs are kept for the next command."""
    from imagebind_jax.runtime import compilation_cache

    return compilation_cache.persistent_compilation_cache(_note)


def _note(message: object) -> None:
    print_line(f"note: {message}", to_stderr=True)


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Warnings as notes of one line."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: _note(message)
        yield


def embed(options: argparse.Namespace, _: list[str]) -> None:
    from imagebind_jax.search import embed_files
    from imagebind_jax.search.encoders import CheckpointEncoders

    if (
        options.threads is not None
        and options.threads < 1
        or options.workers < 0
        or not options.patience > 0
    ):
        raise UserError("--threads must be at least 1, --workers 0, and --patience above 0")
    if options.depth and not (options.focal_length and options.baseline):
        raise UserError(
            "--depth needs --focal-length PIXELS (of the maps) and --baseline METRES: 518.86 and "
            "0.075 for NYU Depth v2's Kinect"
        )
    with warnings_as_notes(), with_compilation_cache():
        encoders = CheckpointEncoders(
            options.checkpoint,
            config=options.config,
            dtype=options.dtype,
            batch_size=options.batch_size,
        )
        if options.thermal_range:
            encoders.give("thermal", _thermal(encoders, *options.thermal_range))
        embed_files.embed_files(
            options.files,
            encoders,
            options.out,
            assumed={"depth": options.depth, "thermal": options.thermal},
            fields=_fields(options),
            sound=options.sound,
            retry=options.retry,
            threads=options.threads,
            workers=options.workers,
            patience=options.patience,
        )
    print_line(f'ask it: imagebind-jax search --index {options.out} --text "a sentence"')


def _thermal(encoders, scale: str, low: str, high: str):
    from imagebind_jax.inputs.transforms.thermal import Thermal

    try:
        bottom, top = float(low), float(high)
    except ValueError:
        raise UserError(f"--thermal-range {scale} {low} {high}: expected two numbers") from None
    encoders.transform("thermal")
    return Thermal(encoders.encoders["thermal"].shape[0], bottom, top, scale)


def _fields(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """What was said of files that do not say it themselves, by modality."""
    given = {
        "depth": {"focal_length": options.focal_length, "baseline": options.baseline},
        "imu": {"imu_rate": options.imu_rate},
    }
    return {m: {k: v for k, v in said.items() if v is not None} for m, said in given.items()}


def search(options: argparse.Namespace, _: list[str]) -> None:
    from imagebind_jax.search import query as search_query
    from imagebind_jax.search.store import EmbeddingStore

    if options.recall is not None and not options.build:
        raise UserError("--recall is of an index that is made: it goes with --build")
    if options.build:
        from imagebind_jax.search import approximate

        approximate.build_index(
            EmbeddingStore(options.index), recall=0.95 if options.recall is None else options.recall
        )
        if not options.queries:
            return
    with warnings_as_notes(), with_compilation_cache():
        search_query.run_search(
            options.index,
            [search_query.QueryPart(*query) for query in options.queries],
            k=options.k,
            modalities=tuple(filter(None, options.modality.split(","))),
            where=options.where,
            approximate=options.approximate,
            as_json=options.json,
            page=options.page,
            checkpoint=options.checkpoint,
            config=options.config,
            fields=_fields(options),
        )


def serve_command(options: argparse.Namespace, _: list[str]) -> None:
    from imagebind_jax import web

    with warnings_as_notes(), with_compilation_cache():
        web.serve_forever(
            options.index,
            checkpoint=options.checkpoint,
            config=options.config,
            fields=_fields(options),
            host=options.host,
            port=options.port,
        )
