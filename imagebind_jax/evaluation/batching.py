"""Inputs of any shapes to full batches for the devices, and their vectors back to the records' rows."""

import collections
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from imagebind_jax.errors import UserError

MAX_IN_FLIGHT = 2  # batches that the devices may be behind
MAX_WAIT_BATCHES = 16  # batches after which inputs of a rare shape go as a batch that is not full


class ShapeBatcher:
    """Views of one shape together in batches of one size; the vectors of a row's views into that row.

    The devices work on a batch while the next ones are made: results are fetched late.
    """

    def __init__(
        self,
        run: Callable[[Sequence[int], np.ndarray], Any],
        size: int,
        table: Float[np.ndarray, "n e"],
    ):
        """run: (the rows that views are of, `size` views) -> a vector of each view."""
        self._run, self._size, self._table = run, size, table
        self._waiting: dict[Any, list[tuple[int, np.ndarray]]] = collections.defaultdict(list)
        self._flying: collections.deque[tuple[list[int], Any]] = collections.deque()
        self._left: dict[int, int] = {}  # row -> views whose vectors are not there yet, in order

    def add(self, row: int, views: np.ndarray) -> None:
        if views.dtype.kind == "f":
            views = views.astype(np.float32, copy=False)
        self._left[row] = len(views)
        self._table[row] = 0
        waiting = self._waiting[views.shape[1:], views.dtype.str]
        for view in views:
            waiting.append((row, view))
            if len(waiting) == self._size:
                self._send(waiting)
        for others in self._waiting.values():  # a rare shape must not hold up all rows after it
            if others and row - others[0][0] > MAX_WAIT_BATCHES * self._size:
                self._send(others)

    def _send(self, waiting: list[tuple[int, np.ndarray]]) -> None:
        rows = [row for row, _ in waiting]
        views = [view for _, view in waiting]
        waiting.clear()
        views += views[-1:] * (self._size - len(views))  # so that a shape is compiled once
        self._flying.append((rows, self._run(rows, np.stack(views))))
        while len(self._flying) > MAX_IN_FLIGHT:
            self._fetch()

    def _fetch(self) -> None:
        rows, found = self._flying.popleft()
        z = np.asarray(found)
        z = z.reshape(-1, z.shape[-1])
        for row, vector in zip(rows, z):
            self._table[row] += vector
            self._left[row] -= 1
            if not self._left[row]:
                del self._left[row]
                length = np.linalg.norm(self._table[row])
                if not np.isfinite(length):
                    raise UserError(
                        f"the embedding of record {row} is not finite: the parameters are damaged, "
                        "or too large for the dtype"
                    )
                self._table[row] /= max(length, 1e-12)

    def finished(self, begun: int) -> int:
        """How many rows of those begun are done, from the first on without a gap."""
        return next(iter(self._left), begun)

    def end(self) -> None:
        """Runs what is left, in batches that are not full."""
        for waiting in self._waiting.values():
            if waiting:
                self._send(waiting)
        while self._flying:
            self._fetch()
