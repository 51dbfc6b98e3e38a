"""Dense embeddings, heat maps, boxes, and the classes of other detectors: answers known by hand."""

import dataclasses
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import EvalInputs
from imagebind_jax.evaluation.tasks import detection, external_detectors
from imagebind_jax.evaluation.tasks.detection import Detection
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.transforms.rle import mask_to_box, rle_encode
from imagebind_jax.inputs.transforms.tiles import Tiles
from imagebind_jax.models import patch_embeddings
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import HUGE, ImageBind, ImageBindConfig, embed, init

pytestmark = pytest.mark.jax

SMALL = EncoderConfig((2, 16, 16, 3), patch=(2, 4, 4), width=16, depth=3, heads=2, pre_norm=True)


def model_of(encoder=SMALL, modality="vision"):
    config = ImageBindConfig({modality: encoder}, embed_dim=8)
    params = jax.tree.map(  # nothing is zero, as adapters are at first
        lambda x: x + 0.1 * normal(*x.shape), init(config, jax.random.key(0))
    )
    return ImageBind(config), params


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def images(n=2, shape=(1, 16, 16, 3)):
    return normal(n, *shape, seed=1)


# ---- dense embeddings

ENCODERS = {
    "three blocks": SMALL,
    "one block": dataclasses.replace(SMALL, depth=1),
    "no pre-norm": dataclasses.replace(SMALL, depth=1, pre_norm=False),
    "all that there is": dataclasses.replace(
        SMALL,
        depth=2,
        bias_kv=True,
        stem_norm=True,
        mlp_head=True,
        lora=("qkv", "out", "fc1", "fc2", "attn"),
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_attending_as_the_encoder_does_its_embedding_comes_out(name):
    """The parts are the encoder's own: with what its cls token really gathers, nothing changes."""
    c = ENCODERS[name]
    model, params = model_of(c)
    x = jnp.repeat(images(), 2, axis=1)

    def but_the_first(qkv, *bias, shift, heads, causal):
        y = patch_embeddings.self_attention(
            qkv[:, 1:], *bias, shift=shift, heads=heads, causal=causal
        )
        return jnp.concatenate([y[:, :1], y], axis=1)

    @jax.jit
    def attended(tower, x):
        tokens = patch_embeddings._before_last(c, "float32", tower, x)
        last = jax.tree.map(lambda leaf: leaf[-1], tower["trunk"]["blocks"])
        # All tokens behind one that is dropped: the first of what is left is the cls token itself.
        every = jnp.concatenate([tokens[:, :1], tokens], axis=1)
        block = patch_embeddings.PatchBlock(c, "float32", but_the_first, None)
        z = patch_embeddings._head(c, "float32", tower, block.apply({"params": last}, every))[:, 0]
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)

    z = attended(params["vision"], x)
    np.testing.assert_allclose(z, embed(model, params, {"vision": x})["vision"], atol=2e-6)


@pytest.mark.parametrize("how", patch_embeddings.METHODS)
def test_a_unit_vector_for_every_patch(how):
    model, params = model_of()
    z = patch_embeddings.patch_embeddings(model, params, images(), how=how)
    assert z.shape == (2, 4, 4, 8)
    np.testing.assert_allclose(jnp.linalg.norm(z, axis=-1), 1, atol=1e-5)
    alone = patch_embeddings.patch_embeddings(model, params, images()[:1], how=how)
    np.testing.assert_allclose(z[:1], alone, atol=1e-5)
    video = patch_embeddings.patch_embeddings(
        model, params, jnp.repeat(images(), 2, axis=1), how=how
    )
    np.testing.assert_allclose(z, video, atol=1e-5)


def placeless(c):
    """A model that sees no places: what its patches tell is of their colours alone."""
    model, params = model_of(c)
    params["vision"]["position"] = jnp.zeros_like(params["vision"]["position"])
    return model, params


@pytest.mark.parametrize("how", patch_embeddings.METHODS)
def test_where_patches_are_as_one_all_say_the_same(how):
    model, params = placeless(SMALL)
    z = patch_embeddings.patch_embeddings(model, params, jnp.full((1, 1, 16, 16, 3), 0.7), how=how)
    np.testing.assert_allclose(z, jnp.broadcast_to(z[:, :1, :1], z.shape), atol=1e-5)


@pytest.mark.parametrize("how", ["gaze", "value"])
def test_a_colour_is_found_where_it_is(how):
    """One block and no places: a patch's colour decides, and its neighbours' within reach."""
    model, params = placeless(dataclasses.replace(SMALL, depth=1))
    x = np.zeros((1, 1, 16, 16, 3), np.float32)
    x[0, :, 4:8, 8:12] = (1.0, -1.0, 0.5)  # the patch in row 1, column 2
    z = np.asarray(
        patch_embeddings.patch_embeddings(model, params, jnp.asarray(x), how=how, reach=0)
    )[0]
    others = np.delete(z.reshape(16, -1), 6, axis=0)
    np.testing.assert_allclose(others, np.broadcast_to(others[0], others.shape), atol=1e-5)
    heat = detection.heat_map(z, z[1, 2], against=others[:1])
    assert np.unravel_index(heat.argmax(), heat.shape) == (1, 2)
    assert heat[1, 2] > 0.01 and np.abs(np.delete(heat.ravel(), 6) - heat[0, 0]).max() < 1e-4
    [box], _ = detection.boxes_from_heat_map(heat, 16, 16, threshold=0.5, most=1)
    assert detection.iou(box[None], np.array([[8.0, 4, 12, 8]]))[0, 0] > 0.6


def test_reach_is_how_far_a_patch_looks_around():
    model, params = placeless(dataclasses.replace(SMALL, depth=1))
    x = np.zeros((1, 1, 16, 16, 3), np.float32)
    x[0, :, 0:4, 0:4] = 1
    for reach in (0, 1, 2):
        z = patch_embeddings.patch_embeddings(model, params, jnp.asarray(x), reach=reach)[0]
        differs = np.abs(np.asarray(z) - np.asarray(z[3, 3])).max(axis=-1) > 1e-5
        expected = np.zeros((4, 4), bool)
        expected[: reach + 1, : reach + 1] = True
        np.testing.assert_array_equal(differs, expected)


def test_a_grid_need_not_be_square_or_of_a_picture():
    audio = EncoderConfig(
        (16, 24, 1), patch=(8, 8), stride=(4, 8), width=16, depth=2, heads=2, bias_kv=True
    )
    model, params = model_of(audio, "audio")
    z = patch_embeddings.patch_embeddings(model, params, images(2, (16, 24, 1)), modality="audio")
    assert z.shape == (2, 3, 3, 8)


def test_the_released_model_has_a_vector_for_each_of_its_256_patches():
    params = jax.eval_shape(lambda key: init(HUGE, key), jax.random.key(0))
    x = jax.ShapeDtypeStruct((2, 1, 224, 224, 3), jnp.float32)
    for how in patch_embeddings.METHODS:
        seen = functools.partial(patch_embeddings.patch_embeddings, ImageBind(HUGE), how=how)
        assert jax.eval_shape(seen, params, x).shape == (2, 16, 16, 1024)


def test_what_has_no_patches_is_refused_in_a_line():
    text = EncoderConfig((8,), vocab_size=50, width=16, depth=1, heads=2)
    model, params = model_of(text, "text")
    with pytest.raises(UserError, match="text has no grid"):
        patch_embeddings.patch_embeddings(model, params, images(), modality="text")
    model, params = model_of()
    with pytest.raises(UserError, match="no 'depth' encoder here: only vision"):
        patch_embeddings.patch_embeddings(model, params, images(), modality="depth")
    with pytest.raises(UserError, match=r"expected \[B, \*\(2, 16, 16, 3\)\]"):
        patch_embeddings.patch_embeddings(model, params, images(2, (1, 8, 8, 3)))
    with pytest.raises(UserError, match="gaze, value"):
        patch_embeddings.patch_embeddings(model, params, images(), how="glance")


# ---- heat maps and boxes


def block(left, top, right, bottom, h=8, w=12):
    heat = np.zeros((h, w))
    heat[top:bottom, left:right] = 1
    return heat


def test_a_bright_block_is_the_box():
    found, scores = detection.boxes_from_heat_map(block(3, 2, 7, 5), 12, 8)
    np.testing.assert_array_equal(found, [[3, 2, 7, 5]])
    assert scores == 1
    found, _ = detection.boxes_from_heat_map(
        block(3, 2, 7, 5), 120, 80
    )  # ten times as large, whatever between
    assert detection.iou(found, np.array([[30.0, 20, 70, 50]]))[0, 0] > 0.9


def test_two_blocks_are_two_boxes_the_brighter_first():
    heat = block(0, 0, 2, 2) + 2 * block(9, 5, 12, 8)
    found, scores = detection.boxes_from_heat_map(heat, 12, 8, threshold=0.4)
    np.testing.assert_array_equal(found, [[9, 5, 12, 8], [0, 0, 2, 2]])
    np.testing.assert_array_equal(scores, [2, 1])
    assert len(detection.boxes_from_heat_map(heat, 12, 8, threshold=0.4, most=1)[0]) == 1
    assert len(detection.boxes_from_heat_map(heat, 12, 8, threshold=0.6)[0]) == 1
    found, scores = detection.boxes_from_heat_map(
        0.1 * heat - 5, 12, 8, threshold=0.4
    )  # in whatever unit
    np.testing.assert_array_equal(found, [[9, 5, 12, 8], [0, 0, 2, 2]])
    with pytest.raises(UserError, match="threshold 1.0"):
        detection.boxes_from_heat_map(heat, 12, 8, threshold=1.0)


def test_where_all_is_alike_the_box_is_the_picture():
    found, _ = detection.boxes_from_heat_map(np.full((3, 4), 0.2), 40, 30)
    np.testing.assert_array_equal(found, [[0, 0, 40, 30]])


def test_overlaps_by_hand():
    a = np.array([[0.0, 0, 2, 2], [0, 0, 4, 4], [5, 5, 5, 5]])
    b = np.array([[1.0, 1, 3, 3], [0, 0, 2, 2], [2, 2, 4, 4]])
    expected = [[1 / 7, 1, 0], [4 / 16, 4 / 16, 4 / 16], [0, 0, 0]]
    np.testing.assert_allclose(detection.iou(a, b), expected)
    np.testing.assert_allclose(detection.iou(b, a), np.transpose(expected))


def test_heat_is_the_cosine_less_that_of_what_is_not_meant():
    patches = np.array([[[2.0, 0], [0, 3.0]], [[1.0, 1.0], [-1.0, 0]]])
    right, up = np.array([5.0, 0]), np.array([[0, 0.1]])
    half = 0.5**0.5
    np.testing.assert_allclose(detection.heat_map(patches, right), [[1, 0], [half, -1]])
    np.testing.assert_allclose(
        detection.heat_map(patches, right, up), [[1, -1], [0, -1]], atol=1e-12
    )


def test_windows_are_put_together_where_they_were_cut():
    windows = Tiles(size=8, picture=12, stride=4)  # 2 x 2 patches of 4 pixels in each of four
    whole = np.eye(9).reshape(3, 3, 9)
    views = np.stack([whole[t // 4 :, w // 4 :][:2, :2] for t, w in windows.places])
    np.testing.assert_allclose(detection.merge_tiles(views, windows), whole)
    with pytest.raises(UserError, match="multiple of a patch"):
        detection.merge_tiles(views, Tiles(size=8, picture=10, stride=2))


# ---- the benchmark


@dataclasses.dataclass(frozen=True)
class Given:
    name: str

    def open(self):
        raise AssertionError("a bench gives what is needed")


class Stored:
    """A bench of pictures whose colours say what is there."""

    resamples, seed, folder = 20, 0, pathlib.Path()

    def __init__(self, patch=4):
        self.model, params = placeless(dataclasses.replace(SMALL, depth=1))
        self.params = params
        colours = np.array([[1.0, -1, 0], [-1, 1, 1]], np.float32)
        places = [((4, 0), (4, 8)), ((8, 8), (0, 0)), ((0, 8), (8, 0))]
        self.pictures, self.asked = [], []
        for scene, both in enumerate(places):
            pixels = np.zeros((16, 16, 3), np.float32)
            for which, (top, left) in enumerate(both):
                pixels[top : top + 8, left : left + 8] = colours[which]
                mask = np.zeros((16, 16), bool)
                mask[top : top + 8, left : left + 8] = True
                note = {"id": f"{scene}.{which}", "scene": scene, "colour": which}
                self.asked.append({**note, "mask": rle_encode(mask), "box": mask_to_box(mask)})
            self.pictures.append({"id": str(scene), "scene": scene, "pixels": pixels})
        flat = [np.broadcast_to(c, (1, 16, 16, 3)) for c in colours]
        seen = patch_embeddings.patch_embeddings(self.model, params, jnp.asarray(np.stack(flat)))
        self.queries = np.asarray(seen)[:, 0, 0]

    def notes(self, source):
        return self.asked if source.name == "asked" else self.pictures

    def records(self, source):
        return self.pictures

    def embed(self, items):
        return self.queries[[note["colour"] for note in self.asked]]

    def tell(self, what):
        pass

    def unasked(self, *_):
        raise AssertionError("detection needs no more than this")

    facts = inputs = classes = texts = unasked


class Planted(Stored):
    """The same with the model, whose patches see colours."""

    def weights(self, modalities):
        assert modalities == ("vision",)
        return self.model.config, self.params


@dataclasses.dataclass(frozen=True)
class Pixels(Tiles):
    """Windows of what is decoded already."""

    def __call__(self, record, rng):
        if record["pixels"] is None:
            raise MediaError(record["id"], "no picture")
        return record["pixels"][None, None]


WHOLE = Pixels(size=16, picture=16, stride=16)


def measured(bench, **options):
    queries = EvalInputs(Given("asked"), "audio", WHOLE)
    pictures = EvalInputs(Given("pictures"), "vision", WHOLE)
    return Detection(queries, pictures, reach=0, **options).measure(bench)


def test_what_a_colour_asks_for_is_boxed():
    found = measured(Planted())
    assert list(found.numbers) == list(found.chance) == ["mean_iou", "success", "pointing"]
    assert found.numbers["mean_iou"].value > 0.6
    assert found.numbers["success"].value == found.numbers["pointing"].value == 1
    # The centred box of 8 x 8 shares a quarter, or half, of what stands in a corner, or beside.
    corner, beside = 16 / (64 + 64 - 16), 32 / (64 + 64 - 32)
    assert found.chance["mean_iou"] == pytest.approx((2 * beside + 4 * corner) / 6)
    assert found.chance["success"] == 0
    assert (found.samples, found.unusable, found.numbers["mean_iou"].n) == (6, 0, 3)


def test_what_stands_in_the_middle_of_a_wide_picture_is_found_by_chance():
    bench, mask = Planted(), np.zeros((16, 32), bool)
    mask[6:10, 12:20] = True
    where = {"mask": rle_encode(mask), "box": mask_to_box(mask)}
    bench.asked = [{**note, **where} for note in bench.asked]
    assert measured(bench).chance == {"mean_iou": 1, "success": 1, "pointing": 1}


def test_asking_for_the_other_colour_finds_the_other_thing():
    bench = Planted()
    bench.queries = bench.queries[::-1]
    found = measured(bench)
    assert found.numbers["mean_iou"].value < 0.1
    assert found.numbers["pointing"].value == 0


def test_queries_and_pictures_that_cannot_be_read_are_counted():
    bench = Planted()
    bench.pictures[0] = {**bench.pictures[0], "pixels": None}
    found = measured(bench)
    assert (found.samples, found.unusable) == (6, 2)
    assert found.numbers["success"].value == 1
    bench.queries = np.stack([np.full(8, np.nan), bench.queries[1]])
    assert measured(bench).unusable == 4
    bench.queries = np.full((2, 8), np.nan)
    with pytest.raises(UserError, match="nothing to measure"):
        measured(bench)


def test_detection_says_what_it_needs():
    asked, seen = (
        EvalInputs(Given("asked"), "audio", WHOLE),
        EvalInputs(Given("seen"), "vision", WHOLE),
    )
    found = Detection(asked, seen)
    assert found.sources == (asked.source, seen.source)
    assert found.modalities == {"audio", "vision"}
    with pytest.raises(UserError, match="pictures of seen: by Tiles"):
        Detection(asked, dataclasses.replace(seen, transform=lambda record, rng: record))
    bench = Planted()
    del bench.asked[1]["box"]
    with pytest.raises(UserError, match=r"record '0.1' of asked has no 'box'"):
        measured(bench)


def test_stored_embeddings_are_not_enough():
    with pytest.raises(UserError, match="--checkpoint"):
        measured(Stored())


# ---- other detectors


def test_a_class_is_the_mean_of_its_prompts():
    prompts = np.array([[2.0, 0, 0], [0, 5, 0], [0, 0, 1]])
    found = external_detectors.class_embeddings(prompts, np.array([1, 1, 0]), 2)
    np.testing.assert_allclose(found, [[0, 0, 1], [0.5**0.5, 0.5**0.5, 0]], atol=1e-6)
    assert found.dtype == np.float32
    with pytest.raises(UserError, match="class 1 of 3 has no prompt"):
        external_detectors.class_embeddings(prompts, np.array([0, 0, 2]), 3)
    with pytest.raises(UserError, match="labels from 0 to 3 of 3"):
        external_detectors.class_embeddings(prompts, np.array([0, 1, 3]), 3)


BOXES = np.array([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30], [0, 0, 9, 10]])


def test_regions_of_orthogonal_classes_find_theirs():
    regions = np.eye(3)[[0, 0, 1, 2]]
    objectness = np.array([0.9, 1.0, 0.95, 0.5])
    found, scores, labels = external_detectors.classify_boxes(regions, BOXES, objectness, np.eye(3))
    # The first overlaps a better one of its class; the last is not sure to be a thing.
    np.testing.assert_array_equal(found, BOXES[[1, 2]])
    np.testing.assert_allclose(scores, [1.0, 0.95**0.5])
    np.testing.assert_array_equal(labels, [0, 1])


def test_other_classes_for_the_same_regions():
    """What is replaced is the classes' embeddings alone: sounds for names."""
    regions = np.eye(4)[[0, 1, 2, 3]]
    sounds = external_detectors.class_embeddings(np.eye(4)[[3, 3, 1]], np.array([0, 0, 1]), 2)
    apart = np.array([[10.0 * i, 0, 10 * i + 5, 5] for i in range(4)])
    found, _, labels = external_detectors.classify_boxes(regions, apart, np.ones(4), sounds)
    assert sorted(zip(labels.tolist(), found[:, 0].tolist())) == [(0, 30.0), (1, 10.0)]


def test_nothing_found_is_no_error():
    found, scores, labels = external_detectors.classify_boxes(
        np.eye(3), BOXES[:3], np.zeros(3), np.eye(3)
    )
    assert found.shape == (0, 4) and scores.shape == labels.shape == (0,)


def test_suppression_by_hand():
    scores = np.array([0.5, 0.9, 0.1, 0.8])
    assert external_detectors.nms(BOXES, scores, 0.5).tolist() == [1, 2]
    assert external_detectors.nms(BOXES, scores, 0.85).tolist() == [1, 3, 2]
    assert external_detectors.nms(BOXES, scores, 1.0).tolist() == [1, 3, 0, 2]
    assert external_detectors.nms(BOXES[:0], scores[:0]).tolist() == []


def test_detics_file_is_read_as_it_reads_it(tmp_path):
    classes = np.random.default_rng(0).standard_normal((5, 512))
    external_detectors.write_detic_zs_weight(tmp_path / "esc.npy", classes)
    read = np.load(tmp_path / "esc.npy", allow_pickle=False)
    assert read.shape == (5, 512) and read.dtype == np.float32
    weight = external_detectors.detic_zs_weight(classes)
    assert weight.shape == (512, 6)
    np.testing.assert_array_equal(weight[:, :5], read.T)
    np.testing.assert_array_equal(weight[:, 5], 0)
    np.testing.assert_allclose(np.linalg.norm(read, axis=1), 1, atol=1e-6)


def test_widths_that_do_not_fit_are_said_with_the_remedy(tmp_path):
    with pytest.raises(UserError, match="1024 numbers, and a detector of 512: .*ViT-B/32"):
        external_detectors.write_detic_zs_weight(tmp_path / "a.npy", np.ones((3, 1024)))
    with pytest.raises(UserError, match="of 4 numbers, and a detector of 3"):
        external_detectors.classify_boxes(np.eye(3), BOXES[:3], np.ones(3), np.eye(4))
    with pytest.raises(UserError, match="npy file"):
        external_detectors.write_detic_zs_weight(tmp_path / "a.txt", np.ones((3, 512)))
    assert not list(tmp_path.iterdir())
