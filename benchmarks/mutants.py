"""Would the tests notice? Puts bugs in, one at a time (`mutants_table.py`), and runs the tests on each.

    python benchmarks/mutants.py --check              every bug's text is there once, and compiles
    python benchmarks/mutants.py map                  all tests once, without a bug: which line is whose
    python benchmarks/mutants.py [NAME ...]           those bugs, or all that have no result yet
    python benchmarks/mutants.py --report             the table, in Markdown

All runs are in copies of the tracked files, and of those that git does not ignore. A bug meets the tests
that run its lines: first the most specific ones, then the others, with --whole all. One in no function,
or run in child processes alone, meets all tests of the files of tests that run anything of its file. The
first test that fails, and passes without the bug, has found it; so has one that never ends. Bugs come in
an order that is random, but always the same: those done so far stand for all. Needs pytest-cov.
"""

import argparse
import concurrent.futures
import contextlib
import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import time

from mutants_map import Map, Trouble, lines_of, mutated
from mutants_place import ROOT, Place, end_all, places
from mutants_table import MUTANTS, Mutant

TIERS = {"default": (), "all": ("-m", "")}  # what pytest is told, to run which tests
UNSEEN = "no test runs it"
PATIENCE = 180.0  # seconds without the end of any test, at least, after which it hangs
BY_NAME = {mutant.name: mutant for mutant in MUTANTS}


def make_map(out: pathlib.Path, jobs: int, chosen: tuple[str, ...], tests: list[str]) -> None:
    """Runs the tests once as they are; `Map` reads what this leaves. Raises Trouble."""
    with places(1) as [place]:
        measured = (
            "--cov",
            f"--cov-config={place.coverage}",
            "--cov-context=test",
            "--cov-report=",
        )
        spread = ("-n", str(jobs), "--dist", "worksteal")
        log, said = out / "map.log", out / "tests.jsonl"
        (out / "coverage").unlink(missing_ok=True)
        code = place.run(log, said, *measured, *spread, *chosen, *tests)
        if code not in (0, 1) or not (place.folder / "coverage").exists():
            raise Trouble(f"pytest ended with {code}, and there is no map: see {log}")
        shutil.copy(place.folder / "coverage", out / "coverage")
    made = Map(out)
    print(f"{len(made.seconds)} tests passed")
    for test in sorted(made.failing):
        print(f"left out, as it fails without a bug: {test}")


def hunt(mutant: Mutant, place: Place, made: Map, out: pathlib.Path, options) -> dict:
    """What became of one bug: how it was found, by which test, in how many seconds."""
    begun, (text, changed) = time.monotonic(), mutated(mutant, place.copy)
    said, log = place.folder / "said.jsonl", out / "logs" / f"{mutant.name}.txt"
    left_out, ran = set(made.failing), 0

    def ended(how: str, test: str = "") -> dict:
        seconds = round(time.monotonic() - begun, 1)
        found = how not in ("survived", "time over", UNSEEN)
        return {"name": mutant.name, "key": key_of(mutant), "found": found, "how": how,
                "test": test, "seconds": seconds, "ran": ran}  # fmt: skip

    for stage in made.stages(mutant, text, options.whole):
        while tests := [test for test in stage if test not in left_out]:
            files = dict.fromkeys(test.partition("::")[0] for test in tests)
            patience = max(PATIENCE, 10 * max(made.seconds[test] for test in tests))
            limits = {"tests": tests, "until": begun + options.timeout, "patience": patience}
            place.write(mutant.file, changed)
            try:
                code = place.run(log, said, "-x", "-m", "", *files, **limits)
            finally:
                place.write(mutant.file, text)
            told = lines_of(said)
            ran += len({line["test"] for line in told})
            failed = next((line for line in told if line["outcome"] == "failed"), None)
            if isinstance(code, str):
                return ended(code, told[-1]["test"] if told else "")
            if failed is None and code in (0, 5):
                break
            if failed is None or failed["when"] == "collect":
                said_last = failed["test"] if failed else f"exit code {code}"
                return ended("no test can be run", said_last)
            alone = {"tests": [failed["test"]], "patience": patience}
            log_alone, file = log.with_suffix(".without.txt"), failed["test"].partition("::")[0]
            if place.run(log_alone, said, "-m", "", file, **alone) == 0:
                log_alone.unlink()
                return ended("test", failed["test"])
            left_out.update(line["test"] for line in told)  # the last fails without the bug, too
    return ended("survived" if ran else UNSEEN)


def key_of(mutant: Mutant) -> str:
    return hashlib.sha256(repr(mutant).encode()).hexdigest()[:12]


def results(out: pathlib.Path) -> dict[str, dict]:
    """The last result of every bug that is still in the table as it was."""
    found = {line["name"]: line for line in lines_of(out / "results.jsonl")}
    return {m.name: found[m.name] for m in MUTANTS if found.get(m.name, {}).get("key") == key_of(m)}


def hunt_all(out: pathlib.Path, options: argparse.Namespace) -> None:
    made, done = Map(out), results(out).keys() - set(options.again)
    wanted = [BY_NAME[name] for name in {*options.names, *options.again} or BY_NAME]
    todo = [each for each in sorted(wanted, key=key_of) if each.name not in done]
    (out / "logs").mkdir(exist_ok=True)
    for mutant in todo:
        mutated(mutant, ROOT)
    _ = made.breadth  # once, before there are threads
    with places(min(options.jobs, len(todo))) as free, contextlib.ExitStack() as stack:
        pool = stack.enter_context(concurrent.futures.ThreadPoolExecutor(options.jobs))

        def one(mutant: Mutant) -> dict:
            place = free.pop()
            try:
                return hunt(mutant, place, made, out, options)
            finally:
                free.append(place)

        futures = [pool.submit(one, mutant) for mutant in todo]
        try:
            for i, future in enumerate(concurrent.futures.as_completed(futures), 1):
                line = future.result()
                with (out / "results.jsonl").open("a") as file:
                    file.write(json.dumps(line) + "\n")
                print(f"{i} of {len(todo)}  {line['name']}: {line['how']} {line['test']}"
                      f"  ({line['seconds']:.0f} s, {line['ran']} tests)", flush=True)  # fmt: skip
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise


def report(out: pathlib.Path) -> None:
    found = results(out)
    print("| bug | what it is | found by |\n|---|---|---|")
    for mutant in MUTANTS:
        if line := found.get(mutant.name):
            how = line["how"] if not line["test"] or not line["found"] else f"`{line['test']}`"
            how += " (hangs)" if line["how"] == "hangs" and line["test"] else ""
            cells = (f"`{mutant.name}`", mutant.what, how if line["found"] else f"**{how}**")
            print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    print(f"\n{sum(line['found'] for line in found.values())} of {len(found)} found"
          f" ({len(MUTANTS) - len(found)} not tried)")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="of bugs; or the word map")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument(
        "--again", action="append", default=[], metavar="NAME", help="although done"
    )
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "out/mutants")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--whole", action="store_true", help="in the end all tests")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds for one bug")
    parser.add_argument("--tiers", choices=TIERS, default="default", help="map: which tests")
    parser.add_argument("--marker", help="map: which tests, in pytest's words")
    parser.add_argument(
        "--tests", nargs="+", default=[], metavar="PATH", help="map: of these alone"
    )
    options = parser.parse_args()
    out = options.out.absolute()
    try:
        if unknown := {*options.names, *options.again} - {*BY_NAME, "map"}:
            raise Trouble(f"no bug {sorted(unknown)[0]!r} in mutants_table.py")
        if len(BY_NAME) < len(MUTANTS):
            raise Trouble("two bugs have the same name")
        if options.check:
            for mutant in MUTANTS:
                mutated(mutant, ROOT)
            print(f"{len(MUTANTS)} bugs: each one's text is there once, and compiles")
        elif options.report:
            report(out)
        else:
            out.mkdir(parents=True, exist_ok=True)
            if options.names == ["map"]:
                chosen = ("-m", options.marker) if options.marker else TIERS[options.tiers]
                make_map(out, options.jobs, chosen, options.tests)
            else:
                hunt_all(out, options)
        return 0
    except (Trouble, OSError, ImportError, subprocess.SubprocessError) as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mutants: stopped; the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
