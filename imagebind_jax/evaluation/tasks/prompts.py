"""What zero-shot classification asks: classes, the names they go by, and prompts."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import Embedder, source_name
from imagebind_jax.inputs.sources import Prepared, Source


@runtime_checkable
class PromptSettings(Protocol):
    """The fields of `zero_shot.ZeroShot` that say it."""

    @property
    def sources(self) -> tuple[Source, ...]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def names(self) -> Mapping[str, tuple[str, ...]]: ...
    @property
    def prompts(self) -> tuple[str, ...]: ...
    @property
    def name(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class ClassPrompts:
    """The classes, and by what names and prompts they are asked for."""

    classes: Sequence[str]
    names: Sequence[Sequence[str]]  # of each class
    prompts: Sequence[str]
    name: str = ""  # of their vectors, where it is not the dataset's

    @property
    def counts(self) -> list[int]:
        return [len(each) for each in self.names]

    def vectors(self, bench: Embedder, source: Source) -> Float[np.ndarray, "names e"]:
        """A unit vector for each name of each class, in order."""
        whose = self.name or source_name(source)
        if isinstance(source, Prepared) and not self.name:  # whatever the split
            whose = pathlib.PurePath(source.folder).name
        flat = [name for each in self.names for name in each]
        found = bench.classes(whose, flat, self.prompts)
        if (bad := np.isnan(found).any(axis=-1)).any():
            raise UserError(f"the text embedding of {flat[int(bad.argmax())]!r} is not a number")
        return found


def resolve_class_prompts(settings: PromptSettings, bench: Embedder) -> ClassPrompts:
    """From the settings, or else the prepared folder. Raises UserError where they do not fit."""
    source, *others = settings.sources
    where, facts = source_name(source), bench.facts(source)
    classes = list(settings.classes or (facts.classes if facts else ()))
    prompts = list(settings.prompts or (facts.prompts if facts else ()))
    if not classes or not prompts:
        lacking = "prompts" if classes else "classes"
        raise UserError(f"{where} comes without {lacking}: give ZeroShot({lacking}=...)")
    for other in others if not settings.classes else ():
        said = bench.facts(other)
        if said is None or said.classes != classes:
            raise UserError(f"{source_name(other)} has other classes than {where}: no fold of it")
    if wrong := [prompt for prompt in prompts if prompt.count("{}") != 1]:
        raise UserError(f"prompt {wrong[0]!r} is no template: it needs one {{}}")
    if wrong := [name for name in settings.names if name not in classes]:
        raise UserError(f"names are given of {wrong[0]!r}, which is no class of {where}")
    given: Mapping[str, Sequence[str]] = settings.names or (facts.names if facts else {})
    names = [given.get(name, (name,)) for name in classes]
    if empty := [name for name, each in zip(classes, names) if not each]:
        raise UserError(f"the class {empty[0]!r} of {where} has an empty list of names")
    return ClassPrompts(classes, names, prompts, settings.name)
