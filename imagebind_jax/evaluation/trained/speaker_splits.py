"""Labelled samples to learn from, to stop by and to be tested on, of which no two share a speaker."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import (
    UNUSABLE_KEY,
    Embedder,
    EvalInputs,
    check_eval_inputs,
    source_name,
)
from imagebind_jax.evaluation.metrics import bootstrap
from imagebind_jax.evaluation.metrics.bootstrap import Estimate
from imagebind_jax.evaluation.tasks import labels
from imagebind_jax.inputs.sources import Source


@dataclasses.dataclass(frozen=True, eq=False)
class SpeakerSplits:
    """The records of three splits one after the other, by their rows among all of them."""

    labels: Int[np.ndarray, "n"]  # -1: cannot be read, and is in no part
    groups: Int[np.ndarray, "n"] | None  # who speaks
    train: Int[np.ndarray, "a"]
    held_out: Int[np.ndarray, "h"]  # to stop by
    test: Int[np.ndarray, "b"]
    tested: Int[np.ndarray, "t"]  # rows of the test split, also those that cannot be read
    classes: tuple[str, ...]


def check_splits(
    train: Sequence[EvalInputs],
    validation: Sequence[EvalInputs],
    test: Sequence[EvalInputs],
    share: float,
) -> None:
    """What is asked of the items of three splits, one of each modality. Raises UserError."""
    check_eval_inputs(train=train, validation=validation, test=test)
    splits = {"train": train, "validation": validation, "test": test}
    wanted = sorted(items.modality for items in train)
    for name, each in splits.items():
        if name == "validation" and not each:
            continue
        found = sorted(items.modality for items in each)
        if not found or found != wanted or len(set(found)) < len(found):
            raise UserError(
                f"{name} has items of {', '.join(found) or 'nothing'}, and train of "
                f"{', '.join(wanted) or 'nothing'}: one of each modality in every split"
            )
        if any(items.source != each[0].source for items in each):
            raise UserError(f"{name}: its items must be of the same records, one source")
    sources = [each[0].source for each in splits.values() if each]
    if twice := [source for source in sources if sources.count(source) > 1]:
        raise UserError(f"{twice[0]} is there twice: its records would be learnt and tested on")
    if not validation and not 0 < share < 1:
        raise UserError(f"held_out {share} is not within 0 and 1, and there is no validation")


def split_by_speaker(
    bench: Embedder,
    train: Source,
    validation: Source | None,
    test: Source,
    *,
    group: str = "",
    share: float = 0.2,
    classes: Sequence[str] = (),
) -> SpeakerSplits:
    """The samples of three splits. Without `validation`, a share of `train` is held out in its place.

    group: the field of a record that says who speaks, such as "actor". What is held out is then
    whole speakers, and one that is in two parts is a UserError, as is a record without label or
    speaker. classes: their names, where the records' folder does not say them.
    """
    sources = [train, *([] if validation is None else [validation]), test]
    notes = [bench.notes(source) for source in sources]
    facts = bench.facts(test)
    names = tuple(classes or (facts.classes if facts else ()))
    names = names or tuple(map(str, range(1 + max(map(_largest, notes), default=0))))
    found = [
        labels.ground_truth(each, len(names), False, source_name(source))
        for source, each in zip(sources, notes)
    ]
    truth = np.concatenate(found)
    codes: dict[Any, int] = {}
    groups = np.concatenate(
        [_groups(each, group, codes, source_name(s)) for s, each in zip(sources, notes)]
    )
    starts = np.cumsum([0, *map(len, found)])
    rows = [np.arange(a, b) for a, b in zip(starts[:-1], starts[1:])]
    usable = [each[truth[each] >= 0] for each in rows]
    first, last, tested = usable[0], usable[-1], rows[-1]
    if validation is None:
        held_out = hold_out_groups(groups[first] if group else None, len(first), share, bench.seed)
        first, middle = first[~held_out], first[held_out]
    else:
        middle = usable[1]
    if group:
        _check_apart({v: k for k, v in codes.items()}, group, groups, first, middle, last)
    return SpeakerSplits(truth, groups if group else None, first, middle, last, tested, names)


def hold_out_groups(
    groups: Int[np.ndarray, "n"] | None, n: int, share: float, seed: int
) -> np.ndarray:
    """Which of n samples are held out [n]: a share of the groups, or of the samples; seeded.

    At least one is, and at least one is not, where there are two.
    """
    units = np.arange(n) if groups is None else np.unique(groups, return_inverse=True)[1]
    count = int(units.max()) + 1 if n else 0
    taken = min(max(round(share * count), 1), max(count - 1, 0))
    chosen = np.random.default_rng((seed, 3)).permutation(count)[:taken]
    return np.isin(units, chosen)


def _largest(notes: Sequence[Mapping[str, Any]]) -> int:
    found = (note.get("label") for note in notes)
    return max((each for each in found if isinstance(each, int)), default=0)


def _groups(
    notes: Sequence[Mapping[str, Any]], group: str, codes: dict[Any, int], where: str
) -> Int[np.ndarray, "n"]:
    """A number for each record, the same for the same speaker, numbered as in `codes`, which grows."""
    found = []
    for row, note in enumerate(notes):
        if not group or UNUSABLE_KEY in note:
            found.append(-1 - row)
        elif not isinstance(note.get(group), (str, int)):
            raise UserError(
                f"{where}: record {note.get('id', row)!r} has no single {group!r}, by which "
                f"speakers are kept apart: it has {', '.join(sorted(note))}"
            )
        else:
            found.append(codes.setdefault(note[group], len(codes)))
    return np.array(found, int)


def _check_apart(names, group: str, groups: np.ndarray, *rows: np.ndarray) -> None:
    for i, a in enumerate(rows):
        for b in rows[i + 1 :]:
            if both := sorted(set(groups[a].tolist()) & set(groups[b].tolist())):
                raise UserError(
                    f"{group} {names[both[0]]!r} is in two splits: what is learnt of a speaker "
                    "would be tested on the same one; split the records by it"
                )


# ---- numbers


def accuracies(
    name: str, right: Float[np.ndarray, "seeds t"], parts: SpeakerSplits, bench: Embedder
) -> dict[str, Estimate]:
    """`name`, its mean over classes `name_balanced`, and `name_<class>` of each class that is tested.

    right: whether a sample of `split_by_speaker.tested` was told, by seed; NaN where it could not be asked.
    The interval is over samples, of the same speaker together; ± is over seeds.
    """
    truth = parts.labels[parts.tested]
    groups = None if parts.groups is None else parts.groups[parts.tested]
    mean = functools.partial(bootstrap.bootstrap_mean, resamples=bench.resamples, seed=bench.seed)
    samples = right.mean(axis=0)
    whole = mean(samples, groups=groups)
    found = {name: dataclasses.replace(whole, spread=bootstrap.nan_std(_means(right)))}
    there = np.where(truth >= 0, samples, np.nan)
    by_class = [right[:, truth == each] for each in np.unique(truth[~np.isnan(there)])]
    balanced = np.mean([_means(each) for each in by_class], axis=0) if by_class else []
    even = mean(there, strata=truth)
    found[f"{name}_balanced"] = dataclasses.replace(even, spread=bootstrap.nan_std(list(balanced)))
    for each in np.unique(truth[~np.isnan(there)]):
        own = np.where(truth == each, there, np.nan)
        of = mean(own, groups=groups)
        spread = bootstrap.nan_std(_means(right[:, truth == each]))
        found[f"{name}_{parts.classes[each]}"] = dataclasses.replace(of, spread=spread)
    return found


def _means(right: Float[np.ndarray, "seeds t"]) -> list[float]:
    return [bootstrap.nan_mean(each.tolist()) for each in right]
