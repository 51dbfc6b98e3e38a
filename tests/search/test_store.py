"""A store of embeddings: whole after any kill, never silently wrong, added to and not made anew."""

import contextlib
import json
import os
import random
import sys

import goals
import numpy as np
import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.search import store, store_writer
from imagebind_jax.search.exact import exact_top_k
from imagebind_jax.search.store import EmbeddingStore
from imagebind_jax.search.store_writer import open_writer

WIDTH = 8
OF = {"parameters": "f0", "encoder": {"depth": 2}}


def vector(i):
    made = np.random.default_rng(i).standard_normal(WIDTH).astype(np.float32)
    return made / np.linalg.norm(made)


def item(i, stamp=0):
    modality = ("vision", "audio")[i % 2]
    return {"key": f"k{i}", "modality": modality, "file": f"/f/{i}", "stamp": stamp, "number": i}


def add(writer, numbers, stamp=0):
    for modality in ("vision", "audio"):
        writer.describe(modality, OF)
    for i in numbers:
        if not writer.has(f"k{i}", stamp):
            writer.add(vector(i), item(i, stamp), b"picture %d" % i * (i % 3))


def make(folder, numbers, stamp=0):
    with open_writer(folder, WIDTH, "/where/it/was", "family") as writer:
        add(writer, numbers, stamp)


def check(folder, count):
    found = EmbeddingStore(folder)
    assert len(found) == count
    for block in range(found.blocks):
        found.block(block)  # as every search does first
    for row in range(count):
        made = found.item(row)
        i = made["number"]
        assert made["file"] == f"/f/{i}" and found.modality(row) == item(i)["modality"]
        assert found.vectors[row].tobytes() == vector(i).tobytes()
        assert found.picture(row) == b"picture %d" % i * (i % 3)
    assert sorted(each["number"] for each in found.items) == list(range(count))
    return found


def test_what_is_added_is_there(tmp_path):
    make(tmp_path / "s", range(5))
    make(tmp_path / "s", range(12))
    found = check(tmp_path / "s", 12)
    assert found.note.modalities == ["vision", "audio"]
    assert found.note.checkpoint == "/where/it/was"
    plain = np.load(tmp_path / "s" / "embeddings.npy", mmap_mode="r")  # as anybody reads it
    np.testing.assert_array_equal(plain, [vector(i) for i in range(12)])


def test_a_store_of_nothing_is_one(tmp_path):
    make(tmp_path / "s", [])
    assert len(EmbeddingStore(tmp_path / "s")) == 0
    rows, cosines = exact_top_k(EmbeddingStore(tmp_path / "s"), vector(0)[None], 3)
    assert rows.shape == cosines.shape == (1, 0)


def test_what_has_changed_takes_the_place_of_what_was(tmp_path):
    make(tmp_path / "s", range(4))
    with open_writer(tmp_path / "s", WIDTH, "c", "family") as writer:
        assert writer.has("k2", 0) and not writer.has("k2", 1)
        writer.describe("vision", OF)
        writer.add(vector(70), item(2, stamp=1), b"")
    found = EmbeddingStore(tmp_path / "s")
    assert found.replaced.tolist() == [False, False, True, False, False]
    rows, cosines = exact_top_k(found, vector(70)[None], 5)
    assert rows[0, 0] == 4 and 2 not in rows and rows.shape == (1, 4)
    assert cosines[0, 0] == pytest.approx(1, abs=1e-6)


def test_unusable_files_are_remembered(tmp_path):
    with open_writer(tmp_path / "s", WIDTH, "c", "family") as writer:
        writer.unusable({"key": "k", "file": "/f", "stamp": [3, 4], "why": "broken"})
    with open_writer(tmp_path / "s", WIDTH, "c", "family") as writer:
        assert (
            writer.had("k", [3, 4]) and not writer.had("k", [3, 5]) and not writer.had("j", [3, 4])
        )
    assert EmbeddingStore(tmp_path / "s").unusable() == [
        {"key": "k", "file": "/f", "stamp": [3, 4], "why": "broken"}
    ]


def test_a_reader_sees_a_whole_store_while_it_is_written(tmp_path):
    with open_writer(tmp_path / "s", WIDTH, "c", "family") as writer:
        add(writer, range(6))
        writer.commit()
        add(writer, range(9))
        check(tmp_path / "s", 6)
    check(tmp_path / "s", 9)


def test_other_vectors_are_refused(tmp_path):
    make(tmp_path / "s", range(3))
    with pytest.raises(UserError, match="of another checkpoint"):
        begin(tmp_path / "s", "another family")
    with (
        open_writer(tmp_path / "s", WIDTH, "c", "family") as writer,
        pytest.raises(UserError, match="holds vision of other parameters"),
    ):
        writer.describe("vision", {**OF, "parameters": "e1"})


def begin(folder, family="family"):
    with open_writer(folder, WIDTH, "c", family):
        pass


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="not empty, and holds no store"):
        begin(tmp_path)
    with pytest.raises(UserError, match="holds no store: imagebind-jax embed"):
        EmbeddingStore(tmp_path)


def test_two_writers(tmp_path):
    busy = pytest.raises(UserError, match="is being written by another process")
    with open_writer(tmp_path / "s", WIDTH, "c", "family"), busy:
        begin(tmp_path / "s")


def test_what_a_full_disk_leaves_is_whole(tmp_path, monkeypatch):
    make(tmp_path / "s", range(5))
    none_left = pytest.raises(UserError, match="No space left")
    with none_left, open_writer(tmp_path / "s", WIDTH, "c", "family") as writer:
        add(writer, range(5, 9))
        monkeypatch.setattr(os, "fsync", full)
    monkeypatch.undo()
    check(tmp_path / "s", 5)
    make(tmp_path / "s", range(9))
    check(tmp_path / "s", 9)


def full(_):
    raise OSError(28, "No space left on device")


def fill(arguments):
    """In a process of its own: a store of so many rows, often committed."""
    store_writer.EVERY_ROWS = 4
    print("begun", flush=True)
    make(arguments[0], range(int(arguments[1])))
    return 0


@pytest.mark.processes
def test_killed_at_any_moment_nothing_is_lost_or_twice(zygote, tmp_path):
    """Begun again after each kill, until all is there."""
    rng, kills, wanted, count = random.Random(0), 0, 500, 0
    while count < wanted:
        child = zygote.start([tmp_path / "s", wanted], call="test_store:fill")
        child.until("begun")
        with contextlib.suppress(TimeoutError):
            child.wait(rng.uniform(0.005, 0.05))  # then it is killed
        kills += child.wait() == -9
        if store.store_exists(tmp_path / "s"):
            assert len(EmbeddingStore(tmp_path / "s")) >= count
            count = len(check(tmp_path / "s", len(EmbeddingStore(tmp_path / "s"))))
    assert zygote.run([tmp_path / "s", wanted], call="test_store:fill")[0] == 0
    check(tmp_path / "s", wanted)
    assert kills > 2


@pytest.mark.parametrize(
    "mutants",
    [20, pytest.param(goals.size(200, 2000), marks=[pytest.mark.fuzz, pytest.mark.goal("G26")])],
)
def test_mutants_of_a_store(mutants, tmp_path, rotating_seed, measured):
    from test_written_files import damaged

    folder, rng = tmp_path / "s", random.Random(rotating_seed)
    make(folder, range(20))
    good = {path: path.read_bytes() for path in sorted(folder.glob("[a-z]*"))}
    told = 0
    for mutant in range(mutants):
        for path, content in good.items():
            path.write_bytes(content)
        path = list(good)[mutant % len(good)]
        path.write_bytes(damaged(good[path], rng))
        try:
            found = check(folder, 20)
            rows, _ = exact_top_k(found, vector(3)[None], 3)
            assert rows[0, 0] == 3
        except UserError as error:
            assert "\n" not in str(error)
            told += 1
    assert told > mutants // 3
    measured(f"store: {mutants} mutants, 0 silent")


def test_a_note_of_another_version(tmp_path):
    make(tmp_path / "s", range(2))
    note = tmp_path / "s" / "store.json"
    said = json.loads(note.read_text())
    note.write_text(json.dumps({**said, "rows": 1}))
    with pytest.raises(UserError, match="was changed since it was written"):
        EmbeddingStore(tmp_path / "s")


@pytest.mark.parametrize("where", range(1, 60, 3))
def test_interrupted_within_a_row_or_a_commit(tmp_path, where):
    """Ctrl-C at any line of what adds and commits leaves a store that is whole."""
    lines, before = 0, sys.gettrace()  # a debugger's, or that of who measures what tests run

    def trace(frame, event, _):
        nonlocal lines
        if frame.f_code.co_filename != store_writer.__file__ or frame.f_code.co_name not in seen:
            return None
        if event == "line":
            lines += 1
            if lines == where:
                sys.settrace(before)
                raise KeyboardInterrupt
        return trace

    seen = ("add", "commit", "_write", "_now_and_then")
    make(tmp_path / "s", range(3))
    try:
        with open_writer(tmp_path / "s", WIDTH, "c", "family") as writer:
            for modality in ("vision", "audio"):
                writer.describe(modality, OF)
            sys.settrace(trace)
            for i in range(3, 6):
                writer.add(vector(i), item(i), b"picture %d" % i * (i % 3))
                writer.commit()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    found = EmbeddingStore(tmp_path / "s")
    assert 3 <= len(found) <= 6
    check(tmp_path / "s", len(found))
    make(tmp_path / "s", range(6))
    assert sorted({each["number"] for each in EmbeddingStore(tmp_path / "s").items}) == list(
        range(6)
    )
