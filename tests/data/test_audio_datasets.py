"""The datasets of sounds: samples in the official layouts are listed exactly, and nothing is made up."""

import pickle
import shutil

import pytest
from official import dataset, rows

from imagebind_jax.data import reading
from imagebind_jax.errors import UserError

pytest.importorskip("av")


@pytest.mark.parametrize(
    ("name", "count", "some"),
    [
        ("esc50", 50, {0: "dog", 13: "crickets", 49: "hand saw"}),
        ("audioset", 527, {0: "Speech", 137: "Music", 526: "Field recording"}),
        ("vggsound", 309, {0: "air conditioning noise", 308: "zebra braying"}),
    ],
)
def test_the_classes_are_known(samples, name, count, some):
    listing = dataset(name).listing(samples(name))
    assert len(set(listing.classes)) == len(listing.classes) == count
    assert {label: listing.classes[label] for label in some} == some
    assert listing.prompts == reading.templates() and listing.notes == ()


def test_the_prompts_are_clips_80():
    prompts = reading.templates()
    assert len(set(prompts)) == 80 and all(prompt.count("{}") == 1 for prompt in prompts)
    assert (prompts[0], prompts[-1]) == ("a bad photo of a {}.", "a tattoo of the {}.")
    assert "Copyright (c) 2021 OpenAI" in (reading.HERE / "LICENSE-CLIP").read_text()


def test_esc50(samples):
    listing = dataset("esc50").listing(samples("esc50"))
    assert list(listing.splits) == ["fold1", "fold2", "fold3", "fold4", "fold5"]
    assert rows(listing, "fold1") == [
        {"id": "1-100032-A-0", "audio": "1-100032-A-0.wav", "label": 0, "fold": 1},
        {"id": "1-100038-A-14", "audio": "1-100038-A-14.wav", "label": 14, "fold": 1},
    ]
    assert [row["id"] for row in listing.splits["fold5"]] == ["5-117120-A-48"]
    assert listing.classes[33] == "door wood creaks" and listing.missing["fold5"] == 1


def test_esc50_takes_the_tables_word_for_a_class_and_says_so(copy):
    download = copy("esc50")
    table = download / "meta/esc50.csv"
    table.write_text(table.read_text().replace("rooster", "big_rooster"))
    listing = dataset("esc50").listing(download)
    assert listing.classes[1] == "big rooster"
    assert listing.notes == ("esc50.csv: class 1 is 'big rooster', not 'rooster'",)


@pytest.mark.parametrize("fold, target", [(6, 1), (0, 1), (2, 50), (2, -1), (2, "x"), (2, 1.5)])
def test_esc50_refuses_what_cannot_be(copy, fold, target):
    download = copy("esc50")
    table = download / "meta/esc50.csv"
    table.write_text(table.read_text().replace("2,1,rooster", f"{fold},{target},rooster"))
    with pytest.raises(UserError, match=r"esc50\.csv"):
        dataset("esc50").listing(download)


def test_a_name_in_a_table_does_not_lead_out_of_the_folder(copy):
    download = copy("esc50")
    shutil.copy(download / "audio/2-100786-A-1.wav", download / "meta/secret.wav")
    table = download / "meta/esc50.csv"
    table.write_text(table.read_text().replace("2-100786-A-1.wav", "../meta/secret.wav"))
    listing = dataset("esc50").listing(download)
    assert listing.splits["fold2"] == [] and listing.missing["fold2"] == 1


def test_audioset(samples):
    listing = dataset("audioset").listing(samples("audioset"))
    assert {split: rows(listing, split) for split in listing.splits} == {
        "balanced_train": [
            {"id": "sample-0001_30", "audio": "sample-0001.wav", "label": [0]},
            {"id": "sample_0002_0", "audio": "Ysample_0002.flac", "label": [74, 73]},
        ],
        "unbalanced_train": [
            {"id": "Ysample0003_110", "vision": "Ysample0003_110.mp4", "label": [137]},
            {
                "id": "sample-004__239.8",
                "vision": "sample-004__239800_249800.mp4",
                "label": [137, 140],
            },
        ],
        "eval": [{"id": "sample-0005_4", "audio": "sample-0005_4.000.wav", "label": [307]}],
    }
    assert [listing.classes[label] for label in (74, 73, 307)] == [
        "Dog",
        "Domestic animals, pets",
        "Car",
    ]
    assert listing.missing == {"balanced_train": 0, "unbalanced_train": 0, "eval": 1}


def test_audiocaps_with_a_start_between_two_seconds(copy):
    download = copy("audiocaps")
    table = download / "dataset/train.csv"
    shutil.rmtree(download / "AudioCaps_retrieval_dataset")
    table.write_text(table.read_text().replace(",70,", ",417.3,"))
    assert [row["id"] for row in dataset("audiocaps").listing(download).splits["train"]] == [
        "sample-0001_417.3"
    ]


def test_audiosets_rows_are_a_sequence(samples):
    found = dataset("audioset").listing(samples("audioset")).splits["unbalanced_train"]
    first, last = found
    assert (found[0], found[-1], list(found[1:])) == (first, last, [last])
    assert pickle.loads(pickle.dumps(found))[1] == last
    with pytest.raises(IndexError):
        found[2]


def test_audioset_in_one_folder_a_medium(copy):
    download = copy("audioset")
    (download / "audio").mkdir()
    shutil.move(download / "eval_segments/sample-0005_4.000.wav", download / "audio")
    (download / "audio/sample-0006.mp4").write_bytes(b"...")  # a video goes before a sound
    (download / "audio/sample-0006.wav").write_bytes(b"...")
    found = rows(dataset("audioset").listing(download), "eval")
    assert [row.get("audio", row.get("vision")) for row in found] == [
        "sample-0005_4.000.wav",
        "sample-0006.mp4",
    ]


def test_audiosets_own_classes(copy):
    download = copy("audioset")
    table = download / "class_labels_indices.csv"
    text = table.read_text()
    table.write_text(text.replace('"Dog"', '"Hound"'))
    listing = dataset("audioset").listing(download)
    assert listing.classes[74] == "Hound" and "not the 527 known ones" in listing.notes[0]
    table.unlink()
    assert dataset("audioset").listing(download).classes[74] == "Dog"
    table.write_text(text.replace("\n74,", "\n75,"))
    with pytest.raises(UserError, match="index does not count"):
        dataset("audioset").listing(download)
    table.write_text("".join(text.splitlines(True)[:75]))  # without dogs
    with pytest.raises(UserError, match="sample_0002 has the unknown label '/m/0bt9lr'"):
        dataset("audioset").listing(download)


def test_vggsound(samples):
    listing = dataset("vggsound").listing(samples("vggsound"))
    place = listing.classes.index
    assert [(row["id"], row["label"]) for row in listing.splits["train"]] == [
        ("sample-0001_000030", place("playing hammond organ")),
        ("sample-0001_000130", place("playing hammond organ")),
        ("sample-0002_000004", place("bird chirping, tweeting")),
    ]
    assert rows(listing, "test") == [
        {"id": f"{stem}", "vision": f"{stem}.mp4", "label": place(name)}
        for stem, name in (
            ("sample-0003_000000", "dog barking"),
            ("-ample-0004_000061", "railroad car, train wagon"),
        )
    ]
    assert listing.missing == {"train": 0, "test": 1} and list(listing.splits) == ["train", "test"]


def test_vggsounds_table_with_a_header_and_with_classes_of_its_own(copy):
    download = copy("vggsound")
    table = download / "vggsound.csv"
    text = table.read_text()
    table.write_text("youtube_id,start_seconds,label,split\n" + text)
    assert len(dataset("vggsound").listing(download).splits["train"]) == 3
    table.write_text(text.replace("dog barking", "dog singing"))
    listing = dataset("vggsound").listing(download)
    assert listing.classes == (
        "air horn",
        "bird chirping, tweeting",
        "dog singing",
        "playing hammond organ",
        "railroad car, train wagon",
    )
    assert (
        listing.splits["test"][0]["label"] == 2
        and "'dog singing' is not one of" in listing.notes[0]
    )
    table.write_text(text.replace("barking,test", "barking,dev"))
    with pytest.raises(UserError, match="'dev', not train or test"):
        dataset("vggsound").listing(download)


def test_vggsounds_test_list(copy):
    download = copy("vggsound")
    (download / "vggsound.csv").unlink()
    (download / "test.csv").write_text(
        'sample-0003_000000.mp4,dog barking\n-ample-0004_000061.mp4,"railroad car, train wagon"\n'
    )
    listing = dataset("vggsound").listing(download)
    assert [row["id"] for row in listing.splits["test"]] == [
        "sample-0003_000000",
        "-ample-0004_000061",
    ]
    assert list(listing.splits) == ["test"] and listing.missing == {"test": 0}
    assert listing.notes == ("test.csv has the test split alone; vggsound.csv has train too",)
    # The authors' repository has both in data/: then all is listed.
    (download / "data").mkdir()
    (download / "data" / "vggsound.csv").write_text("sample-0001,30,playing hammond organ,train\n")
    (download / "test.csv").rename(download / "data" / "test.csv")
    listing = dataset("vggsound").listing(download)
    assert {split: len(found) for split, found in listing.splits.items()} == {"train": 1}
    assert listing.notes == ()


def test_clotho(samples, copy):
    listing = dataset("clotho").listing(samples("clotho"))
    assert {split: len(found) for split, found in listing.splits.items()} == {
        "development": 2,
        "validation": 1,
        "evaluation": 2,
    }
    assert rows(listing, "validation") == [
        {
            "id": "validation/Kitchen tap, dripping",
            "audio": "Kitchen tap, dripping.wav",
            "text": [
                "The sound of a dripping tap in the distance",
                "There is a dripping tap, and then a long silence",
                "Somebody records a dripping tap, standing still",
                "At first quietly, later loudly, a dripping tap can be heard",
                "a dripping tap goes on and on",
            ],
        }
    ]
    assert listing.missing["evaluation"] == 1


def test_clothos_colons_that_an_unpacker_replaced(copy):
    download = copy("clotho")
    table = download / "clotho_captions_evaluation.csv"
    table.write_text(table.read_text().replace("Night train.wav", "Night : train.wav"))
    (download / "evaluation/Night train.wav").rename(download / "evaluation/Night_train.wav")
    found = rows(dataset("clotho").listing(download), "evaluation")
    assert (found[0]["id"], found[0]["audio"]) == ("evaluation/Night : train", "Night_train.wav")


def test_clotho_without_a_column(copy):
    download = copy("clotho")
    table = download / "clotho_captions_evaluation.csv"
    table.write_text(table.read_text().replace("caption_5", "caption_6"))
    with pytest.raises(UserError, match="has no column 'caption_5'"):
        dataset("clotho").listing(download)


@pytest.mark.parametrize(
    ("name", "folder", "split", "listed"),
    [
        ("audioset", "balanced_train_segments", "balanced_train", 2),
        ("clotho", "development", "development", 2),
        ("audiocaps", "audio/train", "train", 1),
    ],
)
def test_one_split_can_be_prepared_without_the_media_of_another(copy, name, folder, split, listed):
    download = copy(name)
    shutil.rmtree(download / folder)
    listing = dataset(name).listing(download)
    assert len(listing.splits[split]) == 0 and listing.missing[split] == listed
    assert sum(len(found) for found in listing.splits.values()) > 0


def test_audiocaps_is_the_papers_subset_where_that_is_there(samples):
    listing = dataset("audiocaps").listing(samples("audiocaps"))
    assert [len(row["text"]) for row in listing.splits["train"]] == [1]
    assert [len(row["text"]) for row in listing.splits["val"]] == [5]
    first, second = rows(listing, "test")
    assert (first["id"], first["audio"]) == ("sample-0003_0", "sample-0003_0_10000.flac")
    assert (second["id"], second["vision"]) == ("sample-0004_160", "sample-0004_160.mp4")
    assert first["text"] == [
        "A tone of 0 Hz beats slowly",
        "Somebody plays a note, twice a second, number 0",
        "Beeping followed by beeping 0",
        "An electronic instrument hums at 0",
        "Sound 0 of a small synthesizer",
    ]
    assert listing.missing == {"train": 0, "val": 0, "test": 1}
    assert listing.notes[-1] == "test: the paper's subset, retrieval_test.csv"


def test_audiocaps_without_the_subset_says_so(copy):
    download = copy("audiocaps")
    shutil.rmtree(download / "AudioCaps_retrieval_dataset")
    listing = dataset("audiocaps").listing(download)
    assert [row["id"] for row in listing.splits["test"]] == [
        "sample-0003_0",
        "sample-0004_160",
        "sample-0006_20",
    ]
    assert len(listing.notes) == 1 and "not the paper's 796 clips" in listing.notes[0]
