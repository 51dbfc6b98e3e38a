"""What is right: the labels of records, checked, and which records belong together."""

import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import UNUSABLE_KEY


def ground_truth(
    notes: Sequence[Mapping[str, Any]], classes: int, several: bool, where: str
) -> np.ndarray:
    """Labels [n]; or, of records with several, whether a class is there [n, classes].

    A record that cannot be read has -1, or no class. where: the source's name, for errors. Raises
    UserError.
    """
    found = np.zeros((len(notes), classes), bool) if several else np.zeros(len(notes), int)
    for row, note in enumerate(notes):
        if UNUSABLE_KEY in note:
            found[row] = False if several else -1
            continue
        label, which = note.get("label"), f"{where}: record {note.get('id', row)!r}"
        if label is None:
            raise UserError(f"{which} has no label, by which it could be told whether it is right")
        many = np.ndim(label) > 0
        if many != several:
            metric = "some of top1, top5, mean_class" if several else "mAP alone"
            raise UserError(f"{which} has the label {label!r}, for which the metric is {metric}")
        for each in label if many else (label,):
            try:
                number = -1 if isinstance(each, bool) else operator.index(each)
            except TypeError:
                number = -1
            if not 0 <= number < classes:
                raise UserError(f"{which} has the label {each!r}: it must be in 0..{classes - 1}")
        if several:
            found[row, list(label)] = True
        else:
            found[row] = label
    return found


def group_by_pattern(
    notes: Sequence[Sequence[Mapping[str, Any]]], pattern: str
) -> Int[np.ndarray, "n"]:
    """A number for each sample, the same where the pattern finds the same in ids of one fold.

    Raises UserError where it finds nothing.
    """
    found = []
    for fold, rows in enumerate(notes):
        for row, note in enumerate(rows):
            if UNUSABLE_KEY in note:
                found.append(f"{fold} unusable {row}")
                continue
            match = re.search(pattern, str(note.get("id", "")))
            if match is None:
                raise UserError(f"together={pattern!r} finds nothing in id {note.get('id')!r}")
            found.append(f"{fold} {match.group()}")
    return np.unique(found, return_inverse=True)[1]
