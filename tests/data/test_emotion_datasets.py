"""The datasets of emotional speech: their names are read, and nobody is in two splits."""

import pytest
from official import dataset, rows

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import audio_files, media
from imagebind_jax.inputs.transforms import vision

pytest.importorskip("av")
NAMES = ("ravdess", "crema_d")
CLASSES = ("angry", "happy", "sad", "neutral")


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_listed_by_actors(samples, name):
    listing = dataset(name).listing(samples(name))
    assert listing.classes == CLASSES
    assert all(prompt.count("{}") == 1 for prompt in listing.prompts)
    actors = {split: {row["actor"] for row in found} for split, found in listing.splits.items()}
    assert [len(actors[split]) for split in ("train", "val", "test")] == [2, 2, 2]
    assert len(set.union(*actors.values())) == 6
    every = [row for found in listing.splits.values() for row in found]
    assert len({row["id"] for row in every}) == len(every) in (23, 24)
    assert {row["label"] for row in every} == {0, 1, 2, 3}


@pytest.mark.parametrize("name", NAMES)
def test_what_a_record_holds_is_seen_and_heard(samples, name):
    listing = dataset(name).listing(samples(name))
    record = dataset(name).record(listing.splits["train"][0])
    assert media.sniff_media_type(record["vision"]) == "container"
    assert vision.FramesTransform(16)(record, None).shape == (2, 16, 16, 3)
    assert audio_files.duration(record["audio"]) == pytest.approx(1.0, abs=1e-3)
    assert audio_files.duration(record["vision"]) == pytest.approx(1.0, abs=0.15)


def test_every_actor_has_its_split():
    from imagebind_jax.data.crema_d import builder as crema_d
    from imagebind_jax.data.ravdess import builder as ravdess

    for splits, first, last in ((ravdess.SPLITS, 1, 24), (crema_d.SPLITS, 1001, 1091)):
        assert sorted(a for actors in splits.values() for a in actors) == [*range(first, last + 1)]
    for actors in ravdess.SPLITS.values():  # odd men, even women
        assert sum(actor % 2 for actor in actors) * 2 == len(actors)


def test_ravdess(samples):
    listing = dataset("ravdess").listing(samples("ravdess"))
    first = rows(listing, "train")[0]
    assert first == {
        "id": "01-01-01-01-01-01",
        "label": 3,
        "actor": 1,
        "intensity": 1,
        "statement": 1,
        "repetition": 1,
        "vision": "01-01-01-01-01-01-01.mp4",
        "audio": "03-01-01-01-01-01-01.wav",
    }
    assert [row["label"] for row in listing.splits["val"]] == [3, 3, 1, 1, 2, 2, 0, 0]  # by name
    assert "audio" not in listing.splits["test"][0]
    assert listing.notes == ("24 of the 672 recordings in speech of four emotions are there",)


def test_ravdess_however_it_was_unpacked(copy):
    download = copy("ravdess")
    whole = dataset("ravdess").listing(download)
    for i in (1, 2):
        place = download / f"Video_Speech_Actor_{i:02d}"
        place.mkdir()
        (download / f"Actor_{i:02d}").rename(place / f"Actor_{i:02d}")
    moved = dataset("ravdess").listing(download.parent)
    assert [rows(moved, split) for split in moved.splits] == [
        rows(whole, split) for split in whole.splits
    ]


def test_ravdess_pictures_alone_are_taken_where_there_are_no_others(copy):
    download = copy("ravdess")
    folder = download / "Actor_01"
    for emotion in ("03", "04"):
        silent = folder / f"02-01-{emotion}-01-01-01-01.mp4"
        silent.write_bytes((folder / f"01-01-{emotion}-01-01-01-01.mp4").read_bytes())
    (folder / "01-01-03-01-01-01-01.mp4").unlink()
    found = {row["id"]: row for row in rows(dataset("ravdess").listing(download), "train")}
    assert found["01-03-01-01-01-01"]["vision"] == "02-01-03-01-01-01-01.mp4"
    assert found["01-04-01-01-01-01"]["vision"] == "01-01-04-01-01-01-01.mp4"


def test_crema_d(samples):
    listing = dataset("crema_d").listing(samples("crema_d"))
    assert rows(listing, "train")[0] == {
        "id": "1001_IEO_ANG_XX",
        "vision": "1001_IEO_ANG_XX.mp4",
        "audio": "1001_IEO_ANG_XX.wav",
        "label": 0,
        "actor": 1001,
        "sentence": "IEO",
        "level": "XX",
        "voice_vote": "A",
        "face_vote": "A",
        "both_vote": "A",
        "age": "30",
        "sex": "Female",
    }
    assert listing.missing == {"train": 0, "val": 0, "test": 1}


def test_crema_d_without_its_tables_and_with_flash_videos(copy):
    download = copy("crema_d")
    (download / "processedResults/summaryTable.csv").unlink()
    (download / "VideoDemographics.csv").unlink()
    flash = download / "VideoFlash/1001_IEO_ANG_XX.flv"
    flash.with_suffix(".mp4").rename(flash)
    (download / "AudioWAV/1001_IEO_HAP_XX.wav").unlink()
    listing = dataset("crema_d").listing(download)
    assert sum(listing.missing.values()) == 0
    first, second = rows(listing, "train")[:2]
    assert "audio" in first and not {"vision", "sex"} & first.keys()
    assert "vision" in second and "audio" not in second
    assert listing.notes == (
        "1 of the videos are Flash, which is not read: convert them (README.md)",
    )
    flash.with_name("2000_IEO_ANG_XX.mp4").write_bytes(b"...")
    with pytest.raises(UserError, match="2000_IEO_ANG_XX in .* is of no actor from 1001 to 1091"):
        dataset("crema_d").listing(download)
