"""What runs must survive: the goals by number, what tests of them measured, and the table of docs/running.md.

    python tests/goals.py RESULTS.jsonl    writes the table into docs/running.md, and prints it

A test says `@pytest.mark.goal("G4")` and `measured("1,000 of 1,000 refused or exact")`; with IBJ_SOAK=1
it does so at full size (`size`). Where that is less than the goal asks for, it says so, too:
`measured("1,000 refused or exact", made=1_000, asked=5_000)`.
"""

import json
import os
import pathlib
import sys

SOAK = bool(os.environ.get("IBJ_SOAK"))
RESULTS = "IBJ_RESULTS"  # the file that outcomes are appended to
BEGUN = "begun"  # the outcome of a test that is still to end, or never did
PAGE = pathlib.Path(__file__).parent.parent / "docs" / "running.md"
BEGIN, END = "<!-- goals: written by `make soak` -->", "<!-- goals end -->"

GOALS = {
    "G1": ("kill -9 at any moment of a run that saves", "200 kills: every listed step restores bit for bit, none told is lost, nothing half-written stays"),
    "G2": ("kill at every system call of a save and of a deletion", "0 listed steps that cannot be restored"),
    "G3": ("one of two hosts killed in the middle of a save", "20 kills: 0 bad restores, the other is out within heartbeat + 3 s"),
    "G4": ("damaged checkpoint files", "5,000 mutants: exact values or one line, 0 silent wrong loads"),
    "G5": ("the newest checkpoint is damaged", "one line, the one before is used, exit 0; with `--no-fallback` 4; all hosts agree"),
    "G6": ("the disk is full during a save", "the run goes on, one line each, nothing committed is lost, remains are gone; 3 in a row: exit 5"),
    "G7": ("resume on the same devices", "losses and state bitwise equal, whole, in halves and after kills (200 of 200)"),
    "G8": ("resume on 8, 4, 2, 1, 8 devices, and another parallelism", "same records; losses within 1e-5, parameters within 1e-6"),
    "G9": ("batches are a function of (seed, step)", "20 combinations of hosts, workers and restarts: the same bytes"),
    "G10": ("an epoch over kills and reshapes", "20 reshapes: every record exactly once"),
    "G11": ("a host dies", "others out within heartbeat + 3 s, exit 70, one line last"),
    "G12": ("a host raises", "all out within 15 s; its own error is shown"),
    "G13": ("a host is alive but stuck", "all out within 1.25 T + 3 s, exit 76, every thread's stack"),
    "G14": ("a host never comes", "out within the wait + 6 s, saying how many of how many came"),
    "G15": ("SIGTERM, to any host", "all stop at one step, saved, exit 0, within 5 s; nothing is lost; a second signal ends at once"),
    "G16": ("two trainers on one folder", "the second: exit 2 within 2 s, naming who holds it; a dead one's lock is free"),
    "G17": ("damaged media", "40,000 mutants of every format: one line each, at most 2 s and 1 GiB"),
    "G18": ("hostile media", "30 named kinds: each its documented answer"),
    "G19": ("a decoder that crashes or hangs", "the run ends within 3 s (or the patience) and names the file"),
    "G20": ("a trainer that ends, however", "3 s later no process and no shared memory of it is left"),
    "G21": ("records that cannot be used", "batches keep shape and order; counted, named, too many: exit 3"),
    "G22": ("hostile .pth files", "64 kinds: no code run, no crash, at most 512 MiB and 3 s, one line"),
    "G23": ("damaged .pth files", "1,000,000 mutants: 0 crashes, 0 silently different"),
    "G24": (".pth files as torch reads them", "200 random files and a golden set: bitwise equal"),
    "G25": ("nothing in a file of data can run", "0 calls that could, in the whole package"),
    "G26": ("files that we write", "300 mutants of each kind: 0 silent"),
    "G27": ("NaN or infinity in batch, loss or gradient", "state bitwise unchanged, counted, next step normal; 10 in a row: exit 6"),
    "G28": ("replicas that should agree", "one flipped bit is named with leaf and host within K steps; under 1 % of the time at K = 100"),
    "G29": ("exit codes and last lines", "every failing end: its documented code, one `error:` line, no traceback"),
    "G30": ("damaged compile cache", "20 damaged entries: the same result; private, keyed, one line where it cannot be used"),
    "G31": ("hostile uploads to the demo page", "5,000 mutated uploads: no crash, no path leaves the folder"),
    "G32": ("a killed or damaged index of embeddings", "the old one still answers; 0 silent"),
    "G33": ("where the time went", "sums to the wall time within 1 %; restart to first step within 20 s"),
}  # fmt: skip
OF_ALL = "G29"  # what its tests have measured stands at another goal of theirs


def size(in_ci: int, in_soak: int) -> int:
    """How many of something a test makes."""
    return in_soak if SOAK else in_ci


def within(seconds: float) -> float:
    """The bound of a goal; in CI, where others may have the cores, four times that."""
    return seconds if SOAK else 4 * seconds


def table(path: pathlib.Path) -> str:
    """Of the outcomes in a file, one JSON object a line, the last of each test."""
    last = {}
    for line in path.read_text().splitlines():
        outcome = json.loads(line)
        last[outcome["test"]] = outcome
    rows = ["| goal | what happens | asked | measured | verdict |", "|---|---|---|---|---|"]
    for goal, (what, asked) in GOALS.items():
        mine = [each for each in last.values() if goal in each["goals"]]
        said = "; ".join(dict.fromkeys(text for each in mine for text in each["measured"]))
        if not said or goal == OF_ALL:
            said = f"{len(mine)} tests"
        rows.append(f"| {goal} | {what} | {asked} | {said} | {verdict(goal, mine)} |")
    return "\n".join(rows)


def verdict(goal: str, mine: list[dict]) -> str:
    """Of a goal, by the outcomes of its tests: the worst of them, and what they leave open."""
    tests: dict[str, list[dict]] = {}
    for each in mine:
        tests.setdefault(each["outcome"], []).append(each)
    if "failed" in tests:
        return f"**failed** ({len(tests['failed'])} of {len(mine)} tests)"
    if BEGUN in tests:
        return f"**not finished** ({len(tests[BEGUN])} of {len(mine)} tests)"
    skipped = tests.get("skipped", [])
    why = "; ".join(dict.fromkeys(each["reason"] for each in skipped))
    if "passed" not in tests:
        return f"skipped: {why}" if skipped else "not tested"
    short = list(dict.fromkeys(each["short"] for each in mine if each.get("short")))
    reached = f"held at {', '.join(short)} asked" if short else "reached"
    return reached + (f" ({len(skipped)} skipped: {why})" if skipped else "")


def write(path: pathlib.Path) -> str:
    """The table, which takes its place in the page."""
    made = table(path)
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}")
    return made


if __name__ == "__main__":
    print(write(pathlib.Path(sys.argv[1])))
