"""Records that could not be used: counted, named in a file, and too many of them end the run."""

import collections
import contextlib
import json
import os
import pathlib

import msgspec
import numpy as np

from imagebind_jax.errors import BadRecordLimitError, one_line
from imagebind_jax.storage import atomic

MIN_ROWS_FOR_LIMIT = (
    1000  # rows that the share is taken of at least: one bad record in the first ten is no news
)


class BadRecordLog:
    """What was masked so far: `bad_records.jsonl` in a run folder names each record once.

    Each of several hosts counts and names what it read: host 3 in `bad_records.host3.jsonl`.
    """

    def __init__(
        self,
        folder: str | os.PathLike | None,
        allowed: float = 0.01,
        start: int = 0,
        *,
        host: int = 0,
    ):
        """folder: None to write nothing. allowed: the share of a pair's rows that may be masked.
        start: the step a run goes on from; what was found from there on will be found again."""
        self.allowed = allowed
        self.count: collections.Counter[str] = collections.Counter()  # rows masked, of each pair
        self._rows: collections.Counter[str] = collections.Counter()
        self._named: set[tuple[str, int]] = set()
        self._late = b""  # lines that could not be written yet
        name = f"bad_records.host{host}.jsonl" if host else "bad_records.jsonl"
        self._path = pathlib.Path(folder) / name if folder is not None else None
        if self._path is not None and self._path.exists():
            kept = [line for line in _read(self._path) if line["step"] < start]
            self._named = {(line["pair"], line["record"]) for line in kept}
            atomic.write_text_atomic(self._path, "".join(json.dumps(line) + "\n" for line in kept))

    def see(self, step: int, pair: str, bad: np.ndarray) -> None:
        """The "bad" of a batch's rows. Raises BadRecordLimitError where more than the share is bad."""
        self._rows[pair] += len(bad)
        for text in bad[bad != ""]:
            self.count[pair] += 1
            said = json.loads(str(text))
            if (pair, said["record"]) not in self._named:
                self._named.add((pair, said["record"]))
                self._append({"step": step, "pair": pair, **said})
        if self.count[pair] > self.allowed * max(self._rows[pair], MIN_ROWS_FOR_LIMIT):
            raise BadRecordLimitError(
                f"{pair}: {self.count[pair]} of {self._rows[pair]} rows could not be used, more "
                f"than {self.allowed:.1%}; the last: {one_line(said['file'], 200)}: "
                f"{one_line(said['reason'], 300)}. Mend or remove them"
                + (f" ({self._path} names all)" if self._path else "")
                + ", or allow more with --bad-records"
            )

    def _append(self, line: dict) -> None:
        if self._path is not None:
            self._late += json.dumps(line).encode() + b"\n"
            # A full disk is no reason to end a run: the line comes with the next one.
            with contextlib.suppress(OSError), self._path.open("ab", buffering=0) as file:
                self._late = atomic.append_or_buffer(file, self._late)


def _read(path: pathlib.Path) -> list[dict]:
    lines = []
    for line in atomic.read_jsonl_lenient(path):
        with contextlib.suppress(msgspec.MsgspecError):
            msgspec.convert(line, _Line)  # for its errors: other fields are kept
            lines.append(line)
    return lines


class _Line(msgspec.Struct):
    step: int
    pair: str
    record: int
