"""A model's embeddings of records, sentences and classes: batched over the devices, and kept."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from imagebind_jax import version
from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.distributed import lockstep, sharding
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation import record_reader
from imagebind_jax.evaluation.batching import ShapeBatcher
from imagebind_jax.evaluation.benchmark import EvalConfig, EvalInputs
from imagebind_jax.inputs.sources import Record, Source
from imagebind_jax.inputs.sources.prepared import DatasetInfo
from imagebind_jax.inputs.transforms import text
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBind, ImageBindConfig
from imagebind_jax.storage.fingerprint import code_checksums, flatten_config, json_sha256
from imagebind_jax.storage.row_file import ResumableRowFile

FOLDER = "embeddings"  # within the folder of an evaluation
InputStream = Generator[tuple[np.ndarray | None, str], None, None]


class ModelEmbedder:
    """An `Embedder` whose embeddings a model makes.

    With several hosts each decodes every record and gives the devices its part of each batch, so
    that all have all embeddings: decoding is then redundant, and `folder` must be one that all see;
    the first writes. All ask for the same in the same order, within `lockstep.lockstep`.
    """

    def __init__(
        self,
        config: EvalConfig,
        model: ImageBind,
        params: Mapping,
        *,
        folder: pathlib.Path | None = None,
        tell: Callable[[str], None] = lambda what: None,
        place: sharding.ShardedStrategy | sharding.PmapStrategy | None = None,
        digests: Mapping[str, str] | None = None,
    ):
        """folder: where embeddings are kept, in `embeddings/`, and found again by the next run; None:
        only in memory. place: the devices (default: all, `config.fsdp` of them for one model).
        digests: modality -> of its parameters, where that is known already."""
        self.config, self.folder, self.tell = config, folder, tell
        self.resamples, self.seed = config.resamples, config.seed
        self.model = ImageBind(dataclasses.replace(model.config, dtype=config.dtype))
        self.place = sharding.ShardedStrategy(config.fsdp) if place is None else place
        shares = self.place.shares
        self.batch_size = -(-config.batch_size // shares) * shares
        self._kept_in = folder / FOLDER if folder is not None else None
        self._writes = jax.process_index() == 0
        self._sources = record_reader.RecordCache(config, self._kept_in, tell, self._writes)
        self._apply = self.place.compile_apply(self._unit_vectors)
        self.replace(params)
        self._digests.update(digests or {})

    def replace(self, params: Mapping) -> None:
        """From here on with other parameters of the same model: what was compiled and read stays."""
        self._params = {
            name: self.place.place(params[name]) for name in self.model.config.encoders
            if name in params
        }  # fmt: skip
        self._digests: dict[str, str] = {}
        self._found: dict[str, tuple[Any, Float[np.ndarray, "n e"]]] = {}

    def _unit_vectors(self, params, batch, device):
        # Else products of float32 are of fewer bits on TPUs and recent GPUs.
        exact = "highest" if self.config.dtype == "float32" else None
        with jax.default_matmul_precision(exact):
            model = ImageBind(self.model.config, gather=device.layer)
            (z,) = model.apply({"params": device.whole(params)}, batch)[0].values()
        return z

    # ---- what the records say

    def records(self, source: Source) -> Sequence[Record]:
        return self._sources.records(source)

    def notes(self, source: Source) -> Sequence[Mapping[str, Any]]:
        return self._sources.notes(source)

    def facts(self, source: Source) -> DatasetInfo | None:
        return self._sources.facts(source)

    def inputs(self, items: EvalInputs) -> tuple[np.ndarray, np.ndarray]:
        return record_reader.load_inputs(self.config, self.records(items.source), items, self.tell)

    def weights(self, modalities: Sequence[str]) -> tuple[ImageBindConfig, dict[str, Any]]:
        """(the model's configuration, {modality: parameters, whole}), for what goes on learning."""
        for modality in modalities:
            self._encoder(modality, "what reads its weights")
        return self.model.config, {m: self.place.gather(self._params[m]) for m in modalities}

    # ---- vectors

    def embed(self, items: EvalInputs) -> Float[np.ndarray, "n e"]:
        """Unit vectors, of several views the normalised mean; NaN where there is no input.

        Raises UserError where the model lacks the encoder, it refuses the inputs' shape, or too
        many records are unusable; `FatalRunError` where decoding hangs or dies.
        """
        encoder = self._encoder(items.modality, items.name)
        records = self.records(items.source)

        def of() -> dict[str, Any]:
            return {
                "source": self._sources.identity(items.source),
                "transform": flatten_config({"transform": items.transform}),
                "code": code_checksums(items.transform),
            }

        def made(start: int) -> InputStream:
            first = True
            for x, why in record_reader.stream_inputs(self.config, records, items, start):
                if x is not None and not matches_encoder_shape(x, encoder):
                    why = (
                        f"{items.name}: an input is {list(x.shape)}, and the model's "
                        f"{items.modality} encoder takes {list(encoder.shape)}"
                    )
                    if first:
                        raise UserError(f"{why}: choose the transform that the model was made for")
                    x = None
                first = first and x is None
                yield x, why

        def check(unusable: Mapping[int, str]) -> None:
            record_reader.check_unusable_fraction(
                items, len(records), self.config.unusable, unusable
            )

        return self._vectors(items.name, items, items.modality, len(records), of, made, check=check)

    def texts(self, name: str, texts: Sequence[str]) -> Float[np.ndarray, "n e"]:
        """Unit vectors of sentences; one that comes again is not computed again."""
        context = self._encoder("text", name).shape[0]
        first: dict[str, int] = {}
        same = [first.setdefault(sentence, row) for row, sentence in enumerate(texts)]

        def made(start: int) -> InputStream:
            for row in range(start, len(texts)):
                again = same[row] != row
                yield (None if again else text.tokenize([texts[row]], context)[0]), ""

        of = {"texts": json_sha256(list(texts))}
        return self._vectors(
            f"{name}.texts", of, "text", len(texts), lambda: of, made, same=same
        )  # fmt: skip

    def classes(
        self, name: str, names: Sequence[str], prompts: Sequence[str]
    ) -> Float[np.ndarray, "names e"]:
        """Source: CLIP's prompt ensembling. Only the names' vectors are held, not all prompts'."""
        context = self._encoder("text", name).shape[0]

        def made(start: int) -> InputStream:
            for each in names[start:]:
                yield text.tokenize(record_reader.fill_prompts(prompts, each), context), ""

        of = {"names": json_sha256(list(names)), "prompts": json_sha256(list(prompts))}
        return self._vectors(f"{name}.classes", of, "text", len(names), lambda: of, made)

    def _encoder(self, modality: str, name: str) -> EncoderConfig:
        if modality not in self._params:
            raise UserError(
                f"{name} needs an encoder of {modality}, and the model has only "
                f"{', '.join(self._params)}"
            )
        return self.model.config.encoders[modality]

    def _vectors(
        self,
        name: str,
        asked: Any,
        modality: str,
        n: int,
        of: Callable[[], Mapping[str, Any]],
        made: Callable[[int], InputStream],
        *,
        same: Sequence[int] | None = None,
        check: Callable[[Mapping[int, str]], None] = lambda unusable: None,
    ) -> Float[np.ndarray, "n e"]:
        """Rows of `made(start)`: from memory, from the folder, or now.

        asked: what another call of this name must ask for, too. of: what a file's vectors depend on,
        beside the model. same: row -> the row before it that has the same input, or itself.
        """
        if name in self._found:  # what failed may be asked for otherwise
            known, vectors = self._found[name]
            record_reader.check_unique_name({name: known}, name, asked)
            return vectors
        lockstep.lockstep_barrier(name, n)
        kept = ResumableRowFile(
            self._kept_in / name if self._kept_in is not None else None,
            (n, self.model.config.embed_dim),
            lambda: {**self.described(modality), **of()},
            writes=self._writes,
            tell=self.tell,
        )
        lockstep.lockstep_barrier(f"{name}, {kept.done} rows of it in its file", kept.done)
        check(kept.unusable)
        if kept.done < n:
            self._fill(kept, name, modality, made, same or range(n), check)
            lockstep.lockstep_barrier(
                f"{name}, its end", sorted(kept.unusable), _last_unusable(kept.unusable)
            )
        self._found[name] = asked, kept.rows
        return kept.rows

    def described(self, modality: str) -> dict[str, Any]:
        """What vectors depend on: the tower, how it is computed, and the code."""
        if modality not in self._digests:
            tower = self.place.gather(self._params[modality])
            self._digests[modality] = json_sha256(checkpointer.tree_checksums(tower)[0])
        return {
            "parameters": self._digests[modality],
            "encoder": flatten_config({modality: self.model.config.encoders[modality]}),
            "dtype": self.config.dtype,
            "version": version.__version__,
        }

    def _fill(
        self, kept: ResumableRowFile, name, modality, made, same: Sequence[int], check
    ) -> None:
        n, start = len(kept.rows), kept.done
        run = self.runner(name, modality, kept.unusable)
        batches = ShapeBatcher(run, self.batch_size, kept.rows)
        rank = len(self._encoder(modality, name).shape)
        seen = record_reader.ThrottledProgress(name, n, self.tell, start)
        with contextlib.closing(made(start)) as rows:

            def finished(up_to: int) -> None:
                for row in range(kept.done, up_to):
                    kept.rows[row] = kept.rows[same[row]]  # itself, or one before it
                kept.advance(up_to)
                seen(up_to)

            try:
                for row, (x, why) in enumerate(rows, start):
                    if x is not None:
                        batches.add(row, x if x.ndim == rank + 1 else x[None])
                    elif same[row] == row:
                        kept.unusable[row] = why
                        check(kept.unusable)
                    finished(batches.finished(row + 1))
                batches.end()
                finished(n)
            finally:
                kept.flush()  # what is done is done, whatever ends it

    def runner(
        self, name: str, modality: str, unusable: Mapping[int, str]
    ) -> Callable[[Sequence[int], np.ndarray], Any]:
        """What `ShapeBatcher` runs: (rows, inputs) -> their vectors on the devices, to be fetched later."""
        tower = {modality: self._params[modality]}
        index, hosts = jax.process_index(), jax.process_count()

        def run(rows: Sequence[int], x: np.ndarray) -> Any:
            share = len(x) // hosts
            part = self.place.batch({modality: x[index * share : (index + 1) * share]})
            # While it travels: each host has read the records by itself.
            what = [list(rows), list(x.shape), x.dtype.str]
            lockstep.lockstep_barrier(f"{name}, record {rows[-1]}", what, _last_unusable(unusable))
            return self._apply(tower, part)

        return run


def _last_unusable(unusable: Mapping[int, str]) -> str:
    if not unusable:
        return ""
    row = max(unusable)
    return f" ({len(unusable)} unusable, the last record {row}: {unusable[row]})"


def matches_encoder_shape(x: np.ndarray, encoder: EncoderConfig) -> bool:
    """Whether it is one input, or several views: an image may stand for a video."""
    shapes = {encoder.shape}
    if len(encoder.shape) == 4:
        shapes.add((1, *encoder.shape[1:]))
    return x.shape in shapes or (
        x.ndim == len(encoder.shape) + 1 and len(x) > 0 and x.shape[1:] in shapes
    )
