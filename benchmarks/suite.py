"""Print where the tests' time goes: a table by file and the dearest tests, of pytest's own record.

make test-all TESTS="--junitxml=suite.xml" && python benchmarks/suite.py suite.xml
"""

import argparse
import collections
import pathlib
import xml.etree.ElementTree as ElementTree

import rich.console
import rich.table


def read(path: pathlib.Path) -> list[tuple[str, str, float]]:
    """Return (file, test, seconds) of each test, with what its fixtures took."""
    cases = ElementTree.parse(path).getroot().iter("testcase")
    found = []
    for case in cases:
        parts = case.attrib["classname"].split(".")
        found.append(("/".join(parts), case.attrib["name"], float(case.attrib["time"])))
    return found


def by_file(tests: list[tuple[str, str, float]]) -> list[tuple[str, int, float, float]]:
    """Return (file, tests, seconds, the longest test's seconds), the dearest file first."""
    files = collections.defaultdict(list)
    for file, _, seconds in tests:
        files[file].append(seconds)
    rows = [(file, len(each), sum(each), max(each)) for file, each in files.items()]
    return sorted(rows, key=lambda row: -row[2])


def table(title: str, columns: list[str], rows: list) -> rich.table.Table:
    """Return a table in Markdown's form, so that it can be copied into BENCHMARKS.md."""
    made = rich.table.Table(title=title, title_justify="left", box=rich.box.MARKDOWN)
    for name in columns:
        made.add_column(name, no_wrap=True)
    for row in rows:
        made.add_row(*(f"{each:.1f}" if isinstance(each, float) else str(each) for each in row))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=pathlib.Path, help="what pytest --junitxml wrote")
    parser.add_argument("--files", type=int, default=200, help="how many files")
    parser.add_argument("--tests", type=int, default=50, help="how many tests")
    options = parser.parse_args()
    tests = read(options.record)
    console = rich.console.Console(width=200)
    total = sum(seconds for *_, seconds in tests)
    console.print(f"{len(tests)} tests, {total:.0f} s of one core's time or waiting")
    files = by_file(tests)[: options.files]
    console.print(table("By file", ["file", "tests", "s", "longest, s"], files))
    dearest = sorted(tests, key=lambda test: -test[2])[: options.tests]
    console.print(table("The dearest tests", ["file", "test", "s"], dearest))


if __name__ == "__main__":
    main()
