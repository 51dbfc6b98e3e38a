"""What visitors ask: uploads and sentences to compare, queries to search with; errors become lines."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from imagebind_jax.errors import UserError, first_line
from imagebind_jax.runtime.console import print_line
from imagebind_jax.search import exact
from imagebind_jax.search.encoders import compose_query
from imagebind_jax.search.store import EmbeddingStore
from imagebind_jax.web import limits, views
from imagebind_jax.web.uploads import EmbeddedItem, UploadEmbedder

MODALITY_CHOICES = {
    "What its content says": "",
    "A depth map": "depth",
    "A thermal image": "thermal",
    "The sound of a video": "audio",
}
DISPLAY_MODES = ("Cosines", "Softmax of each row")
INTERNAL_ERROR_MESSAGE = (
    "Something went wrong here, and not with your files: the terminal says what."
)


@dataclasses.dataclass
class CompareState:
    """What one visitor compares: files in the order they came, and sentences with their vectors."""

    files: list[EmbeddedItem] = dataclasses.field(default_factory=list)
    words: dict[str, EmbeddedItem] = dataclasses.field(default_factory=dict)


class PageHandlers:
    """What the events do, without gradio; each never raises, but says what is wrong."""

    def __init__(self, reader: UploadEmbedder, store: EmbeddingStore | None = None):
        self.reader, self.store = reader, store

    def add(
        self, paths: Sequence[str] | None, kind: str, state: CompareState
    ) -> tuple[CompareState, list[str]]:
        """Reads what was dropped; returns all that is compared, and what cannot be used and why."""
        problems = []
        for i, path in enumerate(paths or []):
            if i >= limits.FILES or len(state.files) >= limits.MAX_COMPARED:
                most = limits.FILES if i >= limits.FILES else limits.MAX_COMPARED
                problems.append(f"{len(paths or []) - i} more files: at most {most} at once")
                for rest in (paths or [])[i:]:
                    self.reader.discard(rest)
                break
            thing = self._file(problems, path, kind)
            if thing is not None:
                state.files.append(thing)
        return state, problems

    def compare(
        self,
        state: CompareState,
        chosen: Sequence[int],
        sentences: str,
        view: str,
        temperature: float | int,
    ) -> tuple[str, list[str]]:
        """The matrix of the chosen files and all sentences, and what cannot be used and why."""
        problems: list[str] = []
        things = [thing for i, thing in enumerate(state.files) if i in chosen]
        lines = self._tried(problems, lambda: limits.split_sentences(sentences)) or []
        words = {line: state.words.get(line) or self._words(problems, line) for line in lines}
        state.words = {line: thing for line, thing in words.items() if thing is not None}
        things += state.words.values()
        if len(things) > limits.MAX_COMPARED:
            problems.append(
                f"{len(things)} things: only the first {limits.MAX_COMPARED} are compared"
            )
        shown = temperature if view == DISPLAY_MODES[1] else None
        return views.similarity_matrix_html(things[: limits.MAX_COMPARED], shown), problems

    def query(
        self, paths: Sequence[str] | str | None, kind: str
    ) -> tuple[EmbeddedItem | None, list[str]]:
        """A file that asks."""
        problems: list[str] = []
        given = [paths] if isinstance(paths, str) else list(paths or [])
        for extra in given[1:]:
            self.reader.discard(extra)
        if not given:
            return None, problems
        return self._file(problems, given[0], kind), problems

    def search(
        self,
        asked: Sequence[tuple[str, EmbeddedItem | None]],
        mix: float | int,
        modalities: Sequence[str],
        k: float | int,
    ) -> tuple[str, list[str]]:
        """What one or two queries, each words or a file, find; mix: the share of the second."""
        problems: list[str] = []
        things = []
        for (words, file), share in zip(asked, (1 - mix, mix), strict=True):
            line = words.strip()[: limits.MAX_CHARACTERS]
            thing = self._words(problems, line) if line else file
            if thing is not None:
                things.append((thing, float(share)))
        if not things:
            return views.format_empty_results(), problems

        def found() -> str:
            assert self.store is not None
            weights = [share for _, share in things] if len(things) > 1 else [1.0]
            vector = compose_query([thing.vector for thing, _ in things], weights)
            hits = exact.search_store(self.store, vector, int(k), modalities=list(modalities))
            return views.format_results(self.store, things, hits)

        return self._tried(problems, found) or "", problems

    def _words(self, problems: list[str], line: str) -> EmbeddedItem | None:
        return self._tried(problems, lambda: self.reader.words(line))

    def _file(self, problems: list[str], path: str, kind: str) -> EmbeddedItem | None:
        return self._tried(problems, lambda: self.reader.file(path, MODALITY_CHOICES.get(kind, "")))

    def _tried(self, problems: list[str], make: Callable[[], Any]) -> Any:
        """What it makes, or nothing: then the problems say why, in one line without a path."""
        try:
            return make()
        except UserError as error:
            problems.append(first_line(error))
        except Exception as error:  # the page goes on, and whoever started it is told
            print_line(f"page: {type(error).__name__}: {first_line(error)}")
            problems.append(INTERNAL_ERROR_MESSAGE)
        return None
