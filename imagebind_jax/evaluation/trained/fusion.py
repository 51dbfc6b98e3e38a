"""Fusion: a supervised head over the modalities of a sample, beside the same head on each alone."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import Embedder, EvalInputs, EvalResult
from imagebind_jax.evaluation.metrics import bootstrap
from imagebind_jax.evaluation.metrics.bootstrap import Estimate
from imagebind_jax.evaluation.metrics.similarity import l2_normalize_f32
from imagebind_jax.evaluation.trained import speaker_splits
from imagebind_jax.evaluation.trained.fine_tuning import FineTuningInputs
from imagebind_jax.evaluation.trained.fit_classifier import (
    MultimodalArrays,
    TrainingSchedule,
    fit_classifier,
)
from imagebind_jax.evaluation.trained.fusion_heads import HEADS
from imagebind_jax.inputs.sources import Source


@dataclasses.dataclass(frozen=True)
class Fusion:
    """A head learned on several modalities of the same records, and on each of them alone.

    train, validation, test: items of one source each, one of every modality. Without validation a
    share of train is held out to stop by. The head reads the embeddings, standardised by those
    it learns from; with `fine_tune` the encoders learn as well. Numbers, means over `seeds`
    trainings: `fusion` (accuracy), `fusion_balanced` (mean over classes), `fusion_<class>`, the same
    of each modality by its name, and `gain`: fusion above the better of these, by their test
    accuracies, with the paired interval. Of one modality alone there are its numbers alone.
    A record may lack modalities, but not all: fusion takes the others, and the modality's own
    numbers leave it out. No source has these settings: they are ours.
    """

    train: tuple[EvalInputs, ...]
    test: tuple[EvalInputs, ...]
    validation: tuple[EvalInputs, ...] = ()
    head: str = "transformer"  # or concatenation, attention: fusion_heads.py
    group: str = ""  # the field of a record that says who speaks; nobody may be in two splits
    held_out: float = 0.2  # share of train, or of its speakers, where there is no validation
    classes: tuple[str, ...] = ()  # their names; by default those of the prepared folder
    learning: TrainingSchedule = TrainingSchedule()
    width: int = 128  # of a token
    dropout: float = 0.1
    missing: float = 0.0  # share of the modalities that training takes for missing
    seeds: int = 3
    fine_tune: bool = False
    encoder_rate: float = 0.1  # times the head's, where encoders learn

    def __post_init__(self):
        speaker_splits.check_splits(self.train, self.validation, self.test, self.held_out)
        if self.head not in HEADS:
            raise UserError(f"head {self.head!r}: choose from {', '.join(HEADS)}")
        if not (0 <= self.dropout < 1 and 0 <= self.missing < 1):
            raise UserError(f"dropout {self.dropout}, missing {self.missing}: within 0 and 1")
        if self.seeds < 1 or not self.encoder_rate > 0 or self.width < 4 or self.width % 4:
            raise UserError(
                f"seeds {self.seeds}, encoder_rate {self.encoder_rate}, width {self.width}: at "
                "least 1, above 0, a multiple of 4"
            )

    @property
    def splits(self) -> tuple[tuple[EvalInputs, ...], ...]:
        return tuple(each for each in (self.train, self.validation, self.test) if each)

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(split[0].source for split in self.splits)

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset(items.modality for items in self.train)

    def measure(self, bench: Embedder) -> EvalResult:
        """Raises UserError where there is nothing to learn from, or a speaker is in two splits."""
        parts = speaker_splits.split_by_speaker(
            bench,
            self.train[0].source,
            self.validation[0].source if self.validation else None,
            self.test[0].source,
            group=self.group,
            share=self.held_out,
            classes=self.classes,
        )
        every = frozen_features(bench, self.splits, parts.train)
        tuned = FineTuningInputs.of(bench, self.splits) if self.fine_tune else None
        if tuned:
            every = dataclasses.replace(every, samples=tuned.samples)
        names = sorted(self.modalities)
        runs = {"fusion": every.samples} if len(names) > 1 else {}
        runs |= {name: every.samples.only(name) for name in names}
        right, notes = {}, []
        for name, samples in runs.items():
            right[name], epochs = self._learned(bench, name, samples, parts, every, tuned)
            notes.append(f"{name}: stopped after {epochs} epochs")
        numbers: dict[str, Estimate] = {}
        for name, told in right.items():
            numbers |= speaker_splits.accuracies(name, told, parts, bench)
        if len(names) > 1:
            better, gain = fusion_gain(numbers, names, bench)
            notes.append(f"the gain is over {better}")
            spread = bootstrap.nan_std(
                [
                    bootstrap.nan_mean((a - b).tolist())
                    for a, b in zip(right["fusion"], right[better], strict=True)
                ]
            )
            numbers = {"fusion": numbers["fusion"]} | {
                "gain": dataclasses.replace(gain, spread=spread)
            } | numbers  # fmt: skip
        usable = every.samples.usable[parts.tested] & (parts.labels[parts.tested] >= 0)
        return EvalResult(
            numbers,
            samples=len(parts.tested),
            unusable=int(np.sum(~usable)),
            chance={
                name: 1 / len(parts.classes) for run in right for name in (run, f"{run}_balanced")
            },
            notes=tuple(notes),
        )

    def _learned(
        self,
        bench,
        name: str,
        samples: MultimodalArrays,
        parts: speaker_splits.SpeakerSplits,
        every: "FrozenFeatures",
        tuned,
    ) -> tuple[Float[np.ndarray, "seeds t"], str]:
        """(whether each tested record was told right, by seed; the epochs as a list)."""
        head = HEADS[self.head](
            classes=len(parts.classes),
            width=self.width,
            dropout=self.dropout,
            missing=self.missing,
        )
        options: dict[str, Any] = {}
        if tuned:
            module: nn.Module = tuned.module(head)
            options = {
                "start": {m: tuned.params[m] for m in samples.x},
                "fixed": {"standard": {m: every.standard[m] for m in samples.x}},
                "factors": dict.fromkeys(samples.x, self.encoder_rate),
            }
        else:
            module = head
        train, held_out, test = (
            rows[samples.usable[rows]] for rows in (parts.train, parts.held_out, parts.test)
        )
        right = np.full((self.seeds, len(parts.tested)), np.nan)
        epochs = []
        for seed in range(self.seeds):
            bench.tell(f"{self.head}, {name}: training {seed + 1} of {self.seeds}")
            found = fit_classifier(
                module, samples, parts.labels, train, held_out, self.learning,
                seed=(bench.seed, seed), what=f"{name}, {self.head}", **options,
            )  # fmt: skip
            told = found.probabilities(samples, test, self.learning.batch_size).argmax(axis=-1)
            right[seed, test - parts.tested[0]] = told == parts.labels[test]
            epochs.append(str(found.epoch))
        return right, ", ".join(epochs)


def fusion_gain(
    numbers: Mapping[str, Estimate], names: Sequence[str], bench: Embedder
) -> tuple[str, Estimate]:
    """(the better single modality, how far fusion is above it, sample by sample)."""
    better = max(names, key=lambda name: np.nan_to_num(numbers[name].value, nan=-1.0))
    gain = bootstrap.paired_difference(
        numbers["fusion"], numbers[better], resamples=bench.resamples, seed=bench.seed
    )
    assert gain is not None  # they are of the same samples
    return better, gain


# ---- what the head reads


@dataclasses.dataclass(frozen=True, eq=False)
class FrozenFeatures:
    """Embeddings, standardised; and by what: {modality: {"mean": [1, e], "deviation": [1, 1]}}."""

    samples: MultimodalArrays
    standard: Mapping[str, Mapping[str, np.ndarray]]


def frozen_features(
    bench: Embedder, splits: Sequence[Sequence[EvalInputs]], train: Int[np.ndarray, "a"]
) -> FrozenFeatures:
    """The embeddings of all splits' records, split after split. train: rows to standardise by.

    Raises UserError for a modality that no record to learn from has.
    """
    arrays, standard = {}, {}
    for modality in sorted(items.modality for items in splits[0]):
        of = [items for split in splits for items in split if items.modality == modality]
        for items in of:
            bench.tell(f"{items.name}: {modality}")
        z = np.concatenate([l2_normalize_f32(bench.embed(items)) for items in of])
        there = np.isfinite(z).all(axis=-1)
        known = z[train[there[train]]]
        if not len(known):
            raise UserError(f"no record of {of[0].name} to learn from has an embedding")
        mean = known.mean(axis=0, keepdims=True)
        # One for all dimensions: those in which little happens would become as loud as others.
        deviation = np.maximum(np.std(known - mean, keepdims=True), 1e-4)
        arrays[modality] = (z - mean) / deviation, there
        standard[modality] = {"mean": mean, "deviation": deviation}
    return FrozenFeatures(MultimodalArrays.of(arrays), standard)
