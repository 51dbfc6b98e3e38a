"""The supervised baseline: an encoder that knows nothing but the k samples of each class."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from imagebind_jax import optimizer
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import Embedder, EvalInputs, EvalResult
from imagebind_jax.evaluation.tasks import few_shot
from imagebind_jax.evaluation.tasks.few_shot import Episode
from imagebind_jax.inputs.sources import Source
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.masked_autoencoder import UnpooledEncoder


@dataclasses.dataclass(frozen=True)
class FromScratch:
    """An encoder and a linear classifier, initialised and trained anew in each episode: `shot1`, ...

    The episodes are those of `few_shot.FewShot` with the same fields. Each view of a sample is a
    training sample with its label; at the test a sample's probabilities are the mean over views.
    Inputs come as for evaluation, without augmentation. No source has these settings: they are ours.
    """

    train: tuple[EvalInputs, ...]
    encoder: EncoderConfig  # a modality's own, say: imagebind.HUGE.encoders["audio"]
    test: tuple[EvalInputs, ...] = ()
    shots: tuple[int, ...] = (1, 2, 4, 8)
    learning_rate: float = 5e-4  # at its peak: linear warm-up, then a cosine to 0
    weight_decay: float = 0.05
    epochs: int = 100
    warmup: float = 0.1  # share of the steps
    batch_size: int = 64  # views; the last batch of an epoch is filled up with rows without weight
    draws: int = 5  # of the k samples

    def __post_init__(self):
        few_shot.check_few_shot(self.train, self.test, self.shots, self.draws)
        if self.encoder.vocab_size:
            raise UserError("from scratch needs an encoder of patches, not of text")
        if self.epochs < 1 or self.batch_size < 1 or not 0 <= self.warmup <= 1:
            raise UserError(
                f"epochs {self.epochs}, batch_size {self.batch_size}, warmup {self.warmup}: "
                "at least 1, at least 1, within [0, 1]"
            )
        self._rates(1)  # for its errors

    def _rates(self, steps: int) -> optimizer.OptimizerConfig:
        return optimizer.OptimizerConfig(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_steps=round(self.warmup * steps),
        )

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(items.source for items in (*self.train, *self.test))

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset()  # its encoder is its own

    def measure(self, bench: Embedder) -> EvalResult:
        x, pool = few_shot.load_pool(bench, self.train, self.test, bench.inputs)
        x = as_views(self.encoder, x)

        def learn(drawn: Sequence[Episode]) -> list[np.ndarray]:
            found, note = [], ""
            for i, episode in enumerate(drawn):
                bench.tell(f"shot{episode.shots}: {i} of {len(drawn)} trained from scratch{note}")
                params, loss = self._fit(x, episode, bench.seed)
                note = f", the last to a loss of {loss:.3f}"
                found.append(self._told(params, x, episode))
            return found

        return few_shot.run_episodes(bench, pool, {"": learn}, shots=self.shots, draws=self.draws)

    def _fit(self, x: np.ndarray, episode: Episode, seed: int) -> tuple[Any, float]:
        """(parameters, the last loss) of one episode; raises UserError where that is not finite."""
        rows = np.repeat(episode.train, x.shape[1])
        view = np.tile(np.arange(x.shape[1]), len(episode.train))
        labels = np.repeat(episode.labels, x.shape[1])
        batches = -(-len(rows) // self.batch_size)
        steps = self.epochs * batches
        config = self._rates(steps)
        # The rates belong to an episode, and the step that is compiled to all of them.
        rates = np.asarray(optimizer.learning_rate(config, steps)(np.arange(steps)))
        config = dataclasses.replace(config, warmup_steps=0)
        rng = np.random.default_rng((seed, episode.shots, episode.split, episode.draw))
        classifier = Classifier(self.encoder, episode.classes)
        key = jax.random.key(int(rng.integers(2**32)))
        state = _create(classifier, config, key)
        loss = jnp.float32(0)
        for step in range(steps):
            if step % batches == 0:
                order = np.resize(rng.permutation(len(rows)), batches * self.batch_size)
            at = slice(step % batches * self.batch_size, (step % batches + 1) * self.batch_size)
            chosen, weight = order[at], np.arange(at.start, at.stop) < len(rows)
            state, loss = _step(
                state,
                x[rows[chosen], view[chosen]],
                labels[chosen],
                weight.astype(np.float32),
                rates[step],
                jax.random.fold_in(key, step),
                classifier=classifier,
                config=config,
            )
        if not np.isfinite(loss):
            raise UserError(
                f"from scratch, {episode.shots} shots: the loss is {loss}; lower the learning_rate "
                f"{self.learning_rate}"
            )
        return state[0], float(loss)

    def _told(self, params: Any, x: np.ndarray, episode: Episode) -> Int[np.ndarray, "b"]:
        """The class of each row that is tested."""
        classifier = Classifier(self.encoder, episode.classes)
        count = x.shape[1]
        rows, view = np.repeat(episode.test, count), np.tile(np.arange(count), len(episode.test))
        found = []
        for start in range(0, len(rows), self.batch_size):
            chosen = np.arange(start, start + self.batch_size) % len(rows)  # as many in the last
            found.append(_probabilities(params, x[rows[chosen], view[chosen]], classifier))
        each = np.concatenate(jax.device_get(found))[: len(rows)]
        return each.reshape(-1, count, episode.classes).mean(axis=1).argmax(axis=-1)


class Classifier(nn.Module):
    """An encoder whose head is a linear classifier in place of a projection to the sphere."""

    encoder: EncoderConfig
    classes: int

    @nn.compact
    def __call__(self, x: Float[Array, "b *shape"], train: bool = False) -> Float[Array, "b c"]:
        cls = UnpooledEncoder(self.encoder, name="encoder")(x, train=train)[:, 0]
        cls = nn.Dropout(self.encoder.head_dropout, deterministic=not train)(cls)
        return nn.Dense(self.classes, kernel_init=nn.initializers.zeros, name="head")(cls)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _create(classifier, config, key):
    """(parameters, the optimizer's state)."""
    params = classifier.init(key, jnp.zeros((1, *classifier.encoder.shape)))["params"]
    return params, optimizer.init(config, params)


@functools.partial(jax.jit, static_argnames=("classifier", "config"), donate_argnums=0)
def _step(state, x, labels, weight, rate, key, *, classifier, config):
    def loss_fn(params):
        logits = classifier.apply({"params": params}, x, train=True, rngs={"dropout": key})
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(weight * losses) / jnp.sum(weight)

    params, opt_state = state
    loss, grads = jax.value_and_grad(loss_fn)(params)
    params, opt_state, _ = optimizer.update(config, grads, opt_state, params, rate)
    return (params, opt_state), loss


@functools.partial(jax.jit, static_argnums=2)
def _probabilities(params, x, classifier):
    return jax.nn.softmax(classifier.apply({"params": params}, x), axis=-1)


def as_views(encoder: EncoderConfig, x: np.ndarray) -> np.ndarray:
    """Inputs of any encoder as [n, views, *shape]. Raises UserError where they do not fit it."""
    if x.shape[1:] == encoder.shape:
        x = x[:, None]
    if x.shape[2:] != encoder.shape:
        raise UserError(
            f"inputs of shape {x.shape[1:]} for an encoder of {encoder.shape}: give `encoder` the "
            "shape of what the items' transform makes"
        )
    return x
