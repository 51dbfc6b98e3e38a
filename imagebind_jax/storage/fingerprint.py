"""What describes a part of a config, so that what was made with it is not taken for another's."""

import dataclasses
import hashlib
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from imagebind_jax.errors import UserError


def flatten_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Dataclasses, mappings and tuples of them as {"a.b.c": what JSON can hold}. Raises UserError.

    Of a dataclass, the fields that are `fingerprint_fields`.
    """
    into: dict[str, Any] = {}
    for name, value in fields.items():
        _flatten(name, value, into)
    return into


def fingerprint_fields(value: Any) -> dict[str, Any]:
    """A dataclass's fields; but not those that its `younger_fields` names, at their defaults.

    A field that a class was given later says nothing there of what was made before it.
    """
    younger = getattr(value, "younger_fields", ())
    fields = {f.name: (getattr(value, f.name), f.default) for f in dataclasses.fields(value)}
    return {n: now for n, (now, default) in fields.items() if n not in younger or now != default}


def _flatten(name: str, value: Any, into: dict[str, Any]) -> None:
    if dataclasses.is_dataclass(value):
        into[name] = type(value).__name__
        for field, item in fingerprint_fields(value).items():
            _flatten(f"{name}.{field}", item, into)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            _flatten(f"{name}.{key}", item, into)
    elif isinstance(value, tuple) and any(dataclasses.is_dataclass(item) for item in value):
        for i, item in enumerate(value):
            _flatten(f"{name}.{i}", item, into)
    else:
        # As it comes back from a file: JSON has no tuples.
        try:
            into[name] = json.loads(json.dumps(value))
        except TypeError:
            raise UserError(
                f"{name} is {value!r}: a config holds dataclasses, mappings, tuples, texts and numbers"
            ) from None


def code_checksums(value: Any) -> dict[str, str]:
    """Module -> digest of its file, of what a config has brought along: classes that are not ours."""
    found: dict[str, str] = {}
    if dataclasses.is_dataclass(value):
        module = sys.modules.get(type(value).__module__)
        path = getattr(module, "__file__", None)
        if path and module is not None and not module.__name__.startswith("imagebind_jax."):
            found[module.__name__] = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
        for field in dataclasses.fields(value):
            found |= code_checksums(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            found |= code_checksums(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            found |= code_checksums(item)
    return found


def json_sha256(value: Any) -> str:
    """Of what JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
