"""Files that want to do harm, and files that were harmed."""

import json
import pathlib
import re
import subprocess
import sys
from concurrent import futures

import goals
import pytest
from hostile import LONG

PROGRAM = pathlib.Path(__file__).with_name("opening.py")
UNSAFE = ("weights_only", "unsafe", "allow_pickle", "trust_remote", "--force")


def opened(*arguments, seconds=900):
    """The program's JSON lines; it must end well, and by itself: nothing may wait for ever."""
    command = [sys.executable, PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="session")
def hostile(made_once):
    """hostile(which): what became of the "quick" ones or of all "hostile" ones, each opened once."""

    def of(which):
        def make(folder):
            lines = opened(which, folder, seconds=120)
            (folder / "lines.json").write_text(json.dumps(lines))

        return json.loads((made_once(which, make) / "lines.json").read_text())

    return of


# All but those that take long by default; all in the fuzz tier.
which = pytest.mark.parametrize(
    "which",
    ["quick", pytest.param("hostile", marks=[pytest.mark.fuzz, pytest.mark.goal("G22")])],
)


@which
def test_no_hostile_file_runs_anything(hostile, which):
    names = [line["name"] for line in hostile(which)]
    assert len(names) >= 400 and len(set(names)) == len(names)
    assert LONG.isdisjoint(names) if which == "quick" else LONG.issubset(names)
    assert not any(line["canary"] for line in hostile(which))


@which
def test_each_is_refused_in_one_line_or_loads_as_it_should(hostile, which):
    wrong = []
    for line in hostile(which):
        refusal = line["refusal"]
        if not line["expected"]:
            right = refusal is None and line["tensors"] == 1
        else:
            right = (
                refusal is not None
                and refusal.startswith(f"{line['path']}: ")
                and refusal.isprintable()
                and len(refusal) < 500
                and re.search(line["expected"], refusal)
                and not any(word in refusal for word in UNSAFE)
            )
        if not right:
            wrong.append(line)
    assert not wrong, "\n".join(map(str, wrong))


@which
def test_none_takes_long_or_much(hostile, which, measured):
    lines = hostile(which)
    slowest = max(lines, key=lambda line: line["seconds"])
    most = max(line["rss"] for line in lines)
    refused = sum(line["refusal"] is not None for line in lines)
    assert slowest["seconds"] < 3, slowest
    assert most < 512 << 20
    measured(
        f"{len(lines)} kinds: {refused} refused in one line, {len(lines) - refused} odd but "
        f"right, 0 ran code; slowest {slowest['seconds']:.1f} s of processor time "
        f"({slowest['name']}), at most {most >> 20} MiB"
    )


@pytest.mark.parametrize(
    "count",
    [
        1000,
        pytest.param(
            goals.size(10_000, 500_000), marks=[pytest.mark.fuzz, pytest.mark.goal("G23")]
        ),
    ],
)
def test_damaged_files_are_refused_or_the_same(count, tmp_path, rotating_seed, measured):
    """At full size by two processes, each with a seed of its own."""
    seeds = (rotating_seed, rotating_seed + 1) if goals.SOAK else (rotating_seed,)
    folders = [tmp_path / str(seed) for seed in seeds]
    for folder in folders:
        folder.mkdir()
    with futures.ThreadPoolExecutor() as pool:
        tasks = [("damaged", folder, count, seed) for folder, seed in zip(folders, seeds)]
        found = [each for (each,) in pool.map(lambda task: opened(*task, seconds=1800), tasks)]
    for each, seed in zip(found, seeds):
        assert each["different"] == [], seed
        assert each["slowest"] < 0.1, each
        assert each["rss"] < 512 << 20
        # The mutations are neither all noticed by luck nor all harmless.
        assert each["raw same"] > count // 100 and each["made read"] > count // 100
    total = {
        key: sum(each[key] for each in found) for key in ("raw", "raw same", "made", "made read")
    }
    measured(
        f"{total['raw']:,} damaged: {total['raw same']:,} as they were, the others refused, 0 "
        f"different; {total['made']:,} damaged by one who knows the format: {total['made read']:,} "
        f"read, the others refused; 0 crashes, slowest "
        f"{max(each['slowest'] for each in found) * 1000:.0f} ms, at most "
        f"{max(each['rss'] for each in found) >> 20} MiB (seeds {', '.join(map(str, seeds))})"
    )
