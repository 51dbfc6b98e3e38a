"""Our embeddings as the classes of somebody else's detector, whose regions live in the same space."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.metrics.similarity import l2_normalize, l2_normalize_f32
from imagebind_jax.evaluation.tasks.detection import iou
from imagebind_jax.storage import atomic


def class_embeddings(
    prompts: Float[np.ndarray, "n e"], labels: Int[np.ndarray, "n"], classes: int
) -> Float[np.ndarray, "classes e"]:
    """One unit vector a class: the normalised mean of its prompts' unit vectors, sounds or others.

    Source: the paper's appendix (the clips of one ESC-50 fold, 8 of each class). Raises UserError
    for a class without prompts, and for labels beyond the classes.
    """
    if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(f"labels from {labels.min()} to {labels.max()} of {classes} classes")
    counts = np.bincount(labels, minlength=classes)
    if not counts.all():
        raise UserError(f"class {int(np.argmin(counts))} of {classes} has no prompt: give it one")
    total = np.zeros((classes, prompts.shape[1]), np.float64)
    np.add.at(total, labels, l2_normalize(prompts))
    return l2_normalize_f32(total / counts[:, None])


def classify_boxes(
    regions: Float[np.ndarray, "n e"],
    boxes: Float[np.ndarray, "n 4"],
    objectness: Float[np.ndarray, "n"],
    classes: Float[np.ndarray, "c width"],
    *,
    threshold: float = 0.9,
    temperature: float = 50.0,
    overlap: float = 0.5,
) -> tuple[Float[np.ndarray, "k 4"], Float[np.ndarray, "k"], Int[np.ndarray, "k"]]:
    """(boxes, scores, classes) of a detector's regions, the best first.

    A score is sqrt(objectness * sigmoid(temperature * cosine)): each class is judged by itself.
    Those above `threshold` (0.9 in the paper) go through non-maximum suppression within their class.
    regions: what the detector compares with its own classes' embeddings; objectness in [0, 1].
    Source: Detic's zero-shot classifier (norm_temperature 50, no learned bias) and CenterNet2's
    product with the proposals' scores, of which it takes the root. Raises UserError where regions
    and classes differ in width: the public ImageBind checkpoint has 1024 numbers, Detic 512.
    """
    check_width(classes, regions.shape[1])
    cosines = l2_normalize(regions) @ l2_normalize(classes).T
    scores = np.sqrt(objectness[:, None] / (1 + np.exp(-temperature * cosines)))
    found = []
    for label in range(len(classes)):
        rows = np.flatnonzero(scores[:, label] > threshold)
        kept = rows[nms(boxes[rows], scores[rows, label], overlap)]
        found.append(np.stack([kept, np.full(len(kept), label)]))
    row, label_of = np.concatenate(found, axis=1) if found else np.empty((2, 0), int)
    order = np.argsort(-scores[row, label_of], kind="stable")
    row, label_of = row[order], label_of[order]
    return boxes[row], scores[row, label_of], label_of


def nms(
    boxes: Float[np.ndarray, "n 4"], scores: Float[np.ndarray, "n"], overlap: float = 0.5
) -> Int[np.ndarray, "k"]:
    """Non-maximum suppression: indices of boxes that no better one overlaps by more, best first."""
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[iou(boxes[best : best + 1], boxes[rest])[0] <= overlap]
    return np.array(kept, int)


def check_width(classes: Float[np.ndarray, "c e"], width: int) -> None:
    """Raises UserError where class embeddings do not fit a detector."""
    if classes.shape[1] != width:
        raise UserError(
            f"class embeddings of {classes.shape[1]} numbers, and a detector of {width}: take an "
            "encoder trained against the detector's own CLIP (Detic: ViT-B/32, 512 numbers; the "
            "public ImageBind checkpoint has 1024 and fits none of Detic's)"
        )


def write_detic_zs_weight(
    path: str | os.PathLike, classes: Float[np.ndarray, "c e"], *, width: int = 512
) -> None:
    """Writes class embeddings as Detic reads them (ZEROSHOT_WEIGHT_PATH): .npy, float32, [classes, E].

    Detic itself turns them into its zs_weight: transposed, a column of zeros for the background
    behind them, unit length. Raises UserError on another width than the detector's.
    """
    check_width(classes, width)
    if os.path.splitext(path)[1] != ".npy":
        raise UserError(f"{os.fspath(path)}: Detic reads class embeddings from a .npy file")
    with atomic.atomic_write(pathlib.Path(path)) as file:
        np.save(file, l2_normalize_f32(classes))


def detic_zs_weight(classes: Float[np.ndarray, "c e"]) -> Float[np.ndarray, "e columns"]:
    """The same as Detic's buffer holds it: [E, classes + 1], the last column zeros."""
    rows: Sequence[np.ndarray] = (
        l2_normalize_f32(classes),
        np.zeros((1, classes.shape[1]), np.float32),
    )
    return np.concatenate(rows).T
