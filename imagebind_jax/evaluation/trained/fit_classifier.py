"""Learning a classifier from labelled rows: AdamW, early stopping on rows held out, seeded."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int

from imagebind_jax import optimizer
from imagebind_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class TrainingSchedule:
    """How a classifier is learned. No source has these settings: they are ours."""

    learning_rate: float = 1e-3  # at its peak: a warm-up of one epoch, then a cosine to 0
    weight_decay: float = 0.05
    epochs: int = 60  # at most
    patience: int = 15  # epochs without a smaller loss on the rows held out, after which it ends
    batch_size: int = 64  # samples; the last batch of an epoch is filled with rows without weight

    def __post_init__(self):
        for name in ("epochs", "patience", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        self.rates(0)  # for its errors

    def rates(self, warmup: int) -> optimizer.OptimizerConfig:
        return optimizer.OptimizerConfig(
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_steps=warmup,
            beta2=0.98,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class MultimodalArrays:
    """What a classifier takes, all rows of all splits, by modality: a missing row is of zeros."""

    x: Mapping[str, np.ndarray]  # [n, ...]
    there: Mapping[str, Bool[np.ndarray, "n"]]

    @classmethod
    def of(
        cls, arrays: Mapping[str, tuple[np.ndarray, Bool[np.ndarray, "n"]]]
    ) -> "MultimodalArrays":
        """Of {modality: (values [n, ...], which are there)}; those that are not may be NaN."""
        zeroed = {name: _zeroed(x, there) for name, (x, there) in arrays.items()}
        return cls(zeroed, {name: there for name, (_, there) in arrays.items()})

    @property
    def usable(self) -> Bool[np.ndarray, "n"]:
        return np.any([*self.there.values()], axis=0)

    def only(self, modality: str) -> "MultimodalArrays":
        return MultimodalArrays({modality: self.x[modality]}, {modality: self.there[modality]})

    def rows(self, chosen: Int[np.ndarray, "b"]) -> tuple[dict, dict]:
        return {name: x[chosen] for name, x in self.x.items()}, {
            name: there[chosen] for name, there in self.there.items()
        }


def _zeroed(x: np.ndarray, there: Bool[np.ndarray, "n"]) -> np.ndarray:
    if there.all():
        return x
    x = x.copy()
    x[~there] = 0
    return x


@dataclasses.dataclass(frozen=True, eq=False)
class FittedClassifier:
    """A classifier as it was where the loss on the rows held out was smallest."""

    module: nn.Module
    variables: Mapping[str, Any]
    epoch: int  # of that, counted from 1
    loss: float  # there

    def probabilities(
        self, samples: MultimodalArrays, rows: Int[np.ndarray, "b"], batch_size: int = 64
    ) -> Float[np.ndarray, "b c"]:
        """Of each class, for each of these rows."""
        found = [
            _probabilities(self.variables, *samples.rows(chosen), module=self.module)
            for chosen, _ in _batches(rows, batch_size)
        ]
        return np.concatenate(jax.device_get(found))[: len(rows)]


def fit_classifier(
    module: nn.Module,
    samples: MultimodalArrays,
    labels: Int[np.ndarray, "n"],
    train: Int[np.ndarray, "a"],
    held_out: Int[np.ndarray, "h"],
    learning: TrainingSchedule,
    *,
    seed: tuple[int, ...],
    what: str = "a classifier",
    start: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
    factors: Mapping[str, float] | None = None,
) -> FittedClassifier:
    """Learns `module` (x, there, train) -> logits [b, c] from the rows `train`, until `held_out` says.

    start: parameters of some of the module's top-level parts, in place of random ones. fixed: its
    collections that are not learned. factors: by which the rate of such a part is multiplied.
    Raises UserError where there is nothing to learn from, and where the loss is not finite.
    """
    if not len(train) or not len(held_out):
        raise UserError(f"{what}: {len(train)} samples to learn from, {len(held_out)} to stop by")
    batches = -(-len(train) // learning.batch_size)
    steps = learning.epochs * batches
    config = learning.rates(min(batches, steps // 10))
    rates = np.asarray(optimizer.learning_rate(config, steps)(np.arange(steps)), np.float32)
    config = learning.rates(0)  # the step that is compiled is then everybody's
    rng = np.random.default_rng(seed)
    key = jax.random.key(int(rng.integers(2**32)))
    fixed = fixed or {}
    params = {**_create(module, fixed, *samples.rows(train[:1]), key), **(start or {})}
    params = jax.tree.map(jnp.array, params)  # its own: a step gives them away
    state = params, optimizer.init(config, params)
    best, patience = FittedClassifier(module, {}, 0, float("inf")), learning.patience
    own = tuple(sorted((factors or {}).items()))
    for epoch in range(learning.epochs):
        for i, (chosen, weight) in enumerate(
            _batches(rng.permutation(train), learning.batch_size), epoch * batches
        ):
            x, there = samples.rows(chosen)
            state = _step(
                state, fixed, x, there, labels[chosen], weight, rates[i],
                jax.random.fold_in(key, i), module=module, config=config, factors=own,
            )  # fmt: skip
        loss = _loss(module, {"params": state[0], **fixed}, samples, labels, held_out, learning)
        if not np.isfinite(loss):
            raise UserError(
                f"{what}: the loss is {loss} after {epoch + 1} epochs; lower the learning_rate "
                f"{learning.learning_rate}"
            )
        if loss < best.loss:
            kept = {"params": jax.device_get(state[0]), **fixed}
            best, patience = FittedClassifier(module, kept, epoch + 1, loss), learning.patience
        elif (patience := patience - 1) == 0:
            break
    return best


def _loss(module, variables, samples, labels, rows, learning) -> float:
    """The mean cross-entropy of these rows."""
    sums = [
        _losses(variables, *samples.rows(chosen), labels[chosen], weight, module=module)
        for chosen, weight in _batches(rows, learning.batch_size)
    ]
    return float(np.sum(jax.device_get(sums))) / len(rows)


def _batches(
    rows: Int[np.ndarray, "n"], size: int
) -> Iterator[tuple[Int[np.ndarray, "b"], Float[np.ndarray, "b"]]]:
    """(rows, their weights) of equal size; the last is filled up with rows of weight 0."""
    size = min(size, len(rows))
    for start in range(0, len(rows), size):
        place = np.arange(start, start + size)
        yield rows[place % len(rows)], (place < len(rows)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def _create(module, fixed, x, there, key):
    """Parameters of a module that may read collections of its own."""
    return module.apply(fixed, x, there, rngs={"params": key}, mutable=["params"])[1]["params"]


@functools.partial(jax.jit, static_argnames=("module", "config", "factors"), donate_argnums=0)
def _step(state, fixed, x, there, labels, weight, rate, key, *, module, config, factors):
    def loss_fn(params):
        apply: Callable = module.apply
        logits = apply({"params": params, **fixed}, x, there, True, rngs={"dropout": key})
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.sum(weight * losses) / jnp.sum(weight)

    params, opt_state = state
    grads = jax.grad(loss_fn)(params)
    own = dict(factors)
    for part in grads:  # each by itself, since each has its own rate
        found, opt_state, _ = optimizer.update(
            config, {part: grads[part]}, opt_state, params, rate * own.get(part, 1.0)
        )
        params = params | found
    return params, opt_state


@functools.partial(jax.jit, static_argnames="module")
def _losses(variables, x, there, labels, weight, *, module):
    logits = module.apply(variables, x, there)
    return jnp.sum(weight * optax.softmax_cross_entropy_with_integer_labels(logits, labels))


@functools.partial(jax.jit, static_argnames="module")
def _probabilities(variables, x, there, *, module):
    return jax.nn.softmax(module.apply(variables, x, there), axis=-1)
