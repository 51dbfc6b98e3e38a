"""Learned positions for inputs of another size: the grid of patches is interpolated."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.models.encoder import EncoderConfig


def interpolate_positions(table: np.ndarray, old: EncoderConfig, new: EncoderConfig) -> np.ndarray:
    """Positions [tokens, D] of encoder `old` for encoder `new`, whose inputs have another shape.

    They are interpolated over the grid of patches, each axis on its own, with the cubic kernel of
    PyTorch's `bicubic` (a = -0.75, edges repeated, no smoothing when shrinking): for square images
    what the reference does; frames, mel bands, time and IMU steps likewise. The cls position
    stays. A shorter text keeps the first positions.

    Raises UserError for a longer text, for which there are no positions.
    """
    if old.vocab_size:
        if new.tokens > old.tokens:
            raise UserError(
                f"there are positions for {old.tokens} tokens of text, not {new.tokens}"
            )
        return table[: new.tokens]
    patches, sizes = (
        table[1:].astype(np.float64).reshape(*patch_grid(old), -1),
        zip(patch_grid(old), patch_grid(new)),
    )
    for axis, (before, after) in enumerate(sizes):
        if before != after:
            matrix = cubic_matrix(before, after)
            patches = np.moveaxis(np.tensordot(matrix, patches, (1, axis)), 0, axis)
    patches = patches.reshape(-1, table.shape[-1])
    return np.concatenate([table[:1], patches.astype(table.dtype)])


def with_input_shape(encoder: EncoderConfig, shape: Sequence[int]) -> EncoderConfig:
    """The encoder for inputs of `shape`. Raises UserError where its patches do not fit."""
    last = shape[-1:] if encoder.vocab_size else encoder.shape[-1:]
    if len(shape) != len(encoder.shape) or tuple(shape[-1:]) != tuple(last):
        raise UserError(f"inputs of shape {tuple(shape)} in place of {encoder.shape}")
    new = dataclasses.replace(encoder, shape=tuple(shape))
    if any(n < patch for n, patch in zip(new.shape, new.patch)):
        raise UserError(f"inputs of shape {new.shape} are smaller than a patch {new.patch}")
    return new


def patch_grid(encoder: EncoderConfig) -> tuple[int, ...]:
    """Patches along each axis of an input."""
    sizes = zip(encoder.shape, encoder.patch, encoder.stride or encoder.patch)
    return tuple((n - patch) // stride + 1 for n, patch, stride in sizes)


def cubic_matrix(old: int, new: int, a: float = -0.75) -> np.ndarray:
    """[new, old]: the matrix that interpolates `old` samples to `new` (Keys 1981)."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    left = np.floor(at).astype(int)
    matrix = np.zeros((new, old))
    for offset in (-1, 0, 1, 2):
        distance = np.abs(at - left - offset)
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weight = np.where(distance <= 1, near, far)
        np.add.at(matrix, (np.arange(new), np.clip(left + offset, 0, old - 1)), weight)
    return matrix
