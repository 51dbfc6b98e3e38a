"""Damaged files of every format: a finite array or one `MediaError`, and nothing else ever happens."""

import pathlib
from typing import Any

import goals
import numpy as np
import pytest
from damage import mutant
from hostile_media import FORMATS
from judge import judged

FEW, MANY = 6, goals.size(60, 800)  # of each format
AT_ONCE = 50
OURS = ("AssertionError", "AttributeError", "NameError", "UnboundLocalError")  # not a file's fault


def tried(mutants, seed, name, judge, folder):
    """(refused, seconds of the slowest, bytes of the greediest) of so many, all of them as they should be."""
    data, path = FORMATS[name].good(), str(folder / f"mutant.{FORMATS[name].suffix}")
    wrong, refused, first, seconds, memory = [], 0, 0, 0.0, 0
    while first < mutants:
        last = min(first + AT_ONCE, mutants)
        given = judge.ask(try_mutants, name, data, path, seed, first, last)
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
    return refused, seconds, memory


@pytest.mark.parametrize("name", FORMATS)
def test_a_few_mutants(name, judge, tmp_path):
    tried(FEW, 0, name, judge, tmp_path)


@pytest.fixture(scope="module")
def found():
    """What `tried` found of each format."""
    return {}


@pytest.mark.fuzz
@pytest.mark.goal("G17")
@pytest.mark.parametrize("name", FORMATS)
def test_mutants(name, judge, found, tmp_path, rotating_seed):
    found[name] = tried(MANY, rotating_seed, name, judge, tmp_path)
    assert found[name][0] or name == "text", "none of them is damaged"


@pytest.mark.fuzz
@pytest.mark.goal("G17")
def test_mutants_of_every_format(found, measured):
    if found.keys() != FORMATS.keys():
        pytest.skip(f"{len(found)} of {len(FORMATS)} formats were tried, and were right")
    refused, seconds, memory = zip(*found.values())
    slowest = list(found)[int(np.argmax(seconds))]
    measured(
        f"{len(found) * MANY:,} of {len(found)} formats: {sum(refused):,} refused in one line, "
        f"the others finite; slowest {max(seconds):.1f} s of processor time ({slowest}), at most "
        f"{max(memory) >> 20} MiB"
    )


def try_mutants(
    name: str, data: bytes, path: str, seed: int, first: int, last: int, reached: Any
) -> list:
    """[what is wrong with mutants [first, last), how many are refused, seconds, bytes at most]."""
    kind, file = FORMATS[name], pathlib.Path(path)
    good = [judged(transform, kind.record(data, file), 0) for transform in kind.transforms]
    wrong = [f"{name}, undamaged: {each}" for each in good if each.kind != "array"]
    refused, seconds, memory = 0, 0.0, 0
    for number in range(first, last):
        reached.value = number
        which = number % len(kind.transforms)
        made = mutant(data, np.random.default_rng([len(data), number, seed]))
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
