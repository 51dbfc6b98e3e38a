"""Scenes of several objects: what is said of each is true of its pixels, and nothing depends on order."""

import functools
import io
import itertools

import numpy as np
import pytest
from PIL import Image

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.transforms.rle import mask_to_box, rle_decode, rle_encode
from imagebind_jax.inputs.transforms.tiles import Tiles
from imagebind_jax.inputs.transforms.vision import MEAN, STD
from imagebind_jax.inputs.world.attributes import MATERIALS, SHAPES, Attributes
from imagebind_jax.inputs.world.multi_object import (
    APART,
    COUNTS,
    MultiObjectWorld,
    SingleObjectWorld,
    is_held_out,
    multi_object_sources,
)

WORLD = MultiObjectWorld(seed=3, size=96, antialias=False)
SCENES = 6


@functools.cache
def objects(scenes=SCENES):
    return [WORLD.record("test", i) for i in range(scenes // len(COUNTS) * sum(COUNTS))]


def test_a_quarter_of_the_pairs_is_kept_apart_each_value_equally_often():
    pairs = np.array(list(itertools.product(range(8), repeat=2)))
    apart = pairs[[is_held_out(Attributes(*pair.tolist(), 0, 0)) for pair in pairs]]
    assert len(apart) == 16
    for column in apart.T:
        assert (np.bincount(column) == 2).all()


@pytest.mark.parametrize("split", ["train", "probe", "test"])
def test_only_the_test_split_has_pairs_that_are_kept_apart(split):
    lone = [SingleObjectWorld(0).concept(split, i) for i in range(200)]
    gathered = itertools.chain.from_iterable(WORLD.concepts(split, i) for i in range(60))
    assert {is_held_out(concept) for concept in (*lone, *gathered)} == {split == "test"}


def test_records_are_those_of_two_three_and_four_objects_in_turn():
    found = objects()
    assert [r["id"] for r in found[:9]] == [
        f"test/00000{scene}.{which}" for scene, n in enumerate(COUNTS) for which in range(n)
    ]
    for scene, records in itertools.groupby(found, key=lambda r: r["scene"]):
        labels = [r["labels"] for r in records]
        assert len(labels) == COUNTS[scene % 3]
        for name in ("shape", "material"):  # each is told from the others by either
            assert len({label[name] for label in labels}) == len(labels)


def test_the_same_in_any_order_and_another_for_another_seed():
    found = objects()
    assert [WORLD.record("test", i) for i in reversed(range(len(found)))] == found[::-1]
    assert WORLD.picture("test", 1) == WORLD.picture("test", 1)
    other = MultiObjectWorld(seed=4, size=96, antialias=False)
    assert other.picture("test", 1)["vision"] != WORLD.picture("test", 1)["vision"]
    assert WORLD.picture("probe", 1)["vision"] != WORLD.picture("test", 1)["vision"]
    with pytest.raises(ValueError, match="'validation'.*probe"):
        WORLD.record("validation", 0)


def test_masks_are_apart_and_boxes_are_around_them():
    found = objects()
    for scene, records in itertools.groupby(found, key=lambda r: r["scene"]):
        records = list(records)
        masks = np.stack([rle_decode(r["mask"]) for r in records])
        assert masks.shape[1:] == (96, 96)
        assert masks.sum(axis=0).max() == 1
        items = WORLD.scene("test", scene).items
        places = np.array([item.position for item in items])
        for one, two in itertools.combinations(places, 2):
            assert np.linalg.norm(one - two) >= APART
        for record, mask in zip(records, masks, strict=True):
            left, top, right, bottom = record["box"]
            inside = np.zeros_like(mask)
            inside[top:bottom, left:right] = True
            assert not (mask & ~inside).any()
            assert mask[top].any() and mask[bottom - 1].any()
            assert mask[:, left].any() and mask[:, right - 1].any()


def test_rubber_is_dark_where_its_mask_is_and_sentences_name_what_is_there():
    dark = 0
    for record in objects(scenes=24):
        shape, material = (record["labels"][name] for name in ("shape", "material"))
        assert len(record["text"].split()) >= 3
        if MATERIALS[material] == "rubber":
            assert "rubber" in record["text"]
            picture = WORLD.picture("test", record["scene"])["vision"][0]
            pixels = np.asarray(Image.open(io.BytesIO(picture))).mean(axis=-1)
            mask = rle_decode(record["mask"])
            assert pixels[mask].mean() < 80 < pixels[~mask].mean()
            dark += 1
        if SHAPES[shape] == "cone":
            assert "cone" in record["text"]
    assert dark


def test_lone_objects_are_single_and_wholly_in_the_picture():
    away = []
    for index in range(40):
        scene, before = (
            SingleObjectWorld(0).scene("train", index),
            super(SingleObjectWorld, SingleObjectWorld(0)).scene("train", index),
        )
        assert scene.items == before.items
        y = [abs(s.cameras[0].position[1]) for s in (scene, before)]
        away.append(y[0] - y[1])
    assert min(away) > -0.1 and max(away) > 2


def test_sources_hold_the_scenes_and_their_objects():
    pictures, things = (each.open() for each in multi_object_sources(WORLD, "test", 2))
    assert (len(pictures), len(things)) == (2, 5)
    assert [r["scene"] for r in things] == [0, 0, 1, 1, 1]
    assert things[4] == WORLD.record("test", 4)


# ---- masks


def test_run_lengths_by_hand():
    mask = np.array([[False, True], [True, True]])  # down the columns: 0 1 1 1
    assert rle_encode(mask) == {"size": [2, 2], "counts": [1, 3]}
    assert rle_encode(~mask) == {"size": [2, 2], "counts": [0, 1, 3]}
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.5, 1.0):
        mask = rng.random((5, 7)) < share
        np.testing.assert_array_equal(rle_decode(rle_encode(mask)), mask)


def test_the_box_of_a_mask():
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    assert mask_to_box(mask) == [2, 1, 6, 3]
    with pytest.raises(UserError, match="5 x 7 pixels"):
        mask_to_box(np.zeros((5, 7), bool))


# ---- windows


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_windows_are_the_picture_cut_row_by_row():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    windows = Tiles(size=8, picture=12, stride=2)
    cut = windows({"vision": [png(pixels)]}, None)
    assert cut.shape == (9, 1, 8, 8, 3) and cut.dtype == np.float32
    assert windows.places[:4] == ((0, 0), (0, 2), (0, 4), (2, 0))
    for view, (top, left) in zip(cut, windows.places, strict=True):
        expected = (pixels[top : top + 8, left : left + 8] / np.float32(255) - MEAN) / STD
        np.testing.assert_allclose(view[0], expected, atol=1e-6)


def test_all_of_a_wide_picture_is_seen():
    pixels = np.zeros((10, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    cut = Tiles(size=8, picture=8, stride=8)({"id": "a", "vision": png(pixels)}, None)
    light = cut[0, 0] * STD + MEAN
    assert light[:, :3].max() < 0.1 and light[:, 5:].min() > 0.9


def test_windows_that_do_not_fit_and_pictures_that_cannot_be_read():
    with pytest.raises(UserError, match="multiple of the stride"):
        Tiles(size=64, picture=100, stride=32)
    with pytest.raises(UserError, match="multiple of the stride"):
        Tiles(size=64, picture=32, stride=32)
    with pytest.raises(MediaError):
        Tiles()({"id": "a", "vision": b"no picture"}, None)
    with pytest.raises(MediaError, match="vision"):
        Tiles()({"id": "a"}, None)
