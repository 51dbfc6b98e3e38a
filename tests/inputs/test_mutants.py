"""Damaged files of every format: a finite array or one `MediaError`, and nothing else ever happens."""

import pathlib
from typing import Any

import goals
import numpy as np
import pytest
from damage import mutant
from hostile_media import FORMATS
from judge import Judge, judged

MUTANTS = goals.size(60, 800)  # of each format
AT_ONCE = 50
OURS = ("AssertionError", "AttributeError", "NameError", "UnboundLocalError")  # not a file's fault


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    judge = Judge(tmp_path_factory.mktemp("judge"))
    yield judge
    judge.close()


@pytest.fixture(scope="module")
def found():
    """Of each format that was tried: (refused, seconds of the slowest, bytes of the greediest)."""
    return {}


@pytest.mark.goal("G17")
@pytest.mark.parametrize("name", FORMATS)
def test_mutants(name, judge, found, tmp_path):
    data, path = FORMATS[name].good(), str(tmp_path / f"mutant.{FORMATS[name].suffix}")
    wrong, refused, first, seconds, memory = [], 0, 0, 0.0, 0
    while first < MUTANTS:
        last = min(first + AT_ONCE, MUTANTS)
        given = judge.ask(try_mutants, name, data, path, first, last)
        if isinstance(given, tuple):  # crashed, or hung: the process is another one now
            how, reached = given
            wrong.append(f"{name} {reached} {how}")
            last = reached + 1
        else:
            wrong += given[0]
            refused += given[1]
            seconds, memory = max(seconds, given[2]), max(memory, given[3])
        first = last
    assert not wrong, "\n".join(wrong)
    assert refused or name == "text", "none of them is damaged"
    found[name] = refused, seconds, memory


@pytest.mark.goal("G17")
def test_mutants_of_every_format(found, measured):
    if found.keys() != FORMATS.keys():
        pytest.skip(f"{len(found)} of {len(FORMATS)} formats were tried, and were right")
    refused, seconds, memory = zip(*found.values())
    slowest = list(found)[int(np.argmax(seconds))]
    measured(
        f"{len(found) * MUTANTS:,} of {len(found)} formats: {sum(refused):,} refused in one line, "
        f"the others finite; slowest {max(seconds):.1f} s of processor time ({slowest}), at most "
        f"{max(memory) >> 20} MiB"
    )


def try_mutants(name: str, data: bytes, path: str, first: int, last: int, reached: Any) -> list:
    """[what is wrong with mutants [first, last), how many are refused, seconds, bytes at most]."""
    kind, file = FORMATS[name], pathlib.Path(path)
    good = [judged(transform, kind.record(data, file), 0) for transform in kind.transforms]
    wrong = [f"{name}, undamaged: {each}" for each in good if each.kind != "array"]
    refused, seconds, memory = 0, 0.0, 0
    for number in range(first, last):
        reached.value = number
        which = number % len(kind.transforms)
        made = mutant(data, np.random.default_rng([len(data), number]))
        on_disk = kind.field == "manifest" or number % 2 == 0
        record = kind.record(made, file if on_disk else None)
        answer = judged(kind.transforms[which], record, number)
        refused += answer.kind != "array"
        seconds, memory = max(seconds, answer.seconds), max(memory, answer.memory)
        problems = list(answer.problems)
        if answer.kind == "array":
            changed = answer.text != good[which].text and kind.field != "manifest"
            problems += ["another shape"] if changed else []
        elif answer.kind != "MediaError" and kind.field != "manifest":
            problems.append("not a MediaError")
        elif any(each in answer.text for each in OURS):
            problems.append("our own mistake")
        elif not answer.text.startswith((path if on_disk else f"<{len(made)} bytes>", "record")):
            problems.append("does not name the file")
        if answer.said and not kind.loud:
            problems.append("prints")
        wrong += [f"{name} {number} {problem}: {answer}" for problem in problems]
    return [wrong, refused, seconds, memory]
