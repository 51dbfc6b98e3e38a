"""TensorFlow Datasets: prepared and read without TensorFlow, images as they were encoded."""

import io
import pickle
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.sources import Tfds

COUNT = 4


def png(level):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (level, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset of four examples in TFDS's layout."""
    import tensorflow_datasets as tfds

    class ToyForTest(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                "told": {"text": tfds.features.Text(), "thumb": tfds.features.Image()},
                "captions": tfds.features.Sequence(tfds.features.Text()),
                "depth": tfds.features.Tensor(shape=(2, 3), dtype=np.float32),
                "f": np.float32,
            }
            features = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(COUNT):
                yield i, {
                    "image": io.BytesIO(png(i)), "label": i % 2, "captions": [f"№ {i}", "b"],
                    "told": {"text": f"told {i}", "thumb": io.BytesIO(png(100 + i))},
                    "depth": np.full((2, 3), i, np.float32), "f": 500.5,
                }  # fmt: skip

    path = tmp_path_factory.mktemp("tfds")
    ToyForTest(data_dir=path, file_format="array_record").download_and_prepare()
    return path


def test_examples_become_records(folder):
    fields = {
        "vision": "image", "label": "label", "text": "captions", "thermal": "told/thumb",
        "depth": "depth", "focal_length": "f", "said": "told/text",
    }  # fmt: skip
    found = Tfds("toy_for_test", "train", folder, fields).open()
    assert len(found) == COUNT
    for records in (found, pickle.loads(pickle.dumps(found))):
        seen = set()
        for place in range(COUNT):
            record = dict(records[place])
            i = int(record["said"].removeprefix("told "))  # TFDS shuffles
            depth = np.load(io.BytesIO(record.pop("depth")))
            np.testing.assert_array_equal(depth, np.full((2, 3), i, np.float32))
            seen.add(i)
            assert record == {
                "id": place, "vision": png(i), "label": i % 2, "text": [f"№ {i}", "b"],
                "thermal": png(100 + i), "focal_length": 500.5, "said": f"told {i}",
            }  # fmt: skip
        assert seen == set(range(COUNT))
        for index in (COUNT, -1):
            with pytest.raises(IndexError):
                records[index]
    assert "tensorflow" not in sys.modules


def test_a_split_can_be_a_part(folder):
    assert len(Tfds("toy_for_test", "train[:50%]", folder).open()) == 2


@pytest.mark.parametrize(
    ("name", "split", "fields", "words"),
    [
        (
            "toy_for_test",
            "val",
            {"vision": "image"},
            "TFDS cannot open toy_for_test val: Unknown split",
        ),
        ("nothing_here", "train", {"vision": "image"}, "Dataset nothing_here not found"),
        ("imagenet2012", "train", {"vision": "image"}, "file_format='array_record'"),
        (
            "toy_for_test",
            "train",
            {"vision": "photo"},
            "no feature 'photo': only image, label, told,",
        ),
        ("toy_for_test", "train", {"text": "told/all"}, "no feature 'told/all'"),
    ],
)
def test_what_is_not_there_is_told(name, split, fields, words, folder):
    with pytest.raises(UserError) as raised:
        Tfds(name, split, folder, fields).open()
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_config_can_hold_a_path(tmp_path):
    assert Tfds("toy_for_test", "train", tmp_path) == Tfds("toy_for_test", "train", str(tmp_path))


def test_a_misspelt_field_is_told():
    with pytest.raises(UserError, match="did you mean 'vision'"):
        Tfds("toy_for_test", "train", fields={"vison": "image"})


def test_a_damaged_example_is_a_media_error(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    [path] = (tmp_path / "copy").rglob("*train.array_record*")
    content = bytearray(path.read_bytes())
    used = np.flatnonzero(content)
    middle = used[len(used) // 2]
    content[middle : middle + 20] = bytes(20)
    path.write_bytes(content)
    found = Tfds("toy_for_test", "train", tmp_path / "copy").open()
    errors = []
    for place in range(COUNT):
        try:
            found[place]
        except MediaError as error:
            errors.append(str(error))
    assert len(errors) >= 1
    assert errors[0].startswith("toy_for_test train, example ")
