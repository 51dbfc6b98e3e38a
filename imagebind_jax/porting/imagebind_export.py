"""A model's parameters as the state dict of the released PyTorch model."""

import functools
import warnings
from collections.abc import Iterator

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.models.imagebind import HUGE
from imagebind_jax.porting import load
from imagebind_jax.porting.files.parameter_source import ParameterSource, copy_cast, is_stacked
from imagebind_jax.porting.formats import imagebind, rules
from imagebind_jax.porting.torch_pickle.torch_file import TensorSpec


def imagebind_state_dict(
    weights: ParameterSource,
) -> tuple[dict[str, TensorSpec], Iterator[tuple[str, np.ndarray]]]:
    """({name: spec}, tensors in that order) of the released model's state dict, all it needs.

    Raises UserError where the model has parameters that the reference lacks.
    """
    tables = {m: imagebind.rules(m) for m in weights.config.encoders}
    if adapted := [m for m, c in weights.config.encoders.items() if c.lora]:
        raise UserError(
            f"the reference has no adapters, and {', '.join(adapted)} has: --merge them, or write "
            "a folder"
        )
    for modality, c in weights.config.encoders.items():
        released = HUGE.encoders.get(modality)
        stride = released.stride or c.patch if released else ()
        found = c.activation, c.norm_eps, c.causal, c.stride or c.patch
        if found != ("gelu", 1e-6, True, stride):
            warnings.warn(
                f"{modality} has (activation, norm_eps, causal, stride) = {found}, the reference "
                f"computes with {('gelu', 1e-6, True, stride)}, and gives other embeddings; this "
                "package reads the right ones back",
                stacklevel=2,
            )
    leaves = rules.map_params(weights.config, tables)
    buffers = imagebind.expected_buffers(weights.config)
    specs: dict[str, TensorSpec] = {}
    for leaf in leaves:
        spec = weights.specs[leaf.path]
        layer = spec.shape[1:] if is_stacked(leaf.path) else spec.shape
        shape = leaf.theirs(np.broadcast_to(np.float32(0), layer)).shape
        specs |= {key: TensorSpec(shape, spec.dtype) for (key,) in leaf.keys}
    specs |= {name: TensorSpec(x.shape, x.dtype) for name, x in buffers.items()}

    def tensors():
        for leaf in leaves:
            for (key,), x in zip(leaf.keys, _stored(weights, leaf), strict=True):
                yield key, x
        yield from buffers.items()

    return specs, tensors()


def _stored(weights: ParameterSource, leaf: rules.ParamMapping) -> Iterator[np.ndarray]:
    """A leaf's tensors by layer, as the reference stores them."""
    spec = weights.specs[leaf.path]
    if isinstance(weights, load.FileCheckpoint) and weights.leaves[leaf.path].rule == leaf.rule:
        for (key,) in leaf.keys:  # they lie so in the source: nothing to turn
            release = functools.partial(weights.tensors.release, key)
            yield copy_cast(weights.tensors[key], spec.dtype, key, release)
        return
    for piece in weights.pieces(leaf.path):
        x = leaf.theirs(piece)
        yield x if x.flags.c_contiguous else copy_cast(x, spec.dtype, leaf.path)
