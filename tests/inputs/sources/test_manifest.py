"""Manifests: lines become records, nothing outside the root is reached, every error names its line."""

import json
import os
import pathlib
import re
import tempfile

import pytest
from hypothesis import strategies as st
from properties import of_any

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.sources import Manifest, manifest
from imagebind_jax.inputs.sources import record as record_module

GOOD = '{"text": "good"}\n'


def write(folder, content, name="m.jsonl"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def error_of(folder, content, name="m.jsonl", index=1):
    """What is said of the sample after a first one that is good."""
    with pytest.raises(MediaError) as raised:
        Manifest(write(folder, content, name)).open()[index]
    return str(raised.value)


# ---- JSONL


def test_paths_are_in_the_manifests_folder_and_the_rest_passes_on(tmp_path):
    row = {
        "vision": ["f/0.jpg", "f/1.jpg"], "audio": "a.wav", "depth": "d.png", "thermal": "t.png",
        "imu": "./i.csv", "text": ["one", "zwei №"], "id": "x", "label": [3, 4], "start": 1,
        "seconds": 2.5, "split": "train", "tags": {"a": [1]}, "nothing": None,
    }  # fmt: skip
    [record] = Manifest(write(tmp_path, json.dumps(row))).open()
    paths = {"audio": "a.wav", "depth": "d.png", "thermal": "t.png", "imu": "i.csv"}
    wanted = {key: tmp_path / name for key, name in paths.items()}
    wanted["vision"] = [tmp_path / "f/0.jpg", tmp_path / "f/1.jpg"]
    del row["nothing"]
    assert record == row | wanted
    assert type(record["audio"]) is type(pathlib.Path())


def test_blank_lines_do_not_count_but_are_counted(tmp_path):
    content = b'\xef\xbb\xbf\n  \n{"text": "a"}\r\n\n\t\n{"text": "b"}\n{"text": "c", "id": 7}'
    found = Manifest(write(tmp_path, content)).open()
    assert list(found) == [{"id": 3, "text": "a"}, {"id": 6, "text": "b"}, {"id": 7, "text": "c"}]


def test_the_root_can_be_another_folder(tmp_path, monkeypatch):
    path = write(tmp_path, '{"audio": "a.wav"}\n')
    [record] = Manifest(path, tmp_path / "media").open()
    assert record["audio"] == tmp_path / "media" / "a.wav"
    monkeypatch.chdir(tmp_path)
    [record] = Manifest("m.jsonl").open()
    assert record["audio"] == tmp_path / "a.wav"
    path = write(tmp_path, '{"audio": "/etc/../a.wav"}\n')
    [record] = Manifest(path, "/").open()  # a trusted manifest
    assert record["audio"] == pathlib.Path("/a.wav")


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../a.jpg", "in/../../a.jpg", "in/..", "out/a.jpg", "in/link", "loop/../x"],
)
def test_nothing_outside_the_root_is_reached(path, tmp_path):
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir(), (root / "in").mkdir(parents=True)
    (outside / "a.jpg").write_bytes(b"secret")
    (root / "out").symlink_to(outside)
    (root / "in" / "link").symlink_to("../../outside/a.jpg")
    for row in ({"vision": path}, {"vision": ["in/a.jpg", path]}, {"imu": path}):
        said = error_of(root, GOOD + json.dumps(row))
        assert f"m.jsonl, line 2: {next(iter(row))} {path!r} leads out of {root}" in said


def test_links_within_the_root_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    [record] = Manifest(write(tmp_path, '{"vision": "link/a.jpg"}')).open()
    assert record["vision"] == tmp_path / "real" / "a.jpg"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "DecodeError"),
        ("[1]", "not a JSON object"),
        ("5", "not a JSON object"),
        ("{} {}", "DecodeError"),
        ('{"a": NaN}', "DecodeError"),
        (b'{"text": "\xff"}', "UnicodeDecodeError"),
        (b'{"text": "\xed\xa0\x80"}', "UnicodeDecodeError"),
        ('{"text": 5}', "text is 5: expected a text"),
        ('{"label": "dog"}', "label is 'dog': expected the number of a class"),
        ('{"start": "1"}', "start is '1': expected a finite number"),
        ('{"vision": 5}', "vision is 5: expected a path"),
        ('{"vision": ""}', "vision is '': expected a path"),
        ('{"vision": []}', "vision is []: expected a file"),
        ('{"audio": ["a"]}', "audio is ['a']: expected a path"),
        ('{"audio": "a\\u0000b"}', "ValueError"),
        ('{"visoin": "a.jpg"}', "'visoin' is no modality: did you mean 'vision'?"),
        ('{"Audio": "a.wav"}', "did you mean 'audio'?"),
        ('{"id": [1]}', "id is [1]: expected a text or an integer"),
        ('{"id": true}', "id is True: expected a text or an integer"),
        ('{"id": 1.5}', "id is 1.5: expected a text or an integer"),
        ('{"text": "a", "label": 1, "text": "b"}', "'text' is given twice"),
        ('{"view": 3}', "view is 3: expected another name"),
        (
            '{"text": "' + "a" * record_module.MAX_LINE_BYTES + '"}',
            f"longer than {record_module.MAX_LINE_BYTES} bytes",
        ),
        ("[" * 100_000, "Error"),
    ],
)
def test_a_bad_line_is_told_with_its_number(line, words, tmp_path):
    line = line if isinstance(line, bytes) else line.encode()
    path = write(tmp_path, GOOD.encode() + b"\n" + line + b"\n" + GOOD.encode())
    try:
        found = Manifest(path).open()
    except UserError as error:  # a line that is too long ends the reading itself
        said = str(error)
        assert len(line) > record_module.MAX_LINE_BYTES
    else:
        with pytest.raises(MediaError) as raised:
            found[1]
        said = str(raised.value)
        assert found[2] == {"id": 4, "text": "good"}
    assert said.startswith(f"{path}, line 3: ")
    assert words in said
    with pytest.raises(UserError, match=re.escape(f"{path}, line 1: ")):  # at the door
        Manifest(write(tmp_path, line)).open()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "No such file"),
        (lambda p: p.write_bytes(b""), "empty: 0 bytes"),
        (lambda p: p.write_bytes(b" \n\n "), "holds no samples"),
        (lambda p: p.write_text('{"id": 5}'), "line 1: no field named vision, audio,"),
        (lambda p: p.mkdir(), "not a regular file"),
        (os.mkfifo, "not a regular file"),
        (lambda p: p.symlink_to("/dev/zero"), "not a regular file"),
    ],
)
@pytest.mark.parametrize("name", ["m.jsonl", "m.csv"])
def test_a_file_that_is_no_manifest(make, words, name, tmp_path):
    path = tmp_path / name
    make(path)
    if name == "m.csv":
        words = words.replace("line 1: no field named vision, audio,", "holds no samples")
    with pytest.raises(UserError) as raised:
        Manifest(path).open()
    assert words in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_manifest_that_is_changed_is_noticed(tmp_path):
    path = write(tmp_path, GOOD * 2)
    found = Manifest(path).open()
    assert found[1]["text"] == "good"
    path.write_text(GOOD.replace("good", "bad") * 2)
    with pytest.raises(MediaError, match="m.jsonl: was changed since it was opened"):
        found[1]


@of_any(
    st.lists(st.dictionaries(st.sampled_from(["text", "note"]), st.text(), min_size=1)), examples=40
)
def test_any_text_survives(rows):
    rows = [{"text": "first"}, *rows]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "m.jsonl"
        try:
            path.write_text("\n".join(lines), encoding="utf-8", newline="")
        except UnicodeEncodeError:  # half a pair of surrogates
            return
        found = Manifest(path).open()
        assert list(found) == [{"id": i} | row for i, row in enumerate(rows, 1)]


# ---- CSV


def test_csv_columns_become_fields(tmp_path):
    content = (
        "id, vision ,text,label,start,focal_length,note,\r\n"
        'one,a.jpg,"a ""dog"", barking\nat 7",3,0.5,518.86,12,x\r\n'
        "\r\n"
        ",b c.jpg,№ two,,,,,\r\n"
    )
    assert list(Manifest(write(tmp_path, content, "m.csv")).open()) == [
        {
            "id": "one", "vision": tmp_path / "a.jpg", "text": 'a "dog", barking\nat 7', "label": 3,
            "start": 0.5, "focal_length": 518.86, "note": "12",
        },
        {"id": 5, "vision": tmp_path / "b c.jpg", "text": "№ two"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a,1", "line 3: 2 fields, but the first line names 3"),
        ("a,b,1,2", "line 3: 4 fields, but the first line names 3"),
        ("a,b,one", "line 3: label is 'one': expected the number of a class"),
        ("a,b,1.5", "line 3: label is '1.5'"),
        ('a,"b"c,1', "line 3: Error: "),
        ('5" pipe,b,1\n7" pipe,b,2', "line 3: "),
        (",/etc/passwd,1", "line 3: audio '/etc/passwd' leads out of"),
    ],
)
def test_a_bad_row_is_told_with_its_line(row, words, tmp_path):
    said = error_of(tmp_path, f"text,audio,label\na,b.wav,1\n{row}\n", "m.csv")
    assert words in said


@pytest.mark.parametrize(
    ("key", "value"), [("seconds", "1,5"), ("baseline", "nan"), ("imu_rate", "x")]
)
def test_a_bad_number_is_told(key, value, tmp_path):
    said = error_of(tmp_path, f'text,{key}\na,1\na,"{value}"\n', "m.csv")
    assert f"line 3: {key} is {value if value == 'nan' else repr(value)}" in said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("visoin,text\na,b\n", "line 2: 'visoin' is no modality: did you mean 'vision'?"),
        ("text,audio,text\na,b,c\n", "line 1: ValueError: two columns are named 'text'"),
        ("a,b\n1,2\n", "line 2: no field named vision, audio,"),
        ("text\n", "holds no samples"),
        (b"text\n\xff\n", "line 2: UnicodeDecodeError"),
        (b"t\xffxt\na\n", "line 1: UnicodeDecodeError"),
        ('text\n"never closed\n\nx\n', "line 2: a quote is opened here and never closed"),
        (
            'text\n"' + "a\n" * record_module.MAX_LINE_BYTES,
            f"line 2: longer than {record_module.MAX_LINE_BYTES} bytes",
        ),
    ],
)
def test_a_csv_file_that_cannot_be_used_says_so_at_the_door(content, words, tmp_path):
    with pytest.raises(UserError) as raised:
        Manifest(write(tmp_path, content, "m.csv")).open()
    assert words in str(raised.value)


def test_what_a_file_is_its_content_says_where_its_name_does_not(tmp_path):
    for name, content in (("a.txt", GOOD), ("b.lst", "text\ngood\n"), ("c.csv", '"text"\n"good"')):
        [record] = Manifest(write(tmp_path, content, name)).open()
        assert record["text"] == "good"


def test_an_index_is_small(tmp_path):
    found = Manifest(write(tmp_path, GOOD * 10_000)).open()
    assert sum(part.nbytes for part in found._index) == 160_000
    assert isinstance(found, manifest.ManifestRecords)
    assert found[9_999] == {"id": 10_000, "text": "good"}
