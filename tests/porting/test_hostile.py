"""Files that want to do harm, and files that were harmed."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).with_name("opening.py")
SOAK = os.environ.get("IBJ_SOAK") == "1"
UNSAFE = ("weights_only", "unsafe", "allow_pickle", "trust_remote", "--force")


def opened(*arguments, seconds=900):
    """The program's JSON lines; it must end well, and by itself: nothing may wait for ever."""
    command = [sys.executable, PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    return opened("hostile", tmp_path_factory.mktemp("hostile"), seconds=120)


def test_no_hostile_file_runs_anything(hostile):
    assert len(hostile) >= 64
    assert len({line["name"] for line in hostile}) == len(hostile)
    assert not any(line["canary"] for line in hostile)


def test_each_is_refused_in_one_line_or_loads_as_it_should(hostile):
    wrong = []
    for line in hostile:
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


def test_none_takes_long_or_much(hostile):
    slowest = max(hostile, key=lambda line: line["seconds"])
    most = max(line["rss"] for line in hostile)
    refused = sum(line["refusal"] is not None for line in hostile)
    print(
        f"G22: {len(hostile)} hostile files, {refused} refused, {len(hostile) - refused} odd but "
        f"right, 0 ran code; slowest {slowest['seconds']:.2f} s of CPU ({slowest['name']}), "
        f"RSS {most >> 20} MiB"
    )
    assert slowest["seconds"] < 3, slowest
    assert most < 512 << 20


def test_damaged_files_are_refused_or_the_same(tmp_path):
    count, seed = (200_000, os.getpid()) if SOAK else (10_000, 0)
    (found,) = opened("damaged", tmp_path, count, seed)
    print(
        f"G23: {found['raw']} damaged files: {found['raw same']} as they were, the rest refused, 0 "
        f"silently different; {found['made']} damaged on purpose: {found['made read']} read, the "
        f"rest refused; 0 crashes in {found['seconds']:.1f} s (seed {seed}), slowest "
        f"{found['slowest'] * 1000:.0f} ms of CPU, RSS {found['rss'] >> 20} MiB"
    )
    assert found["different"] == []
    assert found["slowest"] < 0.1, found
    assert found["rss"] < 512 << 20
    # The mutations are neither all noticed by luck nor all harmless.
    assert found["raw same"] > count // 100 and found["made read"] > count // 100
