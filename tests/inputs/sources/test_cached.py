"""Records made and kept: what was written comes back; what is broken is found, named and made again."""

import concurrent.futures
import dataclasses
import errno
import hashlib
import importlib.util
import json
import os
import pathlib
import sys

import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.sources import (
    CACHE_VARIABLE,
    ArrayRecords,
    CachedSource,
    array_records,
    verify_folder,
    write_records,
)
from imagebind_jax.inputs.sources import cached as cached_source
from imagebind_jax.storage import cache_dir

MADE = "IMAGEBIND_JAX_TEST_MADE"  # a file that gets one line a made record


@dataclasses.dataclass(frozen=True)
class Squares:
    """Records of every kind of value, known by hand."""

    offset: int = 0

    def __call__(self, index: int) -> dict:
        if os.environ.get(MADE):
            with open(os.environ[MADE], "a") as file:
                file.write(f"{index} {os.getpid()}\n")
        i = index + self.offset
        return {
            "square": i * i,
            "media": bytes([i % 256]) * 50,
            "text": f"№ {i}",
            "labels": {"odd": i % 2},
        }


@dataclasses.dataclass(frozen=True)
class Fails:
    """A disk that is full at record 3."""

    def __call__(self, index: int) -> dict:
        if index == 3:
            raise OSError(28, "No space left on device")
        return {}


@pytest.fixture
def written(tmp_path):
    folder = tmp_path / "records"
    write_records(folder, Squares(), 5, facts={"make": "squares"}, workers=1)
    return folder


def flip(path, place=-1):
    """One bit of one byte."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def tree(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_what_is_written_comes_back(written):
    found = ArrayRecords(written)
    assert len(found) == 5
    assert list(found) == [Squares()(i) for i in range(5)]
    assert found[3] == {"square": 9, "media": b"\3" * 50, "text": "№ 3", "labels": {"odd": 1}}
    info = json.loads((written / "dataset.json").read_text())
    assert (info["make"], info["count"]) == ("squares", 5)


def test_the_facts_on_disk_are_the_files_own(written):
    info = json.loads((written / "dataset.json").read_text())
    assert {s["file"] for s in info["shards"]} == {p.name for p in written.glob("*.array_record")}
    for shard in info["shards"]:
        content = (written / shard["file"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == shard["sha256"]
        assert len(content) == shard["size"]


def test_two_processes_write_the_same_bytes_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv(MADE, str(tmp_path / "made"))
    count, done = 2 * cached_source.SHARD + 3, []
    write_records(tmp_path / "two", Squares(), count, facts={}, workers=2, progress=done.append)
    makers = {line.split()[1] for line in (tmp_path / "made").read_text().splitlines()}
    assert len(makers) == 2
    assert str(os.getpid()) not in makers
    assert sorted(done)[-1] == count
    assert len(done) == 3  # shards
    monkeypatch.delenv(MADE)
    write_records(tmp_path / "one", Squares(), count, facts={}, workers=1)
    assert tree(tmp_path / "two") == tree(tmp_path / "one")
    found = ArrayRecords(tmp_path / "two")
    assert [r["square"] for r in found] == [i * i for i in range(count)]  # in order, over shards


def damage_flip_first(folder):
    flip(folder / "00000.array_record", 100)
    return "00000.array_record"


def damage_flip_last(folder):
    flip(folder / "00001.array_record")
    return "00001.array_record"


def damage_truncate(folder):
    path = folder / "00001.array_record"
    path.write_bytes(path.read_bytes()[:-7])
    return path.name


def damage_empty(folder):
    (folder / "00000.array_record").write_bytes(b"")
    return "00000.array_record"


def damage_swap(folder):
    a, b = folder / "00000.array_record", folder / "00001.array_record"
    a.rename(folder / "c"), b.rename(a), (folder / "c").rename(b)
    return "00000.array_record"


def damage_no_shard(folder):
    (folder / "00001.array_record").unlink()
    return "00001.array_record"


def damage_no_facts(folder):
    (folder / "dataset.json").unlink()
    return "dataset.json"


def damage_cut_facts(folder):
    path = folder / "dataset.json"
    path.write_text(path.read_text()[:40])
    return folder.name


def damage_binary_facts(folder):
    (folder / "dataset.json").write_bytes(b"\xff\xfe\x00garbage")
    return folder.name


def damage_other_facts(folder):
    (folder / "dataset.json").write_text("[1, 2]")
    return folder.name


def damage_fewer_shards(folder):
    path = folder / "dataset.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"shards": info["shards"][:1]}))
    return folder.name


def damage_no_folder(folder):
    folder.rename(folder.with_name("elsewhere"))
    return folder.name


DAMAGE = {name: f for name, f in globals().items() if name.startswith("damage_")}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_broken_is_named_and_made_again(damage, monkeypatch):
    monkeypatch.setattr(cached_source, "SHARD", 3)
    monkeypatch.setattr(cached_source.os, "cpu_count", lambda: 1)
    cached = CachedSource(Squares(), 5)
    wanted = list(cached.open())
    before = tree(cached.folder)
    assert len(list(cached.folder.glob("*.array_record"))) == 2
    name = DAMAGE[damage](cached.folder)
    with pytest.raises(ValueError) as raised:
        verify_folder(cached.folder)
    assert name in str(raised.value)
    assert list(cached.open()) == wanted
    assert tree(cached.folder) == before
    assert [p.name for p in cached.folder.parent.iterdir() if "partial" in p.name] == []


def test_whole_records_are_not_made_again(tmp_path, monkeypatch):
    monkeypatch.setenv(MADE, str(tmp_path / "made"))
    cached, done = CachedSource(Squares(), 5), []
    cached.open(done.append)
    assert done == [5]
    cached.open(done.append)
    assert len((tmp_path / "made").read_text().splitlines()) == 5
    assert done == [5]


def test_the_folder_appears_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "records"
    with pytest.raises(UserError) as raised:
        write_records(folder, Fails(), 5, facts={}, workers=1)
    assert "No space left on device" in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_as_what_it_is(tmp_path):
    (tmp_path / "shard").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as raised:
        array_records.write_shard(tmp_path / "shard", ({"x": b"x" * 100_000} for _ in range(9)))
    assert raised.value.errno == errno.ENOSPC


def test_a_cache_of_an_earlier_version_is_still_good(written):
    path = written / "dataset.json"
    info = json.loads(path.read_text())
    info["shards"] = [
        {key: shard[key] for key in ("file", "count", "sha256")} for shard in info["shards"]
    ]
    path.write_text(json.dumps(info))
    assert len(ArrayRecords(written)) == 5


def test_what_a_killed_process_left_is_no_obstacle(tmp_path):
    folder = tmp_path / "records"
    left = folder.with_name("records.partial")
    left.mkdir()
    (left / "99999.array_record").write_bytes(b"half")
    write_records(folder, Squares(), 2, facts={}, workers=1)
    assert not left.exists()
    assert not (folder / "99999.array_record").exists()
    assert len(ArrayRecords(folder)) == 2


def test_two_at_once_make_the_records_once(tmp_path, monkeypatch):
    monkeypatch.setenv(MADE, str(tmp_path / "made"))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: len(CachedSource(Squares(), 5).open()), range(2)))
    assert found == [5, 5]
    assert len((tmp_path / "made").read_text().splitlines()) == 5


@pytest.mark.parametrize("place", ["a file", "below a file", "/proc/nowhere"])
def test_a_cache_that_cannot_be_written_says_how_to_move_it(place, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    path = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "below"}.get(
        place, place
    )
    monkeypatch.setenv(CACHE_VARIABLE, str(path))
    with pytest.raises(UserError) as raised:
        CachedSource(Squares(), 2).open()
    assert str(path) in str(raised.value)
    assert f"${CACHE_VARIABLE}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_cache_is_where_the_variable_says_or_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, "~/records")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CachedSource(Squares(), 2).folder.parent == tmp_path / "records"
    monkeypatch.delenv(CACHE_VARIABLE)
    assert cache_dir.cache_folder() == tmp_path / ".cache" / "imagebind_jax"


def load(path: pathlib.Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_other_parameters_or_other_code_are_another_folder(tmp_path):
    folders = [
        CachedSource(make, count).folder
        for make, count in ((Squares(), 5), (Squares(1), 5), (Squares(), 6))
    ]
    assert len(set(folders)) == 3
    assert CachedSource(Squares(), 5).folder == folders[0]

    package = tmp_path / "made_by_a_test"
    package.mkdir()
    code = (
        "import dataclasses\n@dataclasses.dataclass(frozen=True)\nclass Make:\n    n: int = 1\n"
        "    def __call__(self, index: int) -> dict:\n        return {}\n"
    )
    (package / "made_by_a_test.py").write_text(code)
    (package / "beside.py").write_text("A = 1\n")
    make = load(package / "made_by_a_test.py").Make()
    first = CachedSource(make, 5).folder
    assert first.name.startswith("make-5-")
    (package / "beside.py").write_text("A = 2\n")
    second = CachedSource(make, 5).folder
    (package / "made_by_a_test.py").write_text(code + "# other\n")
    third = CachedSource(make, 5).folder
    assert len({first, second, third}) == 3
    (package / "made_by_a_test.py").write_text(code)
    (package / "beside.py").write_text("A = 1\n")
    assert CachedSource(make, 5).folder == first
    del sys.modules["made_by_a_test"]
