"""What holds of all these datasets: a sample in the official layout is listed, anything else is refused."""

import pickle

import pytest
from official import dataset

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders import media

pytest.importorskip("av")
SOUND, VIDEO, IMAGE = {"audio": "audio"}, {"vision": "container"}, {"vision": "image"}
# Name -> what a record may hold, and what is said of a folder that holds nothing.
SOUNDS = {
    "esc50": ([SOUND], r"csv.*https?://"),
    "audioset": ([SOUND, VIDEO], r"csv.*https?://"),
    "vggsound": ([SOUND, VIDEO], r"csv.*https?://"),
    "clotho": ([SOUND], r"csv.*https?://"),
    "audiocaps": ([SOUND, VIDEO], r"csv.*https?://"),
}
VIDEOS = {
    "msrvtt": ([VIDEO], r"csv.*https://github"),
    "kinetics400": ([VIDEO], r"csv.*https://github"),
}
EMOTIONS = {
    name: ([VIDEO, SOUND, VIDEO | SOUND], r"no .*mp4 or .*wav in .*; (unpack|clone) .*https://")
    for name in ("ravdess", "crema_d")
}
PICTURES = {
    "imagenet": ([IMAGE], None),
    "places365": ([IMAGE], None),
    "llvip": ([IMAGE | {"thermal": "image"}], None),
    "captions": ([IMAGE], None),
}
ALL = SOUNDS | VIDEOS | EMOTIONS | PICTURES


@pytest.mark.parametrize("name", ALL)
def test_a_sample_is_listed_and_its_records_hold_media(samples, name):
    listing = dataset(name).listing(samples(name))
    everything = [row for split in listing.splits.values() for row in split]
    assert len({row["id"] for row in everything}) == len(everything) > 1
    if name in SOUNDS | VIDEOS:
        assert listing.missing.keys() == listing.splits.keys()
        assert sum(listing.missing.values()) == 1
    record_of = pickle.loads(pickle.dumps(dataset(name).record))  # as other processes have it
    modalities = set(dataset(name).modalities)
    for row in everything:
        record = record_of(row)
        held = {
            field: media.sniff_media_type(record[field])
            for field in {"audio", "vision", "thermal"} & set(record)
        }
        assert held in ALL[name][0]
        assert all(isinstance(record[field], bytes) for field in held)
        if name in SOUNDS:
            assert set(record) - {"id", "fold", "label", "text"} <= modalities
        labels = record.get("label", [])
        labels = labels if isinstance(labels, list) else [labels]
        assert all(0 <= label < len(listing.classes) for label in labels)


@pytest.mark.parametrize("name", SOUNDS | VIDEOS | EMOTIONS)
def test_the_folder_itself_is_the_same_download_as_its_parent(samples, name):
    (inner,) = samples(name).iterdir()
    whole, itself = (dataset(name).listing(folder) for folder in (samples(name), inner))
    assert {split: list(found) for split, found in whole.splits.items()} == {
        split: list(found) for split, found in itself.splits.items()
    }
    for said in ("missing", "classes", "prompts", "notes"):
        assert getattr(whole, said) == getattr(itself, said)


@pytest.mark.parametrize("name", ALL)
def test_a_folder_of_something_else_is_one_line_with_the_remedy(tmp_path, name):
    (tmp_path / "something").mkdir()
    absent = "csv|cannot read the folder" if name in SOUNDS else None
    for folder, words in ((tmp_path, ALL[name][1]), (tmp_path / "absent", absent)):
        with pytest.raises(UserError, match=words) as error:
            dataset(name).listing(folder)
        assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", SOUNDS | VIDEOS)
def test_tables_without_one_file_are_refused(copy, name):
    download = copy(name)
    for path in download.rglob("*"):
        if path.suffix in (".wav", ".flac", ".mp4"):
            path.unlink()
    example = r": e\.g\. v" if name in VIDEOS else ""
    with pytest.raises(UserError, match=rf"none of the \d+ files listed is there{example}"):
        dataset(name).listing(download)
