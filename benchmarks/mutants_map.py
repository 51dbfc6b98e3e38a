"""Which lines a bug of `mutants.py` changes, and which tests run those."""

import ast
import collections
import functools
import json
import os
import pathlib

from mutants_table import Mutant

SPECIFIC = 40  # tests that are tried first


class Trouble(Exception):
    """What keeps this from going on, in one line."""


def mutated(mutant: Mutant, root: pathlib.Path) -> tuple[str, str]:
    """(the file's text, the text with the bug). Raises Trouble where the row is stale."""
    path = root / mutant.file
    text = path.read_text() if path.is_file() else ""
    if (count := text.count(mutant.old)) != 1:
        raise Trouble(f"{mutant.name} is stale: its text is {count} times in {mutant.file}")
    changed = text.replace(mutant.old, mutant.new)
    try:
        compile(changed, mutant.file, "exec")
    except SyntaxError as error:
        raise Trouble(f"{mutant.name} does not compile: {error}") from error
    return text, changed


def touched(mutant: Mutant, text: str) -> tuple[set[int], bool]:
    """(the lines of the statements that it changes, whether they are in a function)."""
    same = len(os.path.commonprefix([mutant.old, mutant.new]))
    ends = len(os.path.commonprefix([mutant.old[same:][::-1], mutant.new[same:][::-1]]))
    begin = text.index(mutant.old) + same
    end = max(begin + 1, text.index(mutant.old) + len(mutant.old) - ends)
    changed = range(1 + text.count("\n", 0, begin), 2 + text.count("\n", 0, end - 1))
    spans, inside = [], False
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)  # of which each statement stands for itself
            last = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno
            spans.append(range(node.lineno, last + 1))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and body:
                inside |= body[0].lineno <= changed[0] <= node.end_lineno
    lines = set()
    for line in changed:
        lines |= set(min((span for span in spans if line in span), key=len, default=range(0)))
    return lines, inside


def lines_of(path: pathlib.Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Map:
    """Which tests run which lines, and how long each takes."""

    def __init__(self, out: pathlib.Path):
        if not (out / "coverage").exists():
            raise Trouble(f"no map in {out}: python benchmarks/mutants.py map")
        import coverage

        self._data = coverage.CoverageData(str(out / "coverage"))
        self._data.read()
        said = lines_of(out / "tests.jsonl")
        self.failing = {line["test"] for line in said if line["outcome"] == "failed"}
        self.seconds: dict[str, float] = collections.Counter()
        for line in said:
            self.seconds[line["test"]] += line["seconds"]
        passed = {ln["test"] for ln in said if (ln["when"], ln["outcome"]) == ("call", "passed")}
        self.seconds = {t: s for t, s in self.seconds.items() if t in passed - self.failing}

    def lines(self, file: str) -> dict[int, set[str]]:
        """Line -> the tests that run it."""
        found = self._data.contexts_by_lineno(file)
        return {ln: {each.rpartition("|")[0] for each in names} for ln, names in found.items()}

    @functools.cached_property
    def breadth(self) -> collections.Counter[str]:
        """Test -> how many lines it runs in all."""
        files = self._data.measured_files()
        return collections.Counter(
            t for f in files for some in self.lines(f).values() for t in some
        )

    def stages(self, mutant: Mutant, text: str, whole: bool) -> list[list[str]]:
        """The tests to run, file by file, the quickest file first."""
        by_line = self.lines(mutant.file)
        lines, inside = touched(mutant, text)
        found = {
            test for line in lines & by_line.keys() for test in by_line[line]
        } & self.seconds.keys()
        own = collections.Counter(test for tests in by_line.values() for test in tests)
        if inside and found:
            ranked = sorted(found, key=lambda test: (self.breadth[test], test))
        else:  # those for which the file matters most
            files = {test.partition("::")[0] for test in own}
            found = {test for test in self.seconds if test.partition("::")[0] in files}
            ranked = sorted(found, key=lambda t: (-own[t] / max(self.breadth[t], 1), t))
        rest = sorted(self.seconds.keys() - found) if whole else []
        return [self._by_file(each) for each in (ranked[:SPECIFIC], ranked[SPECIFIC:], rest)]

    def _by_file(self, tests: list[str]) -> list[str]:
        takes: collections.Counter[str] = collections.Counter()
        for test in tests:
            takes[test.partition("::")[0]] += self.seconds[test]
        return sorted(tests, key=lambda test: (takes[test.partition("::")[0]], test))
