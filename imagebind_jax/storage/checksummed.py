"""JSON objects with a checksum of themselves."""

import hashlib
import json
import pathlib
from typing import Any

from imagebind_jax.storage.atomic import write_text_atomic


def add_checksum(said: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with a digest of itself, whatever fields it has or will have."""
    said = json.loads(json.dumps(said))  # as it will be read
    return said | {"seal": _seal(said)}


def verify_checksum(said: Any) -> dict[str, Any]:
    """The object without its seal, if it has one. Raises ValueError where it was changed since."""
    if not isinstance(said, dict):
        raise ValueError("no object")
    bare = {key: value for key, value in said.items() if key != "seal"}
    if "seal" in said and said["seal"] != _seal(bare):
        raise ValueError("what it says was changed since it was written")
    return bare


def write_checksummed_json(
    path: pathlib.Path, said: dict[str, Any], indent: int | None = None
) -> None:
    """Writes a JSON object, with its seal, at once."""
    write_text_atomic(path, json.dumps(add_checksum(said), indent=indent))


def read_checksummed_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a file, without its seal. Raises ValueError where it is damaged."""
    return verify_checksum(read_json(path))


def read_json(path: pathlib.Path) -> Any:
    """Raises ValueError where it is none."""
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _seal(said: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
