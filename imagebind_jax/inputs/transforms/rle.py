"""Outlines of things in a picture: the box around one, and COCO's run lengths, which JSON can hold."""

import numpy as np
from jaxtyping import Bool

from imagebind_jax.errors import UserError


def mask_to_box(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """The smallest box around what is true: left, top, right, bottom, the last two exclusive.

    Raises UserError where nothing is.
    """
    if not mask.any():
        raise UserError(f"a mask of {mask.shape[0]} x {mask.shape[1]} pixels, and none is true")
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    edges = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return [int(edge) for edge in edges]


def rle_encode(mask: Bool[np.ndarray, "h w"]) -> dict[str, list[int]]:
    """COCO's uncompressed form: {"size": [h, w], "counts": runs of 0, 1, 0, ... down the columns}."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    edges = np.flatnonzero(np.diff(flat, append=~flat[-1:]))
    return {"size": list(mask.shape), "counts": np.diff(edges, prepend=0).tolist()}


def rle_decode(runs: dict[str, list[int]]) -> Bool[np.ndarray, "h w"]:
    """The mask of such run lengths."""
    values = np.arange(len(runs["counts"])) % 2 == 1
    return np.repeat(values, runs["counts"]).reshape(runs["size"], order="F")
