"""The self-supervised baseline: a masked autoencoder, pretrained here, then probed like any encoder."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from imagebind_jax.evaluation.benchmark import Embedder, EvalInputs, EvalResult
from imagebind_jax.evaluation.metrics.similarity import l2_normalize
from imagebind_jax.evaluation.tasks.few_shot import FewShot
from imagebind_jax.evaluation.trained.from_scratch import as_views
from imagebind_jax.evaluation.trained.mae_pretraining import MaePretraining, pretrain_mae
from imagebind_jax.inputs.sources import Prepared, Source
from imagebind_jax.inputs.sources.fingerprint import source_fingerprint
from imagebind_jax.models.masked_autoencoder import MaskedConfig, UnpooledEncoder


@dataclasses.dataclass(frozen=True)
class MaskedAutoencoderBaseline:
    """The few-shot protocol on the features of a masked autoencoder, pretrained here.

    The features are the mean over the patch tokens after the encoder's last norm, without the cls
    token, as AudioMAE pools where it fine-tunes; of several views, the mean; then unit vectors.
    Both probes are `few_shot`'s. (MAE's own linear probe reads the cls token and normalises each
    feature over a batch. Here the ridge probe centres features, and the other takes them as they
    are.)
    """

    pretraining: MaePretraining
    few_shot: FewShot

    @property
    def sources(self) -> tuple[Source, ...]:
        return (self.pretraining.items.source, *self.few_shot.sources)

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset()  # its encoder is its own

    def measure(self, bench: Embedder) -> EvalResult:
        @functools.cache
        def pretrained() -> Mapping[str, Any]:
            source = self.pretraining.items.source
            records, folder = bench.records(source), bench.folder
            if folder is not None:
                folder = (
                    folder / f"masked-{self.pretraining.digest(_source_identity(bench, source))}"
                )
            return pretrain_mae(self.pretraining, records, folder, bench.tell)

        def embed(items: EvalInputs) -> Float[np.ndarray, "n e"]:
            x, usable = bench.inputs(items)
            x = as_views(self.pretraining.model.encoder, x)  # before days of pretraining, not after
            found = mean_pooled_features(self.pretraining.model, pretrained(), x)
            found[~usable] = np.nan
            return found

        return self.few_shot.probe(bench, embed)


def _source_identity(bench: Embedder, source: Source) -> Any:
    """What tells the records from others; a prepared folder may lie where only the bench knows."""
    facts = bench.facts(source)
    if not isinstance(source, Prepared) or facts is None:
        return source_fingerprint(source)
    return [shard.sha256 for shard in facts.splits[source.split].shards]


def mean_pooled_features(
    config: MaskedConfig, params: Mapping[str, Any], x: np.ndarray, batch_size: int = 64
) -> Float[np.ndarray, "n e"]:
    """Unit vectors of inputs [n, *shape] or [n, views, *shape]: see `MaskedAutoencoderBaseline`."""
    x = as_views(config.encoder, x)
    flat = x.reshape(-1, *config.encoder.shape)
    found = []
    for start in range(0, len(flat), batch_size):
        chosen = np.arange(start, start + batch_size) % len(flat)  # as many in the last
        found.append(_pooled(params, flat[chosen], config))
    each = np.concatenate(jax.device_get(found))[: len(flat)]
    return l2_normalize(each.reshape(len(x), x.shape[1], -1).mean(axis=1))


@functools.partial(jax.jit, static_argnums=2)
def _pooled(params, x, config):
    tokens = jnp.asarray(UnpooledEncoder(config.encoder, config.dtype).apply({"params": params}, x))
    return tokens[:, 1:].astype(jnp.float32).mean(axis=1)
