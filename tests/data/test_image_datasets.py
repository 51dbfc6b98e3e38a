"""ImageNet, Places365, LLVIP and captioned images: the samples in official layouts, and wrong ones."""

import importlib.util
import io
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from imagebind_jax.data.captions import builder as captions
from imagebind_jax.data.captions import sample as captions_sample
from imagebind_jax.data.imagenet import builder as imagenet
from imagebind_jax.data.imagenet import sample as imagenet_sample
from imagebind_jax.data.llvip import builder as llvip
from imagebind_jax.data.llvip import sample as llvip_sample
from imagebind_jax.data.places365 import builder as places365
from imagebind_jax.data.places365 import sample as places365_sample
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.datasets import inline_files
from imagebind_jax.inputs.decoders import images, media
from imagebind_jax.inputs.transforms import thermal


def pixels(encoded) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


# ---- ImageNet


def test_imagenet_has_clip_names_in_the_order_of_synsets():
    folder = pathlib.Path(imagenet.__file__).parent
    synsets = (folder / "synsets.txt").read_text().splitlines()
    names = (folder / "classes.txt").read_text().splitlines()
    assert synsets == sorted(set(synsets)) and len(synsets) == len(names) == 1000
    known = {"n01440764": "tench", "n02012849": "crane bird", "n03126707": "construction crane"}
    known |= {
        "n01608432": "kite (bird of prey)",
        "n13133613": "corn cob",
        "n15075141": "toilet paper",
    }
    assert {synset: names[synsets.index(synset)] for synset in known} == known


@pytest.mark.parametrize("layout", ["write", "write_devkit", "write_folders"])
def test_imagenet_in_each_layout(layout, tmp_path):
    getattr(imagenet_sample, layout)(tmp_path)
    found = imagenet.listing(tmp_path)
    labels = [65, 970, 0, 998]  # of n01751748, n09193705, n01440764, n13133613
    assert [(row["id"], row["label"]) for row in found.splits["val"]] == [
        (f"val/ILSVRC2012_val_0000000{number}", label) for number, label in enumerate(labels, 1)
    ]
    assert found.missing == {"val": 0 if layout == "write_folders" else 1}
    assert [(row["id"], row["label"]) for row in found.splits["train"]] == [
        ("train/n01440764_10026", 0),
        ("train/n15075141_999", 999),
    ]
    assert len(found.classes) == 1000 and len(found.prompts) == 80
    record = inline_files(found.splits["val"][0])
    assert media.sniff_media_type(record["vision"]) == "image"


def test_imagenet_by_the_folder_itself_or_its_parent(tmp_path):
    imagenet_sample.write(tmp_path / "inner")
    val = tmp_path / "inner" / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    for given in (tmp_path, tmp_path / "inner", tmp_path / "inner" / "ILSVRC", val.parent, val):
        assert len(imagenet.listing(given).splits["val"]) == 4


def test_imagenet_by_its_folder_val_and_with_a_hidden_folder(tmp_path, monkeypatch):
    imagenet_sample.write_folders(tmp_path)
    (tmp_path / "val" / ".ipynb_checkpoints").mkdir()
    monkeypatch.chdir(tmp_path / "val")
    for given in (tmp_path / "val", pathlib.Path(".")):
        found = imagenet.listing(given)
        assert {split: len(rows) for split, rows in found.splits.items()} == {"val": 4, "train": 2}


def test_imagenet_without_labels_or_with_strange_ones(tmp_path):
    imagenet_sample.write(tmp_path)
    table = tmp_path / "LOC_val_solution.csv"
    text = table.read_text()
    table.write_text(text.replace("n01751748", "n00000001"))
    with pytest.raises(UserError, match="'n00000001' is not one of ImageNet-1k's synsets"):
        imagenet.listing(tmp_path)
    table.unlink()
    with pytest.raises(UserError, match="LOC_val_solution.csv"):
        imagenet.listing(tmp_path)
    (tmp_path / "ILSVRC" / "Data" / "CLS-LOC" / "val" / "dogs").mkdir()
    with pytest.raises(UserError, match="dogs is not one of"):
        imagenet.listing(tmp_path)


def test_imagenet_with_a_broken_meta_mat(tmp_path):
    imagenet_sample.write_devkit(tmp_path)
    meta = tmp_path / "ILSVRC2012_devkit_t12" / "data" / "meta.mat"
    meta.write_bytes(meta.read_bytes()[:200])
    with pytest.raises(UserError, match="meta.mat as a MATLAB file"):
        imagenet.listing(tmp_path)


# ---- Places365


def test_places365_names_are_those_of_the_official_list():
    folder = pathlib.Path(places365.__file__).parent
    names = (folder / "classes.txt").read_text().splitlines()
    categories = (folder / "categories.txt").read_text().splitlines()
    assert [places365.class_name(f"/{name[0]}/{name}") for name in categories] == names
    assert len(set(names)) == 365
    assert names[0] == "airfield" and names[8] == "outdoor apartment building"
    assert names[-1] == "zen garden"
    tfds = importlib.util.find_spec("tensorflow_datasets").submodule_search_locations[0]
    theirs = pathlib.Path(tfds) / "image_classification" / "categories_places365.txt"
    assert theirs.read_text().splitlines() == categories


def test_places365(tmp_path):
    places365_sample.write(tmp_path)
    found = places365.listing(tmp_path)
    assert [(row["id"], row["label"]) for row in found.splits["val"]] == [
        ("val/Places365_val_00000001.jpg", 165),
        ("val/Places365_val_00000002.jpg", 358),
        ("val/Places365_val_00000003.jpg", 93),
        ("val/Places365_val_00000004.jpg", 8),
    ]
    assert found.missing == {"val": 1} and found.notes == () and len(found.classes) == 365
    assert media.sniff_media_type(inline_files(found.splits["val"][0])["vision"]) == "image"


def test_places365_lists_that_do_not_fit(tmp_path):
    places365_sample.write(tmp_path)
    labels, names = tmp_path / "places365_val.txt", tmp_path / "categories_places365.txt"
    labels.write_text(labels.read_text().replace(" 165\n", " 365\n"))
    with pytest.raises(UserError, match="class 365 is not one of the 365"):
        places365.listing(tmp_path)
    names.write_text(names.read_text().replace("/a/alcove 3\n", ""))
    with pytest.raises(UserError, match="does not count its classes from 0"):
        places365.listing(tmp_path)
    names.unlink()
    with pytest.raises(
        UserError, match="categories_places365.txt.*filelist_places365-standard.tar"
    ):
        places365.listing(tmp_path)


# ---- LLVIP


def test_llvip_pairs_and_people(tmp_path):
    llvip_sample.write(tmp_path)
    found = llvip.listing(tmp_path)
    assert [row["id"] for row in found.splits["train"]] == ["train/010001", "train/010002"]
    assert [row["id"] for row in found.splits["test"]] == ["test/190001", "test/190002"]
    assert found.missing == {"train": 0, "test": 1, "person_test": 0}
    assert found.classes == ("person", "background")
    people = [row for row in found.splits["person_test"] if row["label"] == 0]
    # Clipped to the image's border; the box without area is no box.
    assert [(row["id"], row["box"]) for row in people] == [
        ("person_test/190001-person-0", [20, 40, 60, 140]),
        ("person_test/190001-person-1", [100, 50, 130, 120]),
        ("person_test/190002-person-0", [200, 100, 256, 220]),
    ]
    assert len(found.splits["person_test"]) == 6
    assert found.splits["person_test"] == llvip.listing(tmp_path).splits["person_test"]


def test_llvip_background_is_as_large_as_the_person_and_touches_nobody(tmp_path):
    llvip_sample.write(tmp_path)
    rows = llvip.listing(tmp_path).splits["person_test"]
    free = {row["vision"]: np.ones((256, 256), bool) for row in rows}
    for left, top, right, bottom, image in ((*row["box"], row["vision"]) for row in rows[::2]):
        free[image][top:bottom, left:right] = False
    for person, other in zip(rows[::2], rows[1::2], strict=True):
        assert other["id"] == person["id"].replace("person-", "background-")
        left, top, right, bottom = other["box"]
        width, height = (person["box"][2] - person["box"][0], person["box"][3] - person["box"][1])
        assert (right - left, bottom - top) == (width, height)
        assert min(left, top) >= 0 and max(right, bottom) <= 256
        assert free[other["vision"]][top:bottom, left:right].all()


def test_llvip_crops_are_the_pixels_of_the_image(tmp_path):
    llvip_sample.write(tmp_path)
    row = llvip.listing(tmp_path).splits["person_test"][0]
    record = llvip.DATASET.record(row)
    left, top, right, bottom = row["box"]
    for key, mode in (("vision", "RGB"), ("thermal", "L")):
        whole = np.asarray(images.open_image(row[key]).convert(mode))
        np.testing.assert_array_equal(pixels(record[key]), whole[top:bottom, left:right])
    assert record["label"] == 0 and record["id"] == row["id"]
    assert thermal.Thermal(size=32)(record, None).shape == (32, 32, 1)
    pair = llvip.DATASET.record(llvip.listing(tmp_path).splits["train"][0])
    assert pair["thermal"] == (tmp_path / "LLVIP/infrared/train/010001.jpg").read_bytes()


def test_llvip_no_place_for_a_background():
    whole = (0, 0, 100, 100)
    assert llvip.background(whole, [whole], 100, 100, np.random.default_rng(0)) is None


BOMB = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'


@pytest.mark.parametrize(
    "annotation",
    [
        BOMB.encode(),
        BOMB.encode("utf-16"),
        b"<annotation>",
        b"",
        b"<annotation></annotation>",
        b"<annotation><size><width>1e999</width><height>1</height></size></annotation>",
        b"<a>" * (1 << 19),
    ],
)
def test_llvip_refuses_what_is_no_annotation(annotation, tmp_path):
    path = tmp_path / "190001.xml"
    path.write_bytes(annotation)
    with pytest.raises(UserError, match="190001.xml as an annotation"):
        llvip.read_annotation(path)


def test_llvip_incomplete(tmp_path):
    llvip_sample.write(tmp_path)
    (tmp_path / "LLVIP" / "Annotations" / "190002.xml").unlink()
    found = llvip.listing(tmp_path)
    assert found.missing["person_test"] == 1 and len(found.splits["person_test"]) == 4
    for file in (tmp_path / "LLVIP" / "visible" / "train").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="no pair of images in .*visible/train.*LLVIP.zip"):
        llvip.listing(tmp_path)


# ---- captioned images


@pytest.mark.parametrize(
    ("layout", "files", "missing"),
    [
        (
            "write",
            {"train": ["images/0.jpg", "images/1.jpg", "images/2.jpg"]},
            {"train": 1, "val": 1},
        ),
        ("write_csv", {"all": ["images/0.jpg", "images/1.jpg"]}, {"all": 1}),
        ("write_texts", {"all": ["0.jpg", "1.jpg"]}, {"all": 0}),
        ("write_coco", {"val2017": ["0.jpg", "1.jpg"]}, {"val2017": 1}),
    ],
)
def test_captions_in_each_layout(layout, files, missing, tmp_path):
    getattr(captions_sample, layout)(tmp_path)
    found = captions.listing(tmp_path)
    for split, names in files.items():
        assert [row["id"] for row in found.splits[split]] == [f"{split}/{name}" for name in names]
    assert found.missing == missing
    for rows in found.splits.values():
        counts = [len(row["text"]) for row in rows]
        assert sorted(counts)[-1] == 2 and all(row["vision"].is_file() for row in rows)
        texts = [text for row in rows for text in row["text"]]
        assert "a second caption" in texts and "nobody sees it" not in texts


@pytest.mark.parametrize("file", ["../secret.jpg", "/etc/secret.jpg", "", "a/../../b.jpg"])
def test_captions_stay_in_their_folder(file, tmp_path):
    line = json.dumps({"file": file, "caption": "a secret"})
    (tmp_path / "captions.jsonl").write_text(line)
    with pytest.raises(UserError, match="is not a file in its folder"):
        captions.listing(tmp_path)


def test_captions_of_an_image_that_coco_does_not_list(tmp_path):
    captions_sample.write_coco(tmp_path)
    path = tmp_path / "annotations" / "captions_val2017.json"
    coco = json.loads(path.read_text())
    coco["annotations"].append({"id": 99, "image_id": 7, "caption": "of what?"})
    coco["images"].append({"id": 8, "file_name": "8.jpg"})
    path.write_text(json.dumps(coco))
    found = captions.listing(tmp_path)
    assert len(found.splits["val2017"]) == 2 and found.missing == {"val2017": 2}
    assert found.notes == ("val2017: images without a caption are left out: 1",)


@pytest.mark.parametrize("layout", ["jsonl", "csv", "txt"])
def test_images_without_a_caption_are_counted(layout, tmp_path):
    for name in ("0.jpg", "1.jpg"):
        (tmp_path / name).write_bytes(b"...")
    table = tmp_path / f"captions.{layout}"
    if layout == "jsonl":
        table.write_text('{"file": "0.jpg", "caption": "x"}\n{"file": "1.jpg"}\n')
    elif layout == "csv":
        table.write_text("file,caption\n0.jpg,x\n1.jpg, \n")
    else:
        (tmp_path / "0.txt").write_text("x\n")
    found = captions.listing(tmp_path)
    assert [(row["id"], row["text"]) for row in found.splits["all"]] == [("all/0.jpg", ["x"])]
    assert found.missing == {"all": 0}
    assert found.notes == ("all: images without a caption are left out: 1",)


def test_text_files_that_are_too_deep_or_ambiguous(tmp_path):
    for folder in (tmp_path, tmp_path / "deep", tmp_path / ".hidden"):
        folder.mkdir(exist_ok=True)
        (folder / "a.jpg").write_bytes(b"...")
        (folder / "a.txt").write_text("x")
    found = captions.listing(tmp_path)
    assert [row["id"] for row in found.splits["all"]] == ["all/a.jpg"]
    assert found.notes == ("all: the .txt captions in deep/ are not read: it lies too deep",)
    for name in (
        "a.jpg",
        "a.txt",
    ):  # then the split is deep/, and those in other folders are told of
        (tmp_path / name).unlink()
    (tmp_path / "other" / "inner").mkdir(parents=True)
    for name in ("other/bare.jpg", "other/inner/a.jpg", "other/inner/a.txt"):
        (tmp_path / name).write_bytes(b"...")
    found = captions.listing(tmp_path)
    assert {split: len(rows) for split, rows in found.splits.items()} == {"deep": 1}
    assert found.notes == (
        "other: images without a caption are left out: 1",
        "other: the .txt captions in inner/ are not read: it lies too deep",
    )
    for name in ("a.jpg", "a.png", "a.txt"):
        (tmp_path / name).write_bytes(b"...")
    with pytest.raises(UserError, match=r"a\.jpg and a\.png could each be meant by a\.txt"):
        captions.listing(tmp_path)


def test_captions_with_a_broken_line(tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"file": "a.jpg", "caption": "x"}\n{"caption": 1}\n')
    with pytest.raises(UserError, match="captions.jsonl, line 2"):
        captions.listing(tmp_path)
