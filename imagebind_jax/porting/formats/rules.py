"""A checkpoint format is a table of rules; what reads parameters by one, and writes them back."""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

import einops
import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.porting.files.parameter_source import copy_cast, is_stacked, param_shapes
from imagebind_jax.porting.files.tensor_files import TensorFile

_SHOWN = 400  # groups of names in one error: more than the released model has


@dataclasses.dataclass(frozen=True)
class Rule:
    """One kind of tensor: its name in the file, its path in our encoder, its axes in both.

    `{layer}` in `key` stands for a block's number (ours are stacked along a first axis), `{part}`
    for each of `parts`, stacked along the axis `n` of the pattern. `axes` is an einops pattern
    from theirs to ours, applied to each layer; empty: the same. In it n is 3 (query, key, value),
    h the heads, c the input's channels, t the frames of a patch. `inflate` names an axis of ours
    that theirs lacks: copied along it and divided by its length, so that a constant input along
    that axis gives the same sums (I3D, Carreira & Zisserman 2017).
    """

    key: str
    path: str
    axes: str = ""
    parts: tuple[str, ...] = ()
    inflate: str = ""


def layer_norm_rules(key: str, path: str) -> list[Rule]:
    """The rules of a LayerNorm."""
    return [Rule(f"{key}.weight", f"{path}/scale"), Rule(f"{key}.bias", f"{path}/bias")]


def linear_rules(key: str, path: str) -> list[Rule]:
    """The rules of a linear map with a bias."""
    return [
        Rule(f"{key}.weight", f"{path}/kernel", "o i -> i o"),
        Rule(f"{key}.bias", f"{path}/bias"),
    ]


@dataclasses.dataclass(frozen=True)
class ParamMapping:
    """One of our arrays, and the tensors it is made of."""

    path: str  # "vision/trunk/blocks/attn/qkv/kernel"
    shape: tuple[int, ...]
    rule: Rule
    keys: tuple[tuple[str, ...], ...]  # [layer][part]
    sizes: Mapping[str, int]  # of the axes that the pattern cannot know

    def pieces(self, tensors: TensorFile, dtype: np.dtype) -> Iterator[np.ndarray]:
        """The array, one layer after the other where it is stacked, C-contiguous."""
        for keys in self.keys:
            parts = [tensors[key] for key in keys]

            def release(keys=keys):  # what has been checked or copied leaves the memory
                for key in keys:
                    tensors.release(key)

            release()
            x = self._ours(np.stack(parts) if self.rule.parts else parts[0])
            yield copy_cast(
                x, dtype, keys[0], release
            )  # never a view: it would hold the file's pages

    def _ours(self, x: np.ndarray) -> np.ndarray:
        if not self.rule.axes:
            return x
        if not self.rule.inflate:
            return einops.rearrange(x, self.rule.axes, **self._sizes())
        # In float32, as the smallest float16 numbers cannot be halved.
        x = x.astype(np.float32) if x.dtype.itemsize < 4 else x
        inflated = einops.repeat(x, self.rule.axes, **self._sizes())
        return inflated / x.dtype.type(self.sizes[self.rule.inflate])

    def shape_of(self, theirs: tuple[int, ...]) -> tuple[int, ...] | None:
        """The shape that a tensor of theirs gives (a layer's); None where the pattern does not fit."""
        pattern, sizes, new = self.rule.axes, self._sizes(), self.rule.inflate
        if not pattern:
            return theirs
        before, after = pattern.split(" -> ")
        names = after.split()
        if new:
            pattern = f"{before} -> {' '.join(name for name in names if name != new)}"
            sizes = {name: size for name, size in sizes.items() if name != new}
        try:  # on one element seen as many: no memory, whatever the shape says
            made = einops.rearrange(np.broadcast_to(np.float32(0), theirs), pattern, **sizes).shape
        except einops.EinopsError:
            return None
        if new:
            at = names.index(new)
            made = (*made[:at], self.sizes[new], *made[at:])
        return made

    def theirs(self, x: np.ndarray) -> np.ndarray:
        """One layer of ours -> the tensor of the file. Exact: only axes move."""
        if not self.rule.axes:
            return x
        theirs, ours = self.rule.axes.split(" -> ")
        return einops.rearrange(x, f"{ours} -> {theirs}", **self._sizes())

    def _sizes(self) -> dict[str, int]:
        """Of the axes in the pattern: einops refuses any other."""
        names = self.rule.axes.replace("(", " ").replace(")", " ").split()
        return {name: size for name, size in self.sizes.items() if name in names}


def map_params(config: ImageBindConfig, tables: Mapping[str, Sequence[Rule]]) -> list[ParamMapping]:
    """Every leaf of a model by {modality: rules}. Raises UserError listing leaves without a rule."""
    found, missing = [], []
    for path, leaf in param_shapes(config).items():
        modality, _, below = path.partition("/")
        rule = next((rule for rule in tables[modality] if rule.path == below), None)
        if rule is None:
            missing.append(path)
            continue
        encoder = config.encoders[modality]
        layers = range(encoder.depth) if "{layer}" in rule.key else (0,)
        keys = tuple(
            tuple(rule.key.format(layer=i, part=part) for part in rule.parts or ("",))
            for i in layers
        )
        sizes = {"n": 3, "h": encoder.heads, "c": encoder.shape[-1], "t": (*encoder.patch, 1)[0]}
        found.append(ParamMapping(path, leaf.shape, rule, keys, sizes))
    if missing:
        raise UserError(f"this format has no place for {_listed(missing)}")
    return found


def check_complete(
    source: str,
    found: Sequence[ParamMapping],
    tensors: TensorFile,
    ignored: Callable[[str], bool],
) -> None:
    """Every key used or ignored, every leaf filled in its shape; else one UserError naming all."""
    used = {key for leaf in found for keys in leaf.keys for key in keys}
    problems = []
    if absent := [key for key in used if key not in tensors.specs]:
        problems.append(f"missing {_listed(sorted(absent))}")
    if unused := [key for key in tensors.specs if key not in used and not ignored(key)]:
        problems.append(f"unknown {_listed(unused)}")
    for leaf in found:
        if not absent and (wrong := _wrong_shape(leaf, tensors)):
            problems.append(wrong)
    if problems:
        raise UserError(f"{source}: {'; '.join(problems)}")


def _listed(names: Sequence[str]) -> str:
    """All names, those that differ only in a layer's number together: `blocks.{0,1,2}.mlp`."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        before, number, after = (*re.split(r"(?<=\.)(\d{1,6})(?=\.)", name, maxsplit=1), "", "")[:3]
        groups.setdefault((before, after), []).append(number)
    shown = [before + _numbers(numbers) + after for (before, after), numbers in groups.items()]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return ", ".join(shown[:_SHOWN]) + more


def _numbers(numbers: list[str]) -> str:
    first = numbers[0]
    if len(numbers) == 1:
        return first
    if numbers == [str(int(first) + i) for i in range(len(numbers))]:
        return f"{{{first}..{numbers[-1]}}}"
    return "{" + ",".join(numbers[:40]) + (",..." if len(numbers) > 40 else "") + "}"


def _wrong_shape(leaf: ParamMapping, tensors: TensorFile) -> str:
    wanted = leaf.shape[1:] if is_stacked(leaf.path) else leaf.shape
    for keys in leaf.keys:
        specs = [tensors.specs[key] for key in keys]
        for key, spec in zip(keys, specs):
            if not (np.issubdtype(spec.dtype, np.floating) or spec.dtype.name == "bfloat16"):
                return f"{key} holds {spec.dtype}, not floating-point weights"
            if spec.shape != specs[0].shape:
                return f"{key} has shape {spec.shape}, and {keys[0]} {specs[0].shape}"
        shape = ((len(keys),) if leaf.rule.parts else ()) + specs[0].shape
        made = leaf.shape_of(shape)
        if made != wanted:
            return f"{keys[0]} has shape {shape}, which does not give {leaf.path} {wanted}"
    return ""
