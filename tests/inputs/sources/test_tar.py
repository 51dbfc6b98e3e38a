"""Tar shards: what tar itself packs is read, nothing is lost silently, and no index is trusted blindly."""

import io
import os
import pathlib
import shutil
import subprocess
import tarfile
import time

import numpy as np
import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.sources import TarShards, tar_index, tar_reader
from imagebind_jax.inputs.sources import record as record_module
from imagebind_jax.inputs.sources.tar_reader import iter_members
from imagebind_jax.storage import cache_dir

FILES = {"a/1.jpg": b"one", "a/1.txt": "№ 1\n".encode(), "a/2.jpg": b"two" * 400, "a/2.txt": b"2"}


def pack(path, files, **options):
    """files: {name: bytes or a TarInfo's fields}."""
    with tarfile.open(path, "w", **options) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else b""
            member.size = len(data)
            for field, value in ({} if isinstance(content, bytes) else content).items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def shard(tmp_path):
    return pack(tmp_path / "s.tar", FILES)


def refused(path):
    with pytest.raises(UserError) as raised:
        TarShards(path).open()
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---- samples


def test_files_of_one_key_are_one_sample(tmp_path):
    path = pack(
        tmp_path / "s.tar",
        {
            "./d.x/b.jpg": b"jpg", "./d.x/b.JSON": b'{"label": 3, "text": null, "w": [1]}',
            "./d.x/a.txt": b" said \n", "./d.x/b.depth.png": b"depth", "./d.x/b.mp4": b"late",
            "./d.x/a.wav": b"wav", "./d.x/.b.jpg": b"hidden", "./d.x/._b.jpg": b"hidden",
            "./d.x/README": b"no ending", "./__MACOSX/d.x/b.jpg": b"not ours", "c.cls": b"7\n",
            "e.unknown": b"x",
        },
    )  # fmt: skip
    assert list(TarShards(path).open()) == [
        {"id": "d.x/b", "vision": b"jpg", "depth": b"depth", "label": 3, "w": [1]},
        {"id": "d.x/a", "text": "said", "audio": b"wav"},
        {"id": "c", "label": 7},
    ]


def test_fields_choose_among_endings(tmp_path):
    files = {
        "1.left.PNG": b"l",
        "1.right.png": b"r",
        "1.jpg": b"j",
        "1.rate": b"200",
        "1.raw": b"\0",
    }
    path = pack(tmp_path / "s.tar", files)
    fields = {"vision": ("webp", "right.png", "jpg"), "imu_rate": ("rate",), "mine": ("raw",)}
    assert list(TarShards([path], fields).open()) == [
        {"id": "1", "vision": b"r", "imu_rate": 200.0, "mine": b"\0"}
    ]
    assert TarShards(path, {"vision": ("left.png",)}).open()[0]["vision"] == b"l"
    with pytest.raises(UserError, match=r"must be a tuple of endings: \('jpg',\)"):
        TarShards(path, {"vision": "jpg"})
    with pytest.raises(UserError, match="did you mean 'vision'"):
        TarShards(path, {"visoin": ("jpg",)})
    with pytest.raises(UserError, match="is always added"):
        TarShards(path, {"text": ("json",)})
    with pytest.raises(UserError, match=r"no file that ends in \.xyz, \.json"):
        TarShards(path, {"vision": ("xyz",)}).open()


def test_several_files_are_read_in_order(tmp_path):
    for name in ("b", "a", "c"):
        pack(tmp_path / f"{name}[1].tar", {f"{name}.txt": name.encode()})
    assert [r["text"] for r in TarShards(str(tmp_path / "?[[]1].tar")).open()] == ["a", "b", "c"]
    two = (tmp_path / "c[1].tar", str(tmp_path / "a*"))
    assert [r["text"] for r in TarShards(two).open()] == ["c", "a"]
    with pytest.raises(UserError, match="no file .*/d.tar"):
        TarShards(tmp_path / "d.tar").open()
    with pytest.raises(UserError, match="a.1..tar is named twice"):
        TarShards((tmp_path / "a[1].tar", str(tmp_path / "*.tar"))).open()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("1.jpg", b"", "1, vision: empty: 0 bytes"),
        ("1.txt", b"\xff", "1, text: UnicodeDecodeError"),
        (
            "1.txt",
            b"a" * (record_module.MAX_LINE_BYTES + 1),
            "1, text: 1048577 bytes are more than 1048576",
        ),
        ("1.cls", b"dog", "1, label: label is 'dog'"),
        ("1.json", b"[1]", "1, json: ValueError: not a JSON object"),
        ("1.json", b"{", "1, json: DecodeError"),
        ("1.json", b'{"vision": "/etc/passwd"}', "1: vision is '/etc/passwd': expected a file"),
        ("1.json", b'{"label": "dog"}', "1: label is 'dog'"),
    ],
)
def test_a_bad_sample_is_told_by_its_key(name, data, words, tmp_path):
    found = TarShards(pack(tmp_path / "s.tar", {name: data, "2.txt": b"good"})).open()
    with pytest.raises(MediaError) as raised:
        found[0]
    assert str(raised.value).startswith(f"{tmp_path / 's.tar'}, {words}")
    assert found[1] == {"id": "2", "text": "good"}


# ---- archives


@pytest.mark.parametrize("style", ["gnu", "pax", "ustar", "v7"])
def test_what_tar_packs_is_read(style, tmp_path):
    long = "d/" * 30 + "e" * 20 if style != "v7" else "short"
    for name in (f"{long}.txt", "plain.txt"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    if style in ("gnu", "pax"):
        very = "f" * 200 + " ü.txt"
        (tmp_path / "in" / very).write_text(very)
    command = ["tar", f"--format={style}", "-cf", tmp_path / "s.tar", "-C", tmp_path / "in", "."]
    subprocess.run(command, check=True)
    found = list(TarShards(tmp_path / "s.tar").open())
    assert len(found) == 3 if style in ("gnu", "pax") else 2
    for record in found:
        assert record["text"] == f"{record['id']}.txt"


def test_offsets_are_those_of_the_library(tmp_path):
    rng = np.random.default_rng(0)
    files = {f"{'x' * int(rng.integers(1, 300))}{i}.jpg": rng.bytes(int(rng.integers(2000)))
             for i in range(40)}  # fmt: skip
    for style in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = pack(tmp_path / "s.tar", files, format=style)
        with tarfile.open(path) as archive:
            wanted = [(m.name, m.offset_data, m.size) for m in archive]
        assert list(iter_members(str(path))) == wanted


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
            "'x.jpg' is a link: pack with --der",
        ),
        ({"type": tarfile.LNKTYPE, "linkname": "a/1.jpg"}, "'x.jpg' is a hard link: pack with"),
        ({"type": tarfile.CHRTYPE}, "is a device"),
        ({"type": tarfile.FIFOTYPE}, "is a FIFO"),
        ({"type": tarfile.GNUTYPE_SPARSE}, "is a sparse file"),
        ({"pax_headers": {"GNU.sparse.major": "1"}}, "a sparse file"),
        ({"type": b"Q"}, "of an unknown type b'Q'"),
        ({"name": "/etc/x.jpg"}, "'/etc/x.jpg' is no name for a file"),
        ({"name": "a/../../x.jpg"}, "is no name for a file"),
        ({"name": "a/1.jpg"}, "it has two files a/1.jpg"),
        ({"name": "./a/1.JPG"}, "it has two files a/1.jpg"),
        ({"name": "a" * 5000 + ".jpg"}, "is no name for a file"),
    ],
)
def test_members_that_are_no_plain_files_are_refused(fields, words, tmp_path):
    path = pack(tmp_path / "s.tar", {**FILES, "x.jpg": fields}, format=tarfile.PAX_FORMAT)
    assert words in refused(path)


def extended(body):
    """An archive of a.jpg behind a PAX header of these bytes."""
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(body)
    named = tarfile.TarInfo("a.jpg")
    named.size = 1
    blocks = [header.tobuf(), body + bytes(-len(body) % 512), named.tobuf(), b"x" + bytes(511)]
    return b"".join(blocks) + bytes(1024)


def test_what_an_extended_header_says_is_read(shard):
    shard.write_bytes(extended(b"15 path=b1.jpg\n" + b"10 uid=12\n"))
    assert [name for name, _, _ in iter_members(str(shard))] == ["b1.jpg"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"0 a=b\n", "an extended header cannot be read"),
        (b"-1 a=b\n", "an extended header cannot be read"),
        (b"a=b\n", "an extended header cannot be read"),
        (b"7 a=b\n", "an extended header cannot be read"),
        (b"999999 a=b\n", "an extended header cannot be read"),
        (b"9" * 60_000, "an extended header cannot be read"),
        (b"12 size=abc\n", "ValueError"),
        (b"11 size=-5\n", "cut short"),
        (b"5 a=\n" * 20_000, "a name or header of 100000 bytes, more than 65536"),
    ],
)
def test_extended_headers_are_read_strictly(body, words, shard):
    shard.write_bytes(extended(body))
    assert words in refused(shard)


def test_an_extended_header_is_walked_through_once(shard, monkeypatch):
    monkeypatch.setattr(tar_reader, "HEADER", 1 << 20)
    shard.write_bytes(extended(b"5 a=\n" * 209_715))
    begin = time.process_time()
    assert len(list(iter_members(str(shard)))) == 1
    assert time.process_time() - begin < 2  # and not 5, which grow with the square


def test_folders_are_left_alone(tmp_path):
    path = pack(tmp_path / "s.tar", {"a": {"type": tarfile.DIRTYPE}, **FILES})
    assert len(TarShards(path).open()) == 2


def test_wherever_an_archive_is_cut_it_is_noticed(shard):
    content = shard.read_bytes()
    end = content.rstrip(b"\0")
    last = -(-len(end) // 512) * 512  # where the end mark begins
    for length in [*range(1, last + 512, 100), last, last + 511]:
        shard.write_bytes(content[:length])
        assert "cut short" in (said := refused(shard)) or "not a tar file" in said
    shard.write_bytes(content[: last + 512])  # one empty block is an end mark
    assert len(TarShards(shard).open()) == 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p.write_bytes(p.read_bytes() * 2), "goes on after its end mark"),
        (lambda p: p.write_bytes(p.read_bytes() + bytes(2 << 20)), "goes on after its end mark"),
        (lambda p: p.write_bytes(b""), "empty: 0 bytes"),
        (lambda p: p.write_bytes(b"<html>" * 200), "not a tar file: "),
        (lambda p: shutil.copy(__file__, p), "not a tar file: "),
        (lambda p: pack(p, FILES, format=tarfile.USTAR_FORMAT) and p.open("r+b").write(b"x"),
         "not a tar file: bad checksum at byte 0"),
        (lambda p: tarfile.open(p, "w:gz").close(), "compressed (gzip)"),
        (lambda p: tarfile.open(p, "w:xz").close(), "compressed (xz)"),
        (lambda p: (p.unlink(), os.mkfifo(p)), "not a regular file"),
        (lambda p: (p.unlink(), p.mkdir()), "not a regular file"),
        (lambda p: pack(p, {}), "holds no file that ends in .jpg"),
    ],
)  # fmt: skip
def test_what_is_no_archive_says_why(make, words, shard):
    make(shard)
    assert words in refused(shard)


def test_of_two_archives_in_one_file_neither_is_lost_silently(shard, tmp_path):
    other = pack(tmp_path / "other.tar", {"b/1.txt": b"lost"})
    shard.write_bytes(shard.read_bytes() + other.read_bytes())
    with pytest.raises(MediaError, match="several archives in one file"):
        list(iter_members(str(shard)))


@pytest.mark.parametrize("mutants", [30, pytest.param(300, marks=pytest.mark.fuzz)])
def test_any_damage_is_an_error_or_harmless(mutants, shard, rotating_seed):
    content = shard.read_bytes()
    rng = np.random.default_rng(rotating_seed)
    for _ in range(mutants):
        bad = bytearray(content)
        for _ in range(int(rng.integers(1, 4))):
            bad[int(rng.integers(len(bad)))] = int(
                rng.choice([0, 0x30, 0x37, 0x80, 0xFF, *b"xLKgS1"])
            )
        shard.write_bytes(bad)
        try:
            for _, offset, size in iter_members(str(shard)):
                assert 0 <= size <= len(bad) - offset
        except MediaError as error:
            assert error.source == str(shard)


# ---- the index


def test_the_index_is_made_once(shard, monkeypatch, cache):
    calls = []
    monkeypatch.setattr(
        tar_index, "iter_members", lambda path: calls.append(path) or iter_members(path)
    )
    first = list(TarShards(shard).open())
    assert list(TarShards(shard).open()) == first
    assert list(TarShards(os.path.relpath(shard)).open()) == first
    assert calls == [str(shard)]
    assert sorted(p.suffix for p in cache.iterdir()) == ["", ".lock"]
    os.utime(shard, ns=(1, 1))
    assert list(TarShards(shard).open()) == first
    assert len(calls) == 2
    TarShards(shard, {"vision": ("jpg",)}).open()
    assert len(calls) == 3


@pytest.mark.parametrize("name", ["about.json", "spans.npy", "keys.npy", "key_ends.npy", "."])
@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_damaged_index_is_made_again(name, how, shard, cache):
    wanted = list(TarShards(shard).open())
    [folder] = [p for p in cache.iterdir() if p.is_dir()]
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    path = folder / name
    if path.is_dir():
        shutil.rmtree(path)
    elif how == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if how == "flip" else content[:-1])
    assert list(TarShards(shard).open()) == wanted
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_a_cache_that_cannot_be_written_says_how_to_move_it(shard, monkeypatch):
    monkeypatch.setenv(cache_dir.CACHE_VARIABLE, "/proc/nowhere")
    with pytest.raises(UserError, match="choose another place with .IMAGEBIND_JAX_CACHE"):
        TarShards(shard).open()


def test_a_sample_is_read_whole_or_not_at_all(shard, monkeypatch):
    found = TarShards(shard).open()
    monkeypatch.setattr(record_module, "LARGEST", 100)
    assert found[0]["vision"] == b"one"
    with pytest.raises(MediaError, match="1200 bytes in one record are more than 100"):
        found[1]
    stamp = record_module.file_stamp(str(shard))
    pathlib.Path(shard).write_bytes(b"x" * (stamp[0] - 1))
    os.utime(shard, ns=(stamp[1], stamp[1]))
    with pytest.raises(media.MediaError, match="s.tar: was changed since it was opened"):
        found[0]
