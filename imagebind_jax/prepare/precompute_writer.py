"""Anchors on their way: views to the devices in batches, their embeddings to files that a kill leaves whole."""

import collections
import itertools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.precomputed import BlockLayout, block_path, pack_view
from imagebind_jax.runtime.progress import Progress
from imagebind_jax.storage.row_file import ResumableRowFile

MAX_IN_FLIGHT = 2  # batches that the devices may be behind
EmbedFn = Callable[[np.ndarray], Any]
InputOrReason = tuple[dict[str, np.ndarray] | None, str]


class EmbeddingWriter:
    """Records' views to the devices in batches, and what comes back to the files.

    A batch holds the views of the same records however often the making was stopped, each in its
    place, so that its embeddings are the same to the last bit.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        layout: BlockLayout,
        group: int,
        shares: int,
        run: EmbedFn,
        allowed: float,
        progress: Progress,
    ):
        """group: records of a batch. shares: a batch has a multiple of so many rows. allowed:
        records that may be unusable."""
        self.unusable = 0
        self._folder, self._layout, self._run = folder, layout, run
        self._group, self._allowed, self._progress = group, allowed, progress
        self._slots = -(-group * layout.views // shares) * shares
        self._flying: collections.deque[tuple[range, list[np.ndarray | None], Any]] = (
            collections.deque()
        )

    def begin(self, say: Callable[[str], None]) -> int:
        """The record to go on from."""
        self._say = say
        for block, rows in enumerate(self._layout.blocks):
            self._open(block)
            if self._kept.done < len(rows) or rows[-1] + 1 == self._layout.count:
                return rows[0] + self._done()
            self.unusable += len(self._kept.unusable)
        raise AssertionError("the last block returns")

    def _open(self, block: int) -> None:
        layout, self._block = self._layout, block
        self._kept = ResumableRowFile(
            block_path(self._folder, block),
            layout.shape(block),
            lambda: layout.said(block),
            tell=lambda what: self._say(f"note: {what}"),
        )

    def run(self, made: Iterator[InputOrReason]) -> None:
        """made: the views of each record from the first on that is not done."""
        begun = self._block
        try:
            for block in range(begun, len(self._layout.blocks)):
                if block != begun:
                    self._open(block)
                self.unusable += len(self._kept.unusable)
                rows = self._layout.blocks[block][self._done() :]
                if block != begun:  # finished, after one that was damaged
                    collections.deque(itertools.islice(made, self._done()), maxlen=0)
                for first in range(0, len(rows), self._group):
                    part = rows[first : first + self._group]
                    self._send(part, [next(made) for _ in part])
                while self._flying:
                    self._fetch()
        finally:
            self._kept.flush()  # what is done is done, whatever ends it

    def _done(self) -> int:
        """Records of the block that need not be made again."""
        done = self._kept.done
        whole = done == len(self._layout.blocks[self._block])
        return done if whole else done // self._group * self._group

    def _send(self, part: range, made: Sequence[InputOrReason]) -> None:
        for index, (row, why) in zip(part, made):
            local = index - self._layout.blocks[self._block][0]
            if row is None and local not in self._kept.unusable:
                self.unusable += 1
                self._kept.unusable[local] = why
            if self.unusable > self._allowed:
                raise UserError(
                    f"{self.unusable} records cannot be used, more than bad_records allows, the "
                    f"last of them: {why}"
                )
        like = next((row["input"] for row, _ in made if row is not None), None)
        result = None
        if like is not None:
            views = np.zeros((self._slots, *like.shape[1:]), like.dtype)
            for place, (row, _) in enumerate(made):
                if row is not None:
                    views[place * len(like) : (place + 1) * len(like)] = row["input"]
            if views.dtype.kind == "f":
                views = views.astype(np.float32, copy=False)
            result = self._run(views)
        drawn = [None if row is None else row["drawn"] for row, _ in made]
        self._flying.append((part, drawn, result))
        while len(self._flying) > MAX_IN_FLIGHT:
            self._fetch()

    def _fetch(self) -> None:
        part, drawn, result = self._flying.popleft()
        z = np.asarray(result) if result is not None else np.zeros((0, 0))
        first = self._layout.blocks[self._block][0]
        for place, (index, texts) in enumerate(zip(part, drawn)):
            if texts is None:
                continue
            vectors = z[place * self._layout.views : (place + 1) * self._layout.views]
            if not np.isfinite(vectors).all():
                raise UserError(
                    f"the embedding of record {index} is not finite: the checkpoint is damaged, or "
                    "its numbers are too large for the dtype"
                )
            data = b"".join(pack_view(v, d.tobytes()) for v, d in zip(vectors, texts))
            self._kept.rows[index - first].view(np.uint8)[:] = np.frombuffer(data, np.uint8)
        self._kept.advance(part[-1] + 1 - first)
        self._progress.update(part[-1] + 1)
