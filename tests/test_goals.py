"""The table of goals says no more than its tests have shown."""

import json
import os
import pathlib
import subprocess
import sys

import goals
import pytest

HERE = pathlib.Path(__file__).parent


def outcome(test, outcome, *measured, goal="G4", **more):
    line = {"test": test, "goals": [goal], "outcome": outcome, "measured": measured}
    return json.dumps({"reason": "", **line, **more}) + "\n"


@pytest.mark.parametrize(
    "lines, verdict",
    [
        ([], "not tested"),
        ([("a", "passed")], "reached"),
        ([("a", "begun"), ("a", "passed")], "reached"),
        ([("a", "passed"), ("b", "failed")], "**failed** (1 of 2 tests)"),
        ([("a", "passed"), ("a", "failed")], "**failed** (1 of 1 tests)"),  # on its way out
        ([("a", "failed"), ("a", "passed")], "reached"),  # measured anew
        ([("a", "passed"), ("b", "begun")], "**not finished** (1 of 2 tests)"),
        ([("a", "skipped", "no strace")], "skipped: no strace"),
        ([("a", "passed"), ("b", "skipped", "no x")], "reached (1 skipped: no x)"),
        ([("a", "failed"), ("b", "skipped", "no x")], "**failed** (1 of 2 tests)"),
        ([("a", "passed", "", "5 of 9")], "held at 5 of 9 asked"),
        (
            [("a", "passed", "", "5 of 9"), ("b", "skipped", "no x")],
            "held at 5 of 9 asked (1 skipped: no x)",
        ),
    ],
)
def test_verdicts(lines, verdict, tmp_path):
    path = tmp_path / "results"
    with path.open("w") as file:
        for test, end, *more in lines:
            file.write(outcome(test, end, **dict(zip(("reason", "short"), more))))
        file.write(outcome("other", "failed", goal="G7"))
    (row,) = [line for line in goals.table(path).splitlines() if line.startswith("| G4 |")]
    assert row.endswith(f" | {verdict} |")


def test_what_was_measured_stands_beside_what_was_asked(tmp_path):
    path = tmp_path / "results"
    path.write_text(outcome("a", "passed", "one") + outcome("b", "passed", "two", "one"))
    row = next(line for line in goals.table(path).splitlines() if line.startswith("| G4 |"))
    what, asked = goals.GOALS["G4"]
    assert row == f"| G4 | {what} | {asked} | one; two | reached |"


TESTS = """
import os, pytest

@pytest.fixture
def early():
    raise OSError("no folder")

@pytest.fixture
def late():
    yield
    raise OSError("not empty")

@pytest.mark.goal("G1")
def test_setup(early): pass

@pytest.mark.goal("G2")
def test_teardown(late): pass

@pytest.mark.goal("G3")
def test_skipped(): pytest.skip("no strace")

@pytest.mark.goal("G5")
def test_partly(measured): measured("all", made=5, asked=9)

@pytest.mark.goal("G6")
def test_whole(measured): measured("all", made=9, asked=9)

@pytest.mark.goal("G7")
def test_ends_everything(): os._exit(9)

@pytest.mark.goal("G8")
def test_never_begun(): pass
"""


def test_each_way_to_end_is_recorded(tmp_path):
    path, results = tmp_path / "test_ends.py", tmp_path / "results"
    path.write_text(TESTS)
    environment = os.environ | {"PYTHONPATH": str(HERE), goals.RESULTS: str(results)}
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", path]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 9, done.stdout
    rows = [line.split(" | ") for line in goals.table(results).splitlines()[2:]]
    verdicts = {row[0].strip("| "): row[-1].removesuffix(" |") for row in rows}
    assert {goal: verdicts[goal] for goal in ("G1", "G2", "G3", "G5", "G6", "G7", "G8")} == {
        "G1": "**failed** (1 of 1 tests)",
        "G2": "**failed** (1 of 1 tests)",
        "G3": "skipped: no strace",
        "G5": "held at 5 of 9 asked",
        "G6": "reached",
        "G7": "**not finished** (1 of 1 tests)",
        "G8": "**not finished** (1 of 1 tests)",
    }
