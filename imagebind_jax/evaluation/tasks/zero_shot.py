"""Zero-shot classification: class names in prompts become a classifier, no label is ever seen."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import (
    UNUSABLE_KEY,
    Embedder,
    EvalInputs,
    EvalResult,
    check_eval_inputs,
    source_name,
)
from imagebind_jax.evaluation.metrics import accuracy, average_precision, bootstrap
from imagebind_jax.evaluation.metrics.bootstrap import Estimate
from imagebind_jax.evaluation.metrics.similarity import cosine_chunks, l2_normalize
from imagebind_jax.evaluation.tasks import labels
from imagebind_jax.evaluation.tasks import prompts as class_prompts
from imagebind_jax.inputs.sources import Source

TOP_K = {"top1": 1, "top5": 5}
METRICS = (*TOP_K, "mean_class", "mAP")


def zero_shot_weights(
    embed_text: Callable[[Sequence[str]], Float[np.ndarray, "n e"]],
    class_names: Sequence[str],
    prompts: Sequence[str],
) -> Float[np.ndarray, "classes e"]:
    """One unit vector a class: the normalised mean of its prompts' unit vectors.

    prompts: templates with one `{}`. Source: CLIP's prompt ensembling, which the paper follows.
    """
    texts = [prompt.replace("{}", name) for name in class_names for prompt in prompts]
    z = l2_normalize(np.asarray(embed_text(texts))).reshape(len(class_names), len(prompts), -1)
    return l2_normalize(z.mean(axis=1))


def predict_class(
    embeddings: Float[np.ndarray, "n e"], classes: Float[np.ndarray, "classes e"]
) -> Int[np.ndarray, "n"]:
    """The class of largest cosine of each embedding."""
    return np.concatenate([part.argmax(axis=-1) for _, part in cosine_chunks(embeddings, classes)])


def top1(
    embeddings: Float[np.ndarray, "n e"],
    classes: Float[np.ndarray, "classes e"],
    labels: Int[np.ndarray, "n"],
) -> float:
    """Fraction of samples whose class of largest cosine is the label."""
    return float(np.mean(predict_class(embeddings, classes) == labels))


def max_over_names(
    embeddings: Float[np.ndarray, "n e"],
    names: Float[np.ndarray, "names e"],
    counts: Sequence[int],
    rows: int | None = None,
) -> Iterator[tuple[slice, Float[np.ndarray, "rows classes"]]]:
    """The largest cosine among the names of each class, a stretch of samples after the other.

    counts: how many names each class has; they stand side by side.
    """
    first = np.cumsum([0, *counts[:-1]])
    for part, cosines in cosine_chunks(embeddings, names, rows):
        yield part, np.maximum.reduceat(cosines, first, axis=-1)


@dataclasses.dataclass(frozen=True)
class ZeroShot:
    """Classification by the names of classes in prompts.

    Several items are folds: a number is the mean of theirs (mean_class: over folds and classes
    alike), its spread their standard deviation. "mAP" is the mean average precision over the
    classes, of records with a list of labels; all other metrics are of records with one. "top5" is
    left out with fewer than 6 classes. By default classes, names and prompts are those of the
    prepared folder. Records of which no input can be made are left out and counted.
    """

    items: tuple[EvalInputs, ...]
    metrics: tuple[str, ...] = ("top1", "top5")  # of METRICS, the headline first
    classes: tuple[str, ...] = ()
    # Class -> its names, where it has several: the best-matching one counts.
    names: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    prompts: tuple[str, ...] = ()  # templates with one {}
    # A regular expression: samples in whose ids it finds the same (the windows of a video) are
    # drawn together for the intervals, which are too narrow where such samples count as many.
    together: str = ""
    # Of the classes' vectors: by default the dataset's. Whoever asks with other prompts, or for
    # other classes, in the same run, needs another.
    name: str = ""

    def __post_init__(self):
        check_eval_inputs(items=self.items)
        if not self.items:
            raise UserError("zero-shot classification of no items: give at least one")
        unknown = [metric for metric in self.metrics if metric not in METRICS]
        if unknown or not self.metrics:
            raise UserError(f"metrics {list(self.metrics)}: give some of {', '.join(METRICS)}")
        if "mAP" in self.metrics and self.metrics != ("mAP",):
            raise UserError('"mAP" is of records with several labels, all other metrics of one')
        if self.together and "mean_class" in self.metrics:
            raise UserError(
                "samples drawn together may be of several classes: no mean_class of them"
            )
        for name, texts in (
            ("classes", self.classes),
            ("prompts", self.prompts),
            *self.names.items(),
        ):
            if isinstance(texts, str):
                raise UserError(f"{name} must be a tuple of texts: ({texts!r},)")
        try:
            re.compile(self.together)
        except re.error as error:
            raise UserError(f"together={self.together!r} cannot be searched: {error}") from error

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(items.source for items in self.items)

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset({"text", *(items.modality for items in self.items)})

    def measure(self, bench: Embedder) -> EvalResult:
        """Raises UserError where classes, prompts or labels are missing or do not fit."""
        asked = class_prompts.resolve_class_prompts(self, bench)
        notes = [bench.notes(source) for source in self.sources]
        several = self.metrics == ("mAP",)
        truth = [
            labels.ground_truth(each, len(asked.classes), several, source_name(source))
            for each, source in zip(notes, self.sources)
        ]
        groups = labels.group_by_pattern(notes, self.together) if self.together else None
        names = asked.vectors(bench, self.sources[0])
        folds = []
        for items, right in zip(self.items, truth):
            z = bench.embed(items)
            if len(z) != len(right):
                raise UserError(f"{items.name}: {len(z)} embeddings of {len(right)} records")
            # Another system may have embedded what cannot be read here.
            told = np.array([UNUSABLE_KEY not in note for note in bench.notes(items.source)], bool)
            folds.append(LabelledEmbeddings(z, right, ~np.isnan(z).any(axis=-1) & told))
        measured = _precision if several else _accuracy
        found, chance, remarks = measured(self, bench, folds, names, asked.counts, groups)
        samples, usable = sum(map(len, truth)), sum(int(fold.usable.sum()) for fold in folds)
        return EvalResult(found, samples, samples - usable, chance, remarks)


@dataclasses.dataclass(frozen=True)
class LabelledEmbeddings:
    """The embeddings of a set of records, and what is right."""

    embeddings: Float[np.ndarray, "n e"]
    truth: np.ndarray  # labels [n], or whether a class is there [n, classes]
    usable: Bool[np.ndarray, "n"]


def _accuracy(
    settings: ZeroShot,
    bench: Embedder,
    folds: Sequence[LabelledEmbeddings],
    names: Float[np.ndarray, "names e"],
    counts: Sequence[int],
    groups: Int[np.ndarray, "n"] | None,
) -> tuple[dict[str, Estimate], dict[str, float], tuple[str, ...]]:
    metrics = [metric for metric in settings.metrics if TOP_K.get(metric, 1) < max(2, len(counts))]
    if not metrics:
        raise UserError(f"{settings.metrics[0]} of {len(counts)} classes is always right")
    wanted = sorted({TOP_K.get(metric, 1) for metric in metrics})
    correct = np.concatenate([_correct(fold, names, counts, wanted) for fold in folds])
    right = np.concatenate([fold.truth for fold in folds])
    number = np.repeat(np.arange(len(folds)), [len(fold.truth) for fold in folds])
    found, chance = {}, {}
    for metric in metrics:
        k, by_class = TOP_K.get(metric, 1), metric == "mean_class"
        samples = correct[:, wanted.index(k)]
        strata = number * len(counts) + right if by_class else number
        estimate = bootstrap.bootstrap_mean(
            samples,
            groups=groups,
            strata=strata if by_class or len(folds) > 1 else None,
            resamples=bench.resamples,
            seed=bench.seed,
        )
        each = [
            bootstrap.bootstrap_mean(
                samples[number == fold], strata=strata[number == fold], resamples=0
            )
            for fold in range(len(folds))
        ]
        spread = bootstrap.nan_std([fold.value for fold in each])
        found[metric] = dataclasses.replace(estimate, spread=spread)
        usable = [fold.truth[fold.usable] for fold in folds]
        if by_class:  # as if each class had as many samples
            usable = [np.unique(each) for each in usable]
        chance[metric] = bootstrap.nan_mean(
            [accuracy.chance_accuracy(each, counts, k) for each in usable]
        )
    absent = len(counts) - len(np.unique(np.concatenate([f.truth[f.usable] for f in folds])))
    remarks = (f"{absent} of {len(counts)} classes have no sample",) if absent else ()
    return found, chance, remarks


def _correct(
    fold: LabelledEmbeddings,
    names: Float[np.ndarray, "names e"],
    counts: Sequence[int],
    wanted: Sequence[int],
) -> Float[np.ndarray, "n wanted"]:
    """Whether the label is among the k best, for each k; NaN where there is no embedding."""
    found = np.full((len(fold.truth), len(wanted)), np.nan)
    place = np.flatnonzero(fold.usable)
    for part, cosines in max_over_names(fold.embeddings[place], names, counts):
        for column, k in enumerate(wanted):
            found[place[part], column] = accuracy.top_k(cosines, fold.truth[place[part]], k)
    return found


def _precision(
    settings: ZeroShot,
    bench: Embedder,
    folds: Sequence[LabelledEmbeddings],
    names: Float[np.ndarray, "names e"],
    counts: Sequence[int],
    groups: Int[np.ndarray, "n"] | None,
) -> tuple[dict[str, Estimate], dict[str, float], tuple[str, ...]]:
    truth = [fold.truth[fold.usable] for fold in folds]
    rankings = []
    for fold, positive in zip(folds, truth):
        parts = [np.empty((0, len(counts)), np.float32)]
        parts += [part for _, part in max_over_names(fold.embeddings[fold.usable], names, counts)]
        rankings.append(average_precision.rank_scores(np.concatenate(parts), positive))
    if groups is not None:
        groups = groups[np.concatenate([fold.usable for fold in folds])]
    found = average_precision.bootstrap_map(
        rankings, groups=groups, resamples=bench.resamples, seed=bench.seed
    )
    chance = bootstrap.nan_mean([average_precision.chance_map(each) for each in truth])
    absent = int((~np.concatenate(truth).any(axis=0)).sum())
    remark = f"{absent} of {len(counts)} classes have no positive sample and are left out"
    return {"mAP": found}, {"mAP": chance}, (remark,) if absent else ()
