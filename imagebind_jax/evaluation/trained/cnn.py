"""The classic baseline: a convolutional network on one modality, on MFCC or images, trained from scratch."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import Embedder, EvalInputs, EvalResult
from imagebind_jax.evaluation.trained import speaker_splits
from imagebind_jax.evaluation.trained.fit_classifier import (
    MultimodalArrays,
    TrainingSchedule,
    fit_classifier,
)
from imagebind_jax.evaluation.trained.fusion_heads import PresenceMask
from imagebind_jax.inputs.sources import Source


@dataclasses.dataclass(frozen=True)
class CnnBaseline:
    """A convolutional network that knows nothing but its training samples: `accuracy` and others.

    The items' transform makes what it reads, [h, w, c] or several such views (frames, clips), whose
    features are averaged: `load_standardized.mfcc.Mfcc()` of sounds, `vision.FramesTransform(64)` of videos. Splits,
    speakers and numbers are as in `fusion.Fusion`: `accuracy`, `accuracy_balanced` and
    `accuracy_<class>`. No source has these settings: they are ours.
    """

    train: EvalInputs
    test: EvalInputs
    validation: EvalInputs | None = None
    channels: tuple[int, ...] = (16, 32, 64)  # of each layer, after which height and width halve
    dropout: float = 0.3
    group: str = ""  # the field of a record that says who speaks; nobody may be in two splits
    held_out: float = 0.2  # share of train, or of its speakers, where there is no validation
    classes: tuple[str, ...] = ()  # their names; by default those of the prepared folder
    learning: TrainingSchedule = TrainingSchedule(epochs=40, patience=10)
    seeds: int = 3

    def __post_init__(self):
        validation = (self.validation,) if self.validation else ()
        speaker_splits.check_splits((self.train,), validation, (self.test,), self.held_out)
        if not self.channels or min(self.channels) < 8 or any(c % 8 for c in self.channels):
            raise UserError(f"channels {self.channels}: one layer or more, each a multiple of 8")
        if self.seeds < 1 or not 0 <= self.dropout < 1:
            raise UserError(
                f"seeds {self.seeds}, dropout {self.dropout}: at least 1, within 0 and 1"
            )

    @property
    def splits(self) -> tuple[EvalInputs, ...]:
        return tuple(each for each in (self.train, self.validation, self.test) if each)

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(items.source for items in self.splits)

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset()  # its network is its own

    def measure(self, bench: Embedder) -> EvalResult:
        """Raises UserError where there is nothing to learn from, or a speaker is in two splits."""
        parts = speaker_splits.split_by_speaker(
            bench,
            self.train.source,
            self.validation.source if self.validation else None,
            self.test.source,
            group=self.group,
            share=self.held_out,
            classes=self.classes,
        )
        samples = load_standardized(bench, self.splits, parts.train)
        module = Cnn(len(parts.classes), self.channels, self.dropout)
        usable = samples.usable
        train, held_out, test = (
            rows[usable[rows]] for rows in (parts.train, parts.held_out, parts.test)
        )
        right, epochs = np.full((self.seeds, len(parts.tested)), np.nan), []
        for seed in range(self.seeds):
            bench.tell(f"{self.train.name}: convolutional network {seed + 1} of {self.seeds}")
            found = fit_classifier(
                module, samples, parts.labels, train, held_out, self.learning,
                seed=(bench.seed, seed), what=f"{self.train.name}, a convolutional network",
            )  # fmt: skip
            told = found.probabilities(samples, test, self.learning.batch_size).argmax(axis=-1)
            right[seed, test - parts.tested[0]] = told == parts.labels[test]
            epochs.append(str(found.epoch))
        return EvalResult(
            speaker_splits.accuracies("accuracy", right, parts, bench),
            samples=len(parts.tested),
            unusable=len(parts.tested) - len(test),
            chance=dict.fromkeys(("accuracy", "accuracy_balanced"), 1 / len(parts.classes)),
            notes=(f"stopped after {', '.join(epochs)} epochs",),
        )


def load_standardized(
    bench: Embedder, splits: tuple[EvalInputs, ...], train: Int[np.ndarray, "a"]
) -> MultimodalArrays:
    """What the transforms make of all splits' records, split after split, standardised.

    By mean and deviation of the rows to learn from, for each channel and each of the h: a
    coefficient of MFCC has its own, and of images, which differ little from line to line, a line.
    Raises UserError where no input of them is [h, w, c] or [views, h, w, c].
    """
    read = [bench.inputs(items) for items in splits]
    shapes = {x.shape[1:] for x, usable in read if usable.any()}
    if len(shapes) != 1 or len(next(iter(shapes))) not in (3, 4):
        raise UserError(
            f"{splits[0].name}: inputs of shapes {sorted(shapes)}: choose a transform that makes "
            "[h, w, c] or [views, h, w, c] of every record"
        )
    (shape,) = shapes
    x = np.concatenate([each if each.shape[1:] == shape else np.zeros((len(each), *shape))
                        for each, _ in read]).astype(np.float32, copy=False)  # fmt: skip
    there = np.concatenate([usable for _, usable in read])
    known = x[train[there[train]]]
    if not len(known):
        raise UserError(f"no record of {splits[0].name} to learn from can be read")
    axes = tuple(axis for axis in range(x.ndim) if axis not in (x.ndim - 3, x.ndim - 1))
    mean, deviation = (of(known, axis=axes, keepdims=True) for of in (np.mean, np.std))
    x = (x - mean) / np.maximum(deviation, 1e-4)
    return MultimodalArrays.of({splits[0].modality: (x, there)})


class Cnn(nn.Module):
    """Layers of 3 x 3 convolutions, group norm and pooling; the mean over places and views; logits."""

    classes: int
    channels: tuple[int, ...] = (16, 32, 64)
    dropout: float = 0.3

    @nn.compact
    def __call__(
        self, x: Mapping[str, Float[Array, "b *shape"]], there: PresenceMask, train: bool = False
    ) -> Float[Array, "b c"]:
        (values,) = x.values()
        count = len(values)
        y = jnp.asarray(values).reshape(-1, *values.shape[-3:])  # [B * views, H, W, C]
        for i, width in enumerate(self.channels):
            y = nn.Conv(width, (3, 3), name=f"convolution{i}")(y)
            y = nn.relu(nn.GroupNorm(8, name=f"norm{i}")(y))
            y = nn.max_pool(y, (2, 2), (2, 2), "SAME")
        features = y.mean(axis=(1, 2)).reshape(count, -1, self.channels[-1]).mean(axis=1)
        features = nn.Dropout(self.dropout, deterministic=not train)(features)
        return nn.Dense(self.classes, name="logits")(features)
