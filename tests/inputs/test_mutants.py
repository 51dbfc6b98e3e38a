"""Damaged files of every format: a finite array or one `MediaError`, and nothing else ever happens."""

import os
import pathlib
from typing import Any

import numpy as np
import pytest
from hostile_media import FORMATS, mutant
from judge import OURS, Judge, judged

MUTANTS = 160  # of each format; the names of those that fail are their numbers
SOAK = 1000
AT_ONCE = 40


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    judge = Judge(tmp_path_factory.mktemp("judge"))
    yield judge
    judge.close()


@pytest.mark.parametrize("name", FORMATS)
def test_mutants(name, judge, tmp_path):
    data = FORMATS[name].good()
    count = SOAK if os.environ.get("IBJ_SOAK") else MUTANTS
    path = str(tmp_path / f"mutant.{FORMATS[name].suffix}")
    failures, refused, first = [], 0, 0
    while first < count:
        given = judge.ask(try_mutants, name, data, path, first, min(first + AT_ONCE, count))
        if isinstance(given, tuple):
            how, reached = given
            failures.append(f"{reached}: {how}")
            first = reached + 1
            continue
        failures += given[:-1]
        refused += given[-1]
        first += AT_ONCE
    assert not failures, "\n".join(failures)


def try_mutants(name: str, data: bytes, path: str, first: int, last: int, reached: Any) -> list:
    """What is wrong with mutants [first, last), and last how many were refused."""
    kind, file = FORMATS[name], pathlib.Path(path)
    good = [judged(transform, kind.record(data, file), 0) for transform in kind.transforms]
    wrong, refused = [f"not damaged: {each}" for each in good if each.kind != "array"], 0
    for number in range(first, last):
        reached.value = number
        which = number % len(kind.transforms)
        made = mutant(data, np.random.default_rng([len(data), number]))
        on_disk = kind.field == "manifest" or number % 2 == 0
        record = kind.record(made, file if on_disk else None)
        answer = judged(kind.transforms[which], record, number)
        refused += answer.kind != "array"
        problems = list(answer.problems)
        if answer.kind == "array":
            problems += ["another shape"] if answer.text != good[which].text else []
        elif answer.kind != "MediaError" and kind.field != "manifest":
            problems.append("not a MediaError")
        elif any(each in answer.text for each in OURS):
            problems.append("a mistake of ours")
        elif not answer.text.startswith((path if on_disk else f"<{len(made)} bytes>", "record ")):
            problems.append("does not name the file")
        wrong += [f"{number}: {problem}: {answer}" for problem in problems]
    return [*wrong, refused]
