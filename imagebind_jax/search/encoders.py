"""A checkpoint's encoders for files of one's own: each is loaded when it is first needed."""

import hashlib
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from imagebind_jax import config as configs
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import EvalConfig
from imagebind_jax.evaluation.metrics.similarity import weighted_sum
from imagebind_jax.evaluation.model_embedder import ModelEmbedder
from imagebind_jax.inputs import default_transforms
from imagebind_jax.inputs.pipeline.examples import ToModelInputs, Transform
from imagebind_jax.inputs.sources import Record
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBind, embed
from imagebind_jax.porting import load
from imagebind_jax.storage.fingerprint import code_checksums, flatten_config, json_sha256

HASHED_ELEMENTS = 1 << 18  # numbers of a leaf that tell a checkpoint from others


class CheckpointEncoders:
    """Embeds records as the checkpoint's own transforms make their inputs."""

    def __init__(
        self,
        checkpoint: str | os.PathLike,
        *,
        config: str | os.PathLike | None = None,
        transforms: Mapping[str, Transform] | None = None,
        dtype: str = "float32",
        batch_size: int = 64,
        tell: Callable[[str], None] = lambda what: None,
    ):
        """checkpoint: of any format. config: a training run's file, whose `inputs` are used in place
        of what the checkpoint says; transforms: go before both. Raises UserError where it cannot be read."""
        self.checkpoint = os.path.abspath(os.path.expanduser(checkpoint))
        self.settings = EvalConfig((), dtype=dtype, batch_size=batch_size)
        self.tell = tell
        with load.open_weights(self.checkpoint) as weights:
            self.encoders: Mapping[str, EncoderConfig] = weights.config.encoders
            self.width = weights.config.embed_dim
            leaves = {
                path: _leaf_prefix_hash(weights.pieces(path)) for path in sorted(weights.specs)
            }
            said = weights.inputs
        # Encoders that were not trained together share no space, whatever their shapes.
        self.family = json_sha256([flatten_config(dict(self.encoders)), self.width, leaves])
        given: Mapping[str, Transform] = transforms or {}
        if config is not None:
            given = {**configs.load_config(config, configs.TrainConfig).inputs, **given}
        self._given, self._said = given, said
        self._benches: dict[str, ModelEmbedder] = {}
        self._towers: dict[str, tuple[ImageBind, Mapping]] = {}
        self.expected: Mapping[str, str] = {}  # modality -> digest that its parameters must have

    def transform(self, modality: str) -> Transform:
        """Raises UserError where the checkpoint has no such encoder, or nothing says how to feed it."""
        if modality not in self.encoders:
            raise UserError(
                f"{pathlib.Path(self.checkpoint).name} has no encoder of {modality}: only "
                f"{', '.join(self.encoders)}"
            )
        shape = self.encoders[modality].shape
        found = (
            self._given.get(modality)
            or default_transforms.transform_from_run(self._said, modality)
            or default_transforms.default_transform(modality, shape)
        )
        if found is None:
            raise UserError(
                f"nothing says how inputs of {modality}, {list(shape)}, are made: give the training "
                "run's config with --config CONFIG.py"
            )
        return found

    def give(self, modality: str, transform: Transform) -> None:
        """From here on by this transform. Raises UserError where there is no such encoder."""
        self.transform(modality)
        self._given = {**self._given, modality: transform}

    def tower(self, modality: str) -> tuple[ImageBind, Mapping]:
        """(a model of that encoder alone, its parameters)."""
        if modality not in self._towers:
            self.transform(modality)  # refused before gigabytes are read
            self.tell(f"loading the encoder of {modality}")
            dtype = self.settings.dtype
            loaded = load.load(self.checkpoint, modalities=(modality,), dtype=dtype)
            if modality in self.expected:
                bench = ModelEmbedder(self.settings, *loaded, tell=self.tell)
                if bench.described(modality)["parameters"] != self.expected[modality]:
                    raise UserError(
                        f"{self.checkpoint} has another encoder of {modality} than the store was made with"
                    )
                self._benches[modality] = bench
            self._towers[modality] = loaded
        return self._towers[modality]

    def bench(self, modality: str) -> ModelEmbedder:
        """For many inputs: batches over all devices."""
        tower = self.tower(modality)
        if modality not in self._benches:
            self._benches[modality] = ModelEmbedder(self.settings, *tower, tell=self.tell)
        return self._benches[modality]

    def described(self, modality: str) -> dict[str, Any]:
        """What this modality's vectors depend on."""
        transform = self.transform(modality)
        return {
            **self.bench(modality).described(modality),
            "transform": flatten_config({"transform": transform}),
            "code": code_checksums(transform),
        }

    def vector(self, modality: str, record: Record) -> Float[np.ndarray, "e"]:
        """The unit vector of one record, such as {"audio": path}. Raises UserError, MediaError."""
        return self.seen(modality, record)[1]

    def seen(self, modality: str, record: Record) -> tuple[np.ndarray, Float[np.ndarray, "e"]]:
        """(what the encoder sees of one record, its unit vector). Raises UserError, MediaError."""
        x = self.input(modality, record)
        model, params = self.tower(modality)
        return x, np.asarray(embed(model, params, {modality: x[None]})[modality][0])

    def input(self, modality: str, record: Record) -> np.ndarray:
        """What the encoder sees of one record. Raises UserError, MediaError."""
        return ToModelInputs({modality: self.transform(modality)})(record, None)[modality]


def _leaf_prefix_hash(pieces: Iterator[np.ndarray]) -> str:
    """Of a leaf, of its first layer where layers are stacked: enough to tell weights from others."""
    first = np.ascontiguousarray(next(iter(pieces)).reshape(-1)[:HASHED_ELEMENTS])
    return hashlib.sha256(first.tobytes()).hexdigest()


def compose_query(
    vectors: Sequence[Float[np.ndarray, "e"]], weights: Sequence[float]
) -> Float[np.ndarray, "e"]:
    """The unit vector of the weighted sum of unit vectors; a negative weight takes away.

    Raises UserError where nothing is left.
    """
    total = sum(weight * vector for weight, vector in zip(weights, vectors, strict=True))
    if not np.linalg.norm(total) > 1e-6:
        raise UserError("the queries cancel each other: choose other weights")
    return weighted_sum([vector[None] for vector in vectors], weights)[0]
