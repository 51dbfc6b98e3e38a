"""`imagebind-jax prepare`: killed anywhere, it goes on; what is damaged or left out is counted and named."""

import dataclasses
import errno
import fcntl
import functools
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import soundfile
from PIL import Image

import imagebind_jax.data
from imagebind_jax import cli
from imagebind_jax.errors import UserError
from imagebind_jax.inputs import datasets
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.sources import Prepared, prepared
from imagebind_jax.prepare import run as prepare
from imagebind_jax.prepare import shards as prepare_shards

BUILDER = '''
"""A dataset of a test: list.txt names split and file; each file's record is as it is."""

import os
import time

from imagebind_jax.inputs.datasets import Dataset, DatasetListing, inline_files


def listing(download):
    splits = {}
    for line in (download / "list.txt").read_text().splitlines():
        split, name = line.split()
        row = {"id": name, "audio": download / "media" / name, "label": int(split == "test")}
        splits.setdefault(split, []).append(row)
    return DatasetListing(splits, ("a", "b"), ("the sound of {}",), {"train": 2}, ("a note",))


def slow(row):
    """The last file of all takes forever: somebody can come and kill its process."""
    if row["id"] in os.environ.get("FOREVER", "").split():
        open(f"{os.environ['PIDS']}/{os.getpid()}", "w").close()
        time.sleep(600)
    return inline_files(row)


DATASET = Dataset(
    name="toy",
    title="A toy",
    licence="none",
    homepage="https://toys.example",
    modalities=("audio",),
    listing=listing,
    record=RECORD,
)
'''
SAMPLE = """
def write(folder):
    (folder / "media").mkdir()
    (folder / "media" / "x").write_bytes(b"fLaCxxxxxx")
    (folder / "list.txt").write_text("test x\\n")
"""
TRAIN, TEST = 7, 3  # samples


def content(name):
    return b"fLaC" + name.encode() * 98


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The folder of a dataset that is found like those of the package; records are three a shard."""
    folder = tmp_path / "datasets" / "toy"
    (folder / "sample").mkdir(parents=True)
    (folder / "builder.py").write_text(BUILDER.replace("RECORD", "inline_files"))
    (folder / "sample" / "__init__.py").write_text(SAMPLE)
    path = [*imagebind_jax.data.__path__, str(folder.parent)]
    monkeypatch.setattr(imagebind_jax.data, "__path__", path)
    monkeypatch.setattr(prepare_shards, "RECORDS", 3)
    yield folder
    for name in [name for name in sys.modules if name.startswith("imagebind_jax.data.toy")]:
        del sys.modules[name]
    vars(imagebind_jax.data).pop("toy", None)


@pytest.fixture
def download(tmp_path):
    folder = tmp_path / "download"
    (folder / "media").mkdir(parents=True)
    lines = [f"train t{i}" for i in range(TRAIN)] + [f"test e{i}" for i in range(TEST)]
    (folder / "list.txt").write_text("\n".join(lines))
    for line in lines:
        name = line.split()[1]
        (folder / "media" / name).write_bytes(content(name))
    return folder


@pytest.fixture
def run(toy, download, tmp_path, monkeypatch):
    """Prepares the toy in this process; what it said, and the files that it made shards of."""
    made, write = [], prepare_shards.write_and_record_shard
    monkeypatch.setattr(
        prepare_shards,
        "write_and_record_shard",
        lambda name, search, part, out: made.append(part.file) or write(name, search, part, out),
    )

    def run(out=tmp_path / "out", **options):
        made.clear()
        said = []
        prepare.prepare_dataset("toy", download, out, workers=1, say=said.append, **options)
        return said, [file.removesuffix(".array_record") for file in made]

    return run


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def tree(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def ids(folder, split):
    return [record["id"] for record in Prepared(folder, split).open()]


def unreadable(out):
    return [json.loads(line) for line in (out / "missing.jsonl").read_text().splitlines()]


ALL = ["train-00000", "train-00001", "train-00002", "test-00000"]


def test_records_are_what_the_download_holds(run, out):
    said, made = run()
    assert made == ALL
    assert "note: a note" in said
    assert "train: 7 records, 2 missing from the download, 0 unreadable" in said
    assert said[-1] == f"{out} is prepared; licence: none"
    wanted = [{"id": f"t{i}", "audio": content(f"t{i}"), "label": 0} for i in range(TRAIN)]
    assert list(Prepared(out).open()) == wanted
    assert ids(out, "test") == ["e0", "e1", "e2"]
    facts = json.loads((out / "dataset.json").read_text())
    assert (facts["classes"], facts["prompts"]) == (["a", "b"], ["the sound of {}"])
    train = facts["splits"]["train"]
    assert (train["count"], train["missing"], train["unreadable"]) == (7, 2, 0)
    assert [shard["count"] for shard in train["shards"]] == [3, 3, 1]
    assert prepared.read_dataset_info(out).licence == "none"
    shards = {f"{name}.array_record" for name in ALL}
    assert tree(out).keys() == {"dataset.json", "missing.jsonl", ".lock"} | shards
    assert not (out / ".prepare").exists()


def test_what_is_done_is_not_done_again(run, out):
    run()
    before = {p: p.stat().st_mtime_ns for p in out.iterdir() if p.name != ".lock"}
    assert run() == ([f"{out} is prepared already"], [])
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_large_files_make_small_shards(run, monkeypatch):
    monkeypatch.setattr(prepare_shards, "BYTES", 450)  # of two files of 200 bytes
    assert len(run()[1]) == 4 + 2


def test_splits_can_follow_one_another(run, out):
    assert run(splits=("test",))[1] == ["test-00000"]
    first = tree(out)["test-00000.array_record"]
    assert run()[1] == ALL[:3]
    assert tree(out)["test-00000.array_record"] == first
    assert ids(out, "test") == ["e0", "e1", "e2"]
    assert len(ids(out, "train")) == TRAIN
    assert run(splits=("train",))[1] == []


# ---- stopped, and gone on


class Killed(BaseException):
    """What no part of the program catches."""


def stop_after(monkeypatch, file):
    """The part after this one kills the process, as far as one that lives on can be killed."""
    write = prepare_shards.write_and_record_shard

    def killed(name, search, part, out):
        if part.file != file:
            return write(name, search, part, out)
        (out / f"{file}.partial").write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(prepare_shards, "write_and_record_shard", killed)


def test_a_stopped_preparation_goes_on_with_what_is_left(run, out, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, "train-00002.array_record")
        with pytest.raises(Killed):
            run()
    with pytest.raises(UserError, match="holds no dataset.json: it is not prepared, or not to its"):
        Prepared(out).open()
    # Another split may be made first: what was begun is kept.
    assert run(splits=("test",))[1] == ["test-00000"]
    assert ids(out, "test") == ["e0", "e1", "e2"]
    said, made = run()
    assert made == ["train-00002"]
    assert "goes on: 3 of 4 shards are there" in said
    run(tmp_path / "other")
    assert tree(out).keys() == tree(tmp_path / "other").keys()
    for name, data in tree(tmp_path / "other").items():
        if name.endswith(".array_record"):
            assert tree(out)[name] == data


def test_a_shard_is_entered_once_a_power_cut_cannot_take_its_name(run, out, monkeypatch):
    safe, entered = set(), []

    def synced(descriptor, fsync=os.fsync):
        fsync(descriptor)
        if os.path.samestat(os.fstat(descriptor), out.stat()):
            safe.update(os.listdir(descriptor))

    def enter(folder, done, enter=prepare_shards.record_shard):
        entered.append((done.shard.file, done.shard.file in safe))
        enter(folder, done)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(prepare_shards, "record_shard", enter)
    run()
    assert entered == [(f"{name}.array_record", True) for name in ALL]
    assert "dataset.json" in safe


def test_other_files_are_noticed(run, out, download, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, "train-00002.array_record")
        with pytest.raises(Killed):
            run()
    (download / "media" / "t4").write_bytes(b"fLaC" + b"longer than it was" * 100)
    said, made = run()
    assert made == ["train-00001", "train-00002", "test-00000"]
    assert said[0].startswith("1 shards are of other rows or files, or by another version of the")
    before = tree(out)
    (download / "media" / "t4").write_bytes(b"and another")
    with pytest.raises(
        UserError, match="holds train of other rows or files, .*: remove it, or choose"
    ):
        run()
    assert tree(out) == before


def test_fewer_rows_leave_no_shard_behind(run, out, download, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, "test-00000.array_record")
        with pytest.raises(Killed):
            run()
    (download / "list.txt").write_text("train t0\ntest e0")
    assert run()[1] == ["train-00000", "test-00000"]
    assert sorted(p.name for p in out.glob("*.array_record")) == [
        "test-00000.array_record", "train-00000.array_record",
    ]  # fmt: skip
    assert not (out / ".prepare").exists()


def test_another_builder_is_noticed(run, toy):
    run()
    path = toy / "builder.py"
    path.write_text(path.read_text() + "# another version\n")
    with pytest.raises(UserError, match="another version of the builder"):
        run()


def test_another_version_of_what_a_builder_imports_is_noticed(run, toy):
    (toy / "more.py").write_text("from imagebind_jax.data.toy.most import record\n")
    (toy / "most.py").write_text(
        "from imagebind_jax.inputs.datasets import inline_files as record\n"
    )
    text = (toy / "builder.py").read_text() + "from imagebind_jax.data.toy import more\n"
    (toy / "builder.py").write_text(text)
    (toy / "most.py").write_text("def record(row):\n    return row\n")
    run()
    assert b"return row" in datasets.builder_source("toy")
    (toy / "most.py").write_text("def record(row):\n    return {}\n")
    with pytest.raises(UserError, match="another version of the builder"):
        run()


def test_what_is_said_of_the_records_is_kept_up_to_date(run, out, monkeypatch):
    run()
    before, listing = tree(out), datasets.get_dataset("toy").listing

    def told(download):
        return dataclasses.replace(listing(download), prompts=("a {}",), names={"a": ["b", "c"]})

    dataset = dataclasses.replace(datasets.get_dataset("toy"), listing=told)
    monkeypatch.setattr(datasets, "get_dataset", lambda name: dataset)
    assert run() == ([f"{out} is prepared already"], [])
    assert (prepared.read_dataset_info(out).prompts, prepared.read_dataset_info(out).names) == (
        ["a {}"],
        {"a": ["b", "c"]},
    )
    assert {name for name, data in tree(out).items() if data != before[name]} == {"dataset.json"}


def test_a_lost_shard_is_made_again_and_no_other(run, out):
    run()
    before = tree(out)
    (out / "train-00001.array_record").unlink()
    (out / "test-00000.array_record").write_bytes(b"cut")
    with pytest.raises(UserError, match="train-00001.array_record is missing or damaged"):
        Prepared(out).open()
    assert run()[1] == ["train-00001", "test-00000"]
    assert tree(out) == before


CRASHES = """
import contextlib, os, pathlib, shutil, signal, sys, traceback

import array_record.python.array_record_module  # once, and not in each child
import imagebind_jax.data
from imagebind_jax.errors import UserError
from imagebind_jax.inputs import datasets
from imagebind_jax.prepare import shards
from imagebind_jax.inputs.sources import Prepared
from imagebind_jax.prepare.run import prepare_dataset

toy, download, folder, stride = sys.argv[1:]
imagebind_jax.data.__path__.append(toy)
datasets.get_dataset("toy")
shards.RECORDS = 7
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}

def in_child(work, *arguments):
    # The parent itself never touches a shard: what does has threads, and cannot be forked.
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        work(*arguments)
    except BaseException:
        traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        os._exit(1)
    os._exit(0)

def run(out, kill_at=None):
    # kill_at: the number of the change to the disk that the process does not live to.
    left = kill_at
    def hook(event, arguments):
        nonlocal left
        reads = event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if left and event in EVENTS and not reads and str(arguments[0]).startswith(out):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    sys.stderr = open(os.devnull, "w")
    prepare_dataset("toy", download, out, workers=1, allow_missing=0.1, say=lambda line: None)

def check(out, goes_on):
    with contextlib.suppress(UserError):  # not there
        found = [[record["id"] for record in Prepared(out, s).open()] for s in ("train", "test")]
        assert found == [["t0", "t1", "t2", "t4", "t5", "t6"], ["e0", "e1", "e2"]], found
    if goes_on:
        run(out)
        check(out, False)
        assert tree(out) == tree(f"{folder}/whole"), "not the same files"

def tree(out):
    return {p.name: p.read_bytes() for p in pathlib.Path(out).iterdir()}

os.mkdir(folder)
assert in_child(run, f"{folder}/whole") == 0
step = 1
while (status := in_child(run, f"{folder}/{step}", step)) == signal.SIGKILL:
    assert in_child(check, f"{folder}/{step}", True) == 0, step
    shutil.rmtree(f"{folder}/{step}", ignore_errors=True)
    step += int(stride)
assert status == 0, (step, status)
print(step)
"""


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.processes)])
def test_killed_at_any_step_the_same_command_goes_on(stride, toy, download, tmp_path):
    (download / "media" / "t3").write_bytes(b"")  # one is left out, and stays so
    code = [
        sys.executable,
        "-c",
        CRASHES,
        str(toy.parent),
        str(download),
        str(tmp_path / "crashes"),
        str(stride),
    ]
    done = subprocess.run(code, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout) > 20  # steps that it was killed at


MAIN = """
import sys
import imagebind_jax.data
from imagebind_jax import cli
from imagebind_jax.prepare import shards
if __name__ == "__main__":
    imagebind_jax.data.__path__.append(sys.argv[1])
    shards.RECORDS = 3
    sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.mark.processes
def test_processes_die_with_the_command_and_their_work_is_kept(
    run, toy, download, out, tmp_path, monkeypatch
):
    (toy / "builder.py").write_text(BUILDER.replace("RECORD", "slow"))
    pids = tmp_path / "pids"
    pids.mkdir()
    command = ["prepare", "toy", "--source", download, "--out", out, "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, toy.parent, *command],
        env=os.environ | {"PIDS": str(pids), "FOREVER": "t6 e0"},
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(list(pids.iterdir())) < 2:  # both processes have come to their last shard
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    with pytest.raises(UserError, match=f"another process prepares {out}"):
        run()
    process.send_signal(signal.SIGKILL)
    process.wait()
    alive = [int(path.name) for path in pids.iterdir()]
    assert os.getpid() not in alive
    while alive := [pid for pid in alive if is_alive(pid)]:
        assert time.monotonic() < deadline, f"processes that nobody ends: {alive}"
        time.sleep(0.02)
    said, made = run()
    assert made == ["train-00002", "test-00000"]
    assert "goes on: 2 of 4 shards are there" in said
    assert len(ids(out, "train")) == TRAIN


def is_alive(pid):
    try:
        return (
            "Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        )
    except OSError:
        return False


# ---- files that cannot be read


BAD = {
    "empty": b"",
    "a text": b"in place of a sound\n",
    "a page": b"<!DOCTYPE html><html>not found</html>",
    "gone": None,
}


@pytest.mark.parametrize("what", BAD)
def test_a_few_files_may_be_unreadable(what, run, out, download):
    path = download / "media" / "t4"
    path.unlink()
    if BAD[what] is not None:
        path.write_bytes(BAD[what])
    said, made = run(allow_missing=0.1)  # of ten: one
    assert made == ALL
    assert "train: 6 records, 2 missing from the download, 1 unreadable" in said
    assert ids(out, "train") == ["t0", "t1", "t2", "t3", "t5", "t6"]
    [line] = unreadable(out)
    assert (line["split"], line["shard"], line["id"]) == ("train", "train-00001.array_record", "t4")
    assert any(
        word in line["reason"]
        for word in (
            "empty: 0 bytes",
            "a web page",
            "No such file",
            "LibsndfileError",
            "Format not recognised",
        )
    )
    # It is known, and no reason to do anything again.
    assert run(allow_missing=0.1)[0] == [f"{out} is prepared already"]
    (out / "train-00000.array_record").unlink()
    before = unreadable(out)
    assert run(allow_missing=0.1)[1] == ["train-00000"]
    assert unreadable(out) == before


@pytest.mark.parametrize("what", ["file", "folder"])
def test_links_that_lead_out_of_the_download_are_not_followed(what, run, out, download, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    (download / "media").rename(elsewhere)
    if what == "folder":
        (download / "media").symlink_to(elsewhere)
        with pytest.raises(UserError, match="10 of 10 .* leads out of the download: have the"):
            run(allow_missing=0.99)
        return
    shutil.copytree(elsewhere, download / "media")
    (download / "media" / "t4").unlink()
    (download / "media" / "t4").symlink_to(elsewhere / "t4")
    (download / "media" / "t5").rename(download / "t5")
    (download / "media" / "t5").symlink_to("../t5")  # as Kinetics' own script arranges its files
    run(allow_missing=0.1)
    assert ids(out, "train") == ["t0", "t1", "t2", "t3", "t5", "t6"]
    assert "a link that leads out of the download" in unreadable(out)[0]["reason"]


def sound(form):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(800), 8000, format=form)
    return file.getvalue()


def image(**options):
    file = io.BytesIO()
    Image.new("L", (9, 9)).save(file, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("key", "make"),
    [
        *(
            ("audio", functools.partial(sound, form))
            for form in ("AU", "CAF", "W64", "RF64", "MP3")
        ),
        ("vision", functools.partial(image, format="TIFF", big_tiff=True)),
        ("thermal", functools.partial(image, format="TIFF", big_tiff=True)),
    ],
)
def test_what_only_its_decoder_recognises_is_no_text(key, make):
    prepare_shards._check_medium(key, make())
    with pytest.raises(MediaError):
        prepare_shards._check_medium(key, b"some text")
    prepare_shards._check_medium("imu", b"time,x\n")


def test_a_mistake_of_a_builder_is_told_with_its_row(run, toy):
    slips = BUILDER.replace("return inline_files(row)", "return row['nothing']").replace(
        "RECORD", "slow"
    )
    (toy / "builder.py").write_text(slips)
    with pytest.raises(KeyError) as raised:
        run()
    assert raised.value.__notes__ == ["This was with toy train, row 't0'."]


def test_too_many_unreadable_files_stop_it_until_they_are_mended(run, out, download):
    for name in ("t1", "t5", "e0"):
        (download / "media" / name).rename(download / "media" / f"{name}.txt")
    with pytest.raises(UserError) as raised:
        run(allow_missing=0.2)
    said = str(raised.value)
    assert said.startswith("3 of 10 rows cannot be read, more than --allow-missing 0.2; train t1: ")
    assert "No such file" in said
    assert str(out / "missing.jsonl") in said
    assert [line["id"] for line in unreadable(out)] == ["e0", "t1", "t5"]
    for name in ("t1", "t5"):
        (download / "media" / f"{name}.txt").rename(download / "media" / name)
    assert run(allow_missing=0.2)[1] == ["train-00000", "train-00001", "test-00000"]
    assert len(ids(out, "train")) == TRAIN
    assert [line["id"] for line in unreadable(out)] == ["e0"]


def test_a_shard_can_be_left_without_records(run, out, download):
    for name in ("t3", "t4", "t5"):
        (download / "media" / name).write_bytes(b"")
    run(allow_missing=1.0)
    assert ids(out, "train") == ["t0", "t1", "t2", "t6"]
    assert not (out / "train-00001.array_record").exists()
    assert run(allow_missing=1.0)[0] == [f"{out} is prepared already"]
    prepare.verify_dataset(out, workers=1, say=lambda line: None)


# ---- disks


def test_too_little_room_is_told_before_anything_is_written(run, out, monkeypatch):
    class Usage:
        free = prepare.SPARE + 1999

    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda folder: Usage)
    with pytest.raises(
        UserError, match=r"out needs 0.1 GB and 0.1 GB are free: make room, or choose"
    ):
        run()
    assert tree(out).keys() == {".lock"}
    Usage.free += 1  # ten files of 200 bytes
    run()


def test_a_disk_that_runs_full_is_one_line_and_what_is_written_stays(run, out, monkeypatch):
    def full(path, records, write_shard=prepare_shards.write_shard):
        if "train-00002" in path.name:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_shard(path, records)

    with monkeypatch.context() as patch:
        patch.setattr(prepare_shards, "write_shard", full)
        with pytest.raises(UserError) as raised:
            run()
    assert str(raised.value) == (
        f"cannot write to {out}: No space left on device: mend that, and the same command goes on"
    )
    assert not list(out.glob("*.partial"))
    assert run()[1] == ["train-00002", "test-00000"]


def test_what_another_process_probes_with_is_no_content(run, out, monkeypatch):
    def check_writable(folder, remedy):
        folder.mkdir()
        (folder / ".writable").touch()

    monkeypatch.setattr(prepare.atomic, "check_writable", check_writable)
    assert run()[1] == ALL


def test_only_one_writes(run, out):
    run()
    with (out / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process prepares .*: wait for it"):
            run()


def test_every_byte_can_be_verified(run, out):
    run()
    said = []
    prepare.verify_dataset(out, workers=2, say=said.append)
    assert said[0] == "train: 7 records in 3 shards, as they were written"
    path = out / "train-00001.array_record"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    (out / "test-00000.array_record").unlink()
    with pytest.raises(UserError) as raised:
        prepare.verify_dataset(out, say=said.append)
    assert "2 of 4 shards are missing or damaged (train-00001.array_record, test-00000" in str(
        raised.value
    )
    path.unlink()  # as it says
    run()
    prepare.verify_dataset(out, say=said.append)


# ---- datasets and the command


def test_a_builder_that_repeats_itself_is_told(run, download):
    (download / "list.txt").write_text("train t0\ntrain t0")
    with pytest.raises(UserError, match="two rows of train have the id 't0'"):
        run()
    (download / "list.txt").write_text("")
    with pytest.raises(UserError, match="holds no splits"):
        run()


@pytest.fixture
def command(capsys):
    def command(*arguments):
        code = cli.main(["prepare", *map(str, arguments)])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out, said.err.splitlines()

    return command


def test_the_command_prepares_verifies_and_lists(toy, download, out, command):
    code, said, _ = command("toy", "--source", download, "--out", out, "--splits", "test,")
    assert code == 0
    assert "test: 3 records" in said
    code, said, _ = command(out, "--verify")
    assert (code, said) == (0, "test: 3 records in 1 shards, as they were written\n")
    code, said, _ = command("--list")
    rows = {line.split()[0]: line for line in said.splitlines()}
    assert rows["toy"].split() == ["toy", "A", "toy", "audio", "none"]
    assert {"name", *datasets.dataset_names()} == rows.keys()


def test_a_sample_needs_no_download(toy, out, command):
    for _ in range(2):
        code, said, _ = command("toy", "--sample", "--out", out)
        assert code == 0
    assert said == f"{out} is prepared already\n"
    assert list(Prepared(out, "test").open()) == [{"id": "x", "audio": b"fLaCxxxxxx", "label": 1}]
    assert (out / "download" / "list.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "needs a dataset: imagebind-jax prepare --list"),
        ("toy", "needs either --source DOWNLOAD or --sample"),
        ("toy --sample --source .", "needs either --source DOWNLOAD or --sample"),
        ("toy --sample", "needs --out DIR"),
        ("tyo --sample --out OUT", "no dataset 'tyo': did you mean toy?"),
        ("../toy --sample --out OUT", "no dataset '../toy': "),
        ("zzz --sample --out OUT", "no dataset 'zzz': choose from "),
        (
            "toy --source nowhere --out OUT",
            "no folder nowhere: get A toy from https://toys.example",
        ),
        ("toy --source DOWNLOAD --out DOWNLOAD", "is not empty: choose a new folder with --out"),
        (
            "toy --source DOWNLOAD --out /proc/x",
            "cannot write to /proc/x: No such file or directory",
        ),
        (
            "toy --source DOWNLOAD --out OUT --splits val",
            "has no split 'val': choose from train, test",
        ),
        ("toy --source DOWNLOAD --out OUT --workers 0", "--workers must be at least 1, got 0"),
        ("toy --source DOWNLOAD --out OUT --allow-missing 5", "is a share, 0 to 1, not 5.0"),
        ("DOWNLOAD --verify", "download holds no dataset.json"),
    ],
)
def test_a_mistake_is_one_line(arguments, words, toy, download, out, command):
    places = {"DOWNLOAD": download, "OUT": out}
    code, said, lines = command(*(places.get(word, word) for word in arguments.split()))
    assert (code, said, len(lines)) == (2, "", 1)
    assert lines[0].startswith("imagebind-jax: error: ")
    assert words in lines[0]


def test_another_dataset_is_not_written_over_one(toy, download, out, command, tmp_path):
    command("toy", "--source", download, "--out", out)
    other = tmp_path / "datasets" / "other"
    other.mkdir()
    text = BUILDER.replace("RECORD", "inline_files").replace('name="toy"', 'name="other"')
    (other / "builder.py").write_text(textwrap.dedent(text))
    code, _, [line] = command("other", "--source", download, "--out", out)
    assert code == 2
    assert "holds A toy: choose another --out" in line


def test_stopped_from_the_keyboard_it_says_that_it_goes_on(
    toy, download, out, command, monkeypatch
):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare_shards, "write_and_record_shard", stopped)
    code, _, lines = command("toy", "--source", download, "--out", out, "--workers", "1")
    assert (code, lines[-1]) == (1, "imagebind-jax: error: stopped; the same command goes on")


def test_a_dataset_of_the_package(out, command):
    code, said, _ = command("esc50", "--sample", "--out", out)
    assert code == 0
    assert "fold5: 1 records, 1 missing from the download, 0 unreadable" in said
    [record] = Prepared(out, "fold5").open()
    assert record["audio"].startswith(b"RIFF")
    assert prepared.read_dataset_info(out).classes[record["label"]] == "fireworks"
