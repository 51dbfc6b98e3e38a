"""Few-shot classification: learning from k labelled samples of each class, several times over."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import (
    UNUSABLE_KEY,
    Embedder,
    EvalInputs,
    EvalResult,
    check_eval_inputs,
)
from imagebind_jax.evaluation.metrics import bootstrap
from imagebind_jax.evaluation.metrics.bootstrap import Estimate
from imagebind_jax.evaluation.metrics.similarity import l2_normalize_f32
from imagebind_jax.evaluation.tasks import linear_probe
from imagebind_jax.inputs.sources import Source


@dataclasses.dataclass(frozen=True)
class FewShot:
    """Linear probes on frozen embeddings of one modality: `shot1`, `shot1_ridge`, `shot2`, ...

    Learns from `train` and is tested on `test`; without `test`, `train` are folds, each of which
    is tested on after learning from the others, and numbers are means over folds. `shotk` is the
    paper's classifier (`linear_probe.fit_probe_adamw`), by default as on ESC-50 (appendix: SUN RGB-D has learning
    rate 1e-2, weight decay 0, 60 epochs). Whether the paper's features are these embeddings or what
    comes before the last projection is not said. `shotk_ridge` has no rate to choose (`linear_probe.fit_probe_ridge`).
    """

    train: tuple[EvalInputs, ...]
    test: tuple[EvalInputs, ...] = ()
    shots: tuple[int, ...] = (1, 2, 4, 8)
    learning_rate: float = 1.6e-3
    weight_decay: float = 0.05
    epochs: int = 50
    # The paper is silent on what follows, and on schedule and initialisation: see `linear_probe.fit_probe_adamw`.
    batch_size: int = 64  # at one shot ESC-50's 50 samples are one step an epoch
    # What the probe reads are unit vectors times this, as the released model puts them out: 20 for
    # audio, 5 for depth. At 1 the paper's rate on ESC-50 is too small to fit 50 samples in 50 steps.
    scale: float = 20.0
    draws: int = 5  # of the k samples

    def __post_init__(self):
        check_few_shot(self.train, self.test, self.shots, self.draws)
        for name in ("learning_rate", "epochs", "batch_size", "scale"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} must be above 0, got {getattr(self, name)}")
        if not self.weight_decay >= 0:
            raise UserError(f"weight_decay must be at least 0, got {self.weight_decay}")

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(items.source for items in (*self.train, *self.test))

    @property
    def modalities(self) -> frozenset[str]:
        return frozenset(items.modality for items in (*self.train, *self.test))

    def measure(self, bench: Embedder) -> EvalResult:
        return self.probe(bench, bench.embed)

    def probe(
        self, bench: Embedder, read: Callable[[EvalInputs], Float[np.ndarray, "_ e"]]
    ) -> EvalResult:
        """The same of any vectors: read makes them, with rows of NaN where there are none."""

        def vectors(items: EvalInputs) -> tuple[np.ndarray, np.ndarray]:
            found = l2_normalize_f32(read(items))
            return found, np.isfinite(found).all(axis=-1)

        x, pool = load_pool(bench, self.train, self.test, vectors)

        def adamw(drawn: Sequence[Episode]) -> list[np.ndarray]:
            scaled = self.scale * x
            fitted = linear_probe.fit_probe_adamw(
                scaled,
                [each.train for each in drawn],
                [each.labels for each in drawn],
                drawn[0].classes,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                epochs=self.epochs,
                batch_size=self.batch_size,
                seed=bench.seed,
            )
            return [
                linear_probe.predict_class(scaled[each.test], found)
                for each, found in zip(drawn, fitted)
            ]

        def ridge(drawn: Sequence[Episode]) -> list[np.ndarray]:
            fitted = (
                linear_probe.fit_probe_ridge(x[each.train], each.labels, each.classes)
                for each in drawn
            )
            return [
                linear_probe.predict_class(x[each.test], found)
                for each, found in zip(drawn, fitted)
            ]

        return run_episodes(bench, pool, {"": adamw, "ridge": ridge}, self.shots, self.draws)


def check_few_shot(
    train: Sequence[EvalInputs], test: Sequence[EvalInputs], shots: Sequence[int], draws: int
) -> None:
    """What every few-shot evaluation asks of its fields. Raises UserError."""
    check_eval_inputs(train=train, test=test)
    if len(train) < (1 if test else 2):
        raise UserError(f"{len(train)} folds to train on and no test: name `test`, or two folds")
    sources = [items.source for items in (*train, *test)]
    if twice := [source for source in sources if sources.count(source) > 1]:
        raise UserError(f"{twice[0]} is there twice: its records would be learnt and tested on")
    if not shots or min(shots) < 1 or draws < 1 or list(shots) != sorted(set(shots)):
        raise UserError(f"shots {shots}, draws {draws}: at least 1, shots in rising order")


# ---- the protocol, whoever learns


@dataclasses.dataclass(frozen=True, eq=False)
class LabelledPool:
    """Labelled samples, and the splits of them into rows to learn from and rows to be tested on."""

    labels: Int[np.ndarray, "n"]  # any integers
    usable: Bool[np.ndarray, "n"]  # the others are neither learnt from nor tested on
    splits: tuple[tuple[np.ndarray, np.ndarray], ...]  # (rows to learn from, rows tested on)


@dataclasses.dataclass(frozen=True, eq=False)
class Episode:
    """One draw of k samples a class: what a learner sees. All rows are usable ones."""

    train: Int[np.ndarray, "a"]  # rows of the pool
    labels: Int[np.ndarray, "a"]  # of them, 0 ... classes - 1
    test: Int[np.ndarray, "b"]  # rows of the pool
    classes: int
    shots: int
    split: int
    draw: int


UNREADABLE_LABEL = np.iinfo(int).min  # the label of a record that cannot be read
# All episodes of one k, of every split and draw -> the class of each row of each episode's `test`.
Learner = Callable[[Sequence[Episode]], Sequence[np.ndarray]]


def load_pool(
    bench: Embedder,
    train: Sequence[EvalInputs],
    test: Sequence[EvalInputs],
    read: Callable[[EvalInputs], tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, LabelledPool]:
    """(what a learner takes [n, ...], the pool): train and test, or folds where test is empty.

    read: items -> (what a learner takes [m, ...], which of them are usable [m]), such as
    `bench.inputs`. Raises UserError for records without one integer label; of `train` beside a
    `test`, those without any are left out.
    """
    parts, usable, labels = [], [], []
    for items in (*train, *test):
        bench.tell(f"{items.name}: {items.modality}")
        part, good = read(items)
        notes = bench.notes(items.source)
        # Only what is tested needs a label: of SUN RGB-D's training maps, 440 have none.
        skips = bool(test) and items in train
        good = good & [UNUSABLE_KEY not in note for note in notes]
        rows = [i for i, note in enumerate(notes) if not (skips and note.get("label") is None)]
        if len(rows) < len(notes):
            bench.tell(f"{items.name}: {len(notes) - len(rows)} of {len(notes)} have no label")
            part, good = part[rows], good[rows]
        parts.append(part)
        usable.append(good)
        labels.append(np.array([_label(notes[i], items) for i in rows], int))
    fold = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    tested = [fold >= len(train)] if test else [fold == each for each in range(len(parts))]
    splits = tuple((np.flatnonzero(~each), np.flatnonzero(each)) for each in tested)
    known = np.concatenate(labels)
    known[known == UNREADABLE_LABEL] = min(
        known[known != UNREADABLE_LABEL], default=0
    )  # any class: it is not usable
    return np.concatenate(parts), LabelledPool(known, np.concatenate(usable), splits)


def _label(note: Mapping, items: EvalInputs) -> int:
    label = note.get("label")
    if UNUSABLE_KEY in note:
        return UNREADABLE_LABEL
    if isinstance(label, bool) or not isinstance(label, (int, np.integer)):
        raise UserError(
            f"{items.name}: record {note.get('id')!r} has the label {label!r}: few-shot needs one class"
        )
    return int(label)


def sample_episodes(pool: LabelledPool, k: int, draws: int, seed: int) -> list[Episode]:
    """k usable samples of each class, or all there are, for every split and draw.

    A function of (seed, split, draw) alone: the samples of a smaller k are among those of a larger
    one, and a sample that is not usable changes no other.
    """
    names, labels = np.unique(pool.labels, return_inverse=True)
    found = []
    for split, (train, test) in enumerate(pool.splits):
        for draw in range(draws):
            order = np.random.default_rng((seed, split, draw)).permutation(train)
            order = order[pool.usable[order]]
            rows = [order[labels[order] == each][:k] for each in range(len(names))]
            drawn, tested = np.concatenate(rows), test[pool.usable[test]]
            found.append(Episode(drawn, labels[drawn], tested, len(names), k, split, draw))
    return found


def run_episodes(
    bench: Embedder,
    pool: LabelledPool,
    learners: Mapping[str, Learner],
    shots: Sequence[int],
    draws: int,
) -> EvalResult:
    """Top-1 accuracy of every learner at every number of shots, as shot1, shot1_<learner>, ...

    learners: name -> learner; that of "" is called shot1 alone. Every learner gets the same
    episodes. A number is the mean over test samples of the share of draws in which they were told
    right, and then over splits; its interval is over test samples, its `spread` the standard
    deviation over draws (none of a single draw). What is not usable is left out and counted.
    Raises UserError for a split without usable samples.
    """
    names, labels = np.unique(pool.labels, return_inverse=True)
    for split, (train, test) in enumerate(pool.splits):
        for rows, what in ((train, "learn from"), (test, "be tested on")):
            if not pool.usable[rows].any():
                raise UserError(f"no usable sample to {what} (split {split + 1})")
    numbers: dict[str, Estimate] = {}
    for k in shots:
        drawn = sample_episodes(pool, k, draws, bench.seed)
        for name, learner in learners.items():
            key = f"shot{k}_{name}" if name else f"shot{k}"
            bench.tell(f"{key}: {len(drawn)} times {len(drawn[0].train)} samples")
            right = np.full((len(pool.splits), draws, len(labels)), np.nan)
            for each, found in zip(drawn, learner(drawn), strict=True):
                truth = np.where(np.isin(labels, each.labels), labels, -1)[each.test]
                right[each.split, each.draw, each.test] = found == truth
            numbers[key] = _estimate(right, pool, bench)
    every = np.concatenate([test for _, test in pool.splits])
    return EvalResult(
        numbers,
        samples=len(every),
        unusable=int(np.sum(~pool.usable[every])),
        chance=dict.fromkeys(numbers, 1 / len(names)),
        notes=tuple(_shortages(pool, max(shots))),
    )


def _estimate(
    right: Float[np.ndarray, "splits draws n"], pool: LabelledPool, bench: Embedder
) -> Estimate:
    tested = [test for _, test in pool.splits]
    found = bootstrap.bootstrap_mean(  # samples that are not usable are NaN: runs can be paired all the same
        np.concatenate([right[split][:, rows].mean(axis=0) for split, rows in enumerate(tested)]),
        strata=np.repeat(np.arange(len(tested)), [len(rows) for rows in tested]),
        resamples=bench.resamples,
        seed=bench.seed,
    )
    per_draw = np.nanmean(right, axis=-1).mean(axis=0)
    spread = float(np.std(per_draw, ddof=1)) if len(per_draw) > 1 else None
    return dataclasses.replace(found, spread=spread)


def _shortages(pool: LabelledPool, most: int) -> list[str]:
    """A sentence for each split in which classes have fewer samples to learn from than `most`."""
    names, labels = np.unique(pool.labels, return_inverse=True)
    notes = []
    for split, (train, _) in enumerate(pool.splits):
        there = np.bincount(labels[train[pool.usable[train]]], minlength=len(names))
        few = [f"{name} ({count})" for name, count in zip(names, there) if count < most]
        if few:
            where = f", with fold {split + 1} tested on" if len(pool.splits) > 1 else ""
            lost = "" if there.all() else "; a class of none counts as wrong"
            notes.append(
                f"fewer than {most} samples to learn from{where} of classes {', '.join(few)}{lost}"
            )
    return notes
