"""The datasets of videos, and what all builders read tables and folders with."""

import json
import pathlib
import shutil

import pytest
from official import dataset, rows

from imagebind_jax.data import invented, reading
from imagebind_jax.errors import UserError

av = pytest.importorskip("av")


def test_msrvtt(samples):
    listing = dataset("msrvtt").listing(samples("msrvtt"))
    assert {split: rows(listing, split) for split in listing.splits} == {
        "test": [
            {
                "id": "video7020",
                "vision": "video7020.mp4",
                "text": ["a small square moves over a blue wall"],
            },
            {"id": "video7021", "vision": "video7021.mp4", "text": ["a square, then a sound"]},
        ],
        "train": [
            {
                "id": "video0",
                "vision": "video0.mp4",
                "text": ["a square moves", "a yellow square moves to the right"],
            },
            {
                "id": "video1",
                "vision": "video1.mp4",
                "text": ["something beeps", "a square slides, and a tone is heard"],
            },
        ],
    }
    assert listing.missing == {"test": 1, "train": 0}
    assert (listing.classes, listing.prompts) == ((), ())


def test_msrvtts_training_split_needs_its_captions(copy):
    download = copy("msrvtt")
    told, table = (
        download / "msrvtt_data" / name for name in ("MSRVTT_data.json", "MSRVTT_train.9k.csv")
    )
    captions = json.loads(told.read_text())
    for wrong in ("[]", "{", '{"sentences": [{"video_id": "video0"}]}', '{"sentences": [1]}'):
        told.write_text(wrong)
        with pytest.raises(UserError, match=r"MSRVTT_data\.json is not MSR-VTT's"):
            dataset("msrvtt").listing(download)
    captions["sentences"] = [item for item in captions["sentences"] if item["video_id"] != "video1"]
    told.write_text(json.dumps(captions))
    with pytest.raises(UserError, match="has no caption of video1"):
        dataset("msrvtt").listing(download)
    told.unlink()
    with pytest.raises(UserError, match=r"no .*MSRVTT_data\.json, which has the captions"):
        dataset("msrvtt").listing(download)
    table.unlink()
    assert list(dataset("msrvtt").listing(download).splits) == ["test"]


def test_msrvtt_where_frozen_in_time_puts_the_videos(copy):
    download = copy("msrvtt")
    (download / "MSRVTT/videos").mkdir(parents=True)
    (download / "videos").rename(download / "MSRVTT/videos/all")
    assert len(dataset("msrvtt").listing(download).splits["test"]) == 2
    shutil.rmtree(download / "MSRVTT")
    with pytest.raises(
        UserError, match=r"none of the 5 files listed is there: .*unpack MSRVTT\.zip"
    ):
        dataset("msrvtt").listing(download)


def test_kinetics(samples):
    listing = dataset("kinetics400").listing(samples("kinetics400"))
    place = listing.classes.index
    stems = {
        "train": {"sample-0004_000132_000142": "zumba"},
        "val": {
            "sample-0001_000059_000069": "abseiling",
            "sample-0002_000040_000050": "air drumming",
            "sample-0003_000000_000010": "passing American football (in game)",
        },
    }
    stems["train"]["sample-0005_000007_000017"] = "using remote controller (not gaming)"
    for split, expected in stems.items():
        assert rows(listing, split) == [
            {"id": stem, "vision": f"{stem}.mp4", "label": place(name)}
            for stem, name in expected.items()
        ]
    assert listing.missing == {"train": 0, "val": 1} and listing.notes == ()
    assert len(set(listing.classes)) == 400 and listing.classes[0] == "abseiling"


def test_kinetics_prompts_are_clips_28(samples):
    prompts = dataset("kinetics400").listing(samples("kinetics400")).prompts
    assert len(set(prompts)) == 28 and all(prompt.count("{}") == 1 for prompt in prompts)
    assert prompts[0] == "a photo of {}."
    assert prompts[-1] == "a demonstration of a person practicing {}."


def test_kinetics_in_a_folder_a_class(copy):
    download = copy("kinetics400")
    for file, folder in (
        ("sample-0002_000040_000050", "air_drumming"),
        ("sample-0001_000059_000069", "abseiling"),
    ):
        (download / "val" / folder).mkdir()
        (download / f"val/{file}.mp4").rename(download / f"val/{folder}/{file}.mp4")
    assert len(dataset("kinetics400").listing(download).splits["val"]) == 3  # the table's word
    shutil.rmtree(download / "annotations")
    listing = dataset("kinetics400").listing(download)
    assert [(row["id"], row["label"]) for row in listing.splits["val"]] == [
        ("sample-0001_000059_000069", 0),
        ("sample-0002_000040_000050", 1),
    ]
    assert listing.missing == {"val": 0} and len(listing.classes) == 400
    (download / "val/air_drumming").rename(download / "val/wind drumming")
    listing = dataset("kinetics400").listing(download)
    assert listing.classes == ("abseiling", "wind drumming")
    assert "'wind drumming' is not one of the 400 known classes" in listing.notes[0]


def test_kinetics_clips_that_replace_corrupted_ones(copy):
    download = copy("kinetics400")
    folder = download / "replacement/replacement_for_corrupted_k400"
    folder.mkdir(parents=True)
    (folder / "sample-0004.mp4").write_bytes(b"mended")
    found = dataset("kinetics400").listing(download).splits["train"]
    assert found[0]["vision"].read_bytes() == b"mended"
    assert found[0]["id"] == "sample-0004_000132_000142" and len(found) == 2


def test_kinetics_arranged_by_classes_and_nothing_else(copy):
    """arrange_by_classes.py leaves the clips where they are, and links them into class folders."""
    download = copy("kinetics400")
    shutil.rmtree(download / "annotations")
    shutil.rmtree(download / "train")
    (download / "replacement/replacement_for_corrupted_k400").mkdir(parents=True)
    mended = download / "replacement/replacement_for_corrupted_k400/sample-0002.mp4"
    mended.write_bytes(b"mended")
    for name, place in (
        ("sample-0001_000059_000069", "abseiling"),
        ("sample-0002_000040_000050", "air drumming"),
    ):
        (download / "videos/val" / place).mkdir(parents=True)
        (download / f"videos/val/{place}/{name}.mp4").symlink_to(download / f"val/{name}.mp4")
    listing = dataset("kinetics400").listing(download)
    first, second = listing.splits["val"]
    assert (first["id"], first["label"]) == ("sample-0001_000059_000069", 0)
    assert first["vision"].parent.name == "abseiling"
    assert dataset("kinetics400").record(first)["vision"] == first["vision"].resolve().read_bytes()
    assert second == {"id": "sample-0002_000040_000050", "vision": mended, "label": 1}
    assert listing.notes == ("val: 1 clips in no class's folder are left out",)


def test_an_invented_video_has_two_seconds_of_picture_and_sound(tmp_path):
    path = tmp_path / "a.mp4"
    invented.write_video(path, 3)
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        sound = [frame.to_ndarray() for frame in container.decode(audio=0)]
        assert container.streams.audio[0].rate == invented.RATE
    assert len(frames) == 2 * invented.FRAMES and frames[0].shape == (64, 96, 3)
    assert abs(frames[0].astype(int) - frames[-1]).max() > 50  # something moves
    assert abs(sum(part.shape[-1] for part in sound) - 2 * invented.RATE) <= 2048
    assert max(abs(part).max() for part in sound) > 0.1


def test_a_table_is_read_by_its_columns_names(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('\ufeffa,b\n1,"x, ""y"""\n\n2, "ä\nö"\n', encoding="utf-8")
    assert list(reading.table(path, ("b",))) == [{"a": "1", "b": 'x, "y"'}, {"a": "2", "b": "ä\nö"}]
    path.write_text("# a note\n1;2\n")
    assert list(reading.table(path, header="ab", delimiter=";", comment="#")) == [
        {"a": "1", "b": "2"}
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,c\n1,2\n", "has no column 'b': a, c"),
        (b"a,b\n1,2\n1,2,3\n", "line 3: 3 fields in place of a, b"),
        (b'a,b\n1,"2', "unexpected end of data"),
        (b'a,b\n1,"2"3\n', "expected after"),
        (b"a,b\n\xff,2\n", "can't decode"),
        (b"a,b\n1," + 200_000 * b"x", "field larger than"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, content, message):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        list(reading.table(path, ("a", "b")))
    assert "a.csv" in str(error.value)


def test_no_table_at_all(tmp_path):
    with pytest.raises(UserError, match="cannot read .*a.csv"):
        list(reading.table(tmp_path / "a.csv"))
    with pytest.raises(UserError, match="cannot read .*a.txt"):
        reading.lines(tmp_path / "a.txt")


@pytest.mark.parametrize("text, value", [("30.000", 30), ("7", 7), ("-1", -1)])
def test_whole_numbers(text, value):
    assert reading.integer(text, pathlib.Path("t.csv")) == value


@pytest.mark.parametrize("text", ["", "1.5", "inf", "nan", "1e999", "x"])
def test_what_is_no_whole_number_is_refused(text):
    with pytest.raises(UserError, match="t.csv: .* is not a whole number"):
        reading.integer(text, pathlib.Path("t.csv"))


@pytest.mark.parametrize("text, value", [("239.800", 239.8), ("7", 7.0), ("0.000", 0.0)])
def test_times(text, value):
    assert reading.seconds(text, pathlib.Path("t.csv")) == value


@pytest.mark.parametrize("text", ["", "-0.5", "inf", "nan", "1e999", "x"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(UserError, match="t.csv: .* is not a time in seconds"):
        reading.seconds(text, pathlib.Path("t.csv"))


@pytest.mark.parametrize(
    ("stem", "ids"),
    [
        ("abcdefghijk", ["abcdefghijk"]),
        ("abcdefghijk_30", ["abcdefghijk"]),
        ("abcdefghijk_30000_40000", ["abcdefghijk"]),
        ("Yabcdefghijk", ["abcdefghijk"]),
        ("Yabcdefghij", ["Yabcdefghij"]),
        ("Yabcdefghij_3", ["Yabcdefghij"]),
        ("Yabcdefghij__3", ["Yabcdefghij", "abcdefghij_"]),
        ("abcdefghijklm", []),
        ("short", []),
        ("", []),
    ],
)
def test_videos_by_the_names_of_their_files(stem, ids):
    assert list(reading.video_ids(stem)) == ids


def test_the_files_of_a_folder(tmp_path):
    for name in ("a.wav", "a.MP4", "b.flac", "c.txt", "d", ".wav"):
        (tmp_path / name).touch()
    assert reading.scan(tmp_path, (".mp4", ".wav", ".flac")) == {"a": "a.MP4", "b": "b.flac"}
    assert reading.scan(tmp_path / "nowhere", (".wav",)) == {}
