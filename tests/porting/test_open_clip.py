"""CLIP checkpoints of three libraries: embeddings as those libraries compute them, or a refusal.

What they compute is in golden/clip/io.npz, made by golden/clip/make.py.
"""

import collections
import dataclasses
import functools
import json
import pathlib
import re
import shutil
import warnings

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from imagebind_jax.errors import UserError
from imagebind_jax.models.encoder import Encoder
from imagebind_jax.models.imagebind import embed
from imagebind_jax.porting.formats.hints import LoadHints
from imagebind_jax.porting.load import load, open_weights
from imagebind_jax.porting.torch_pickle.torch_file import TorchFile

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "clip"
IO = np.load(GOLDEN / "io.npz")
CONFIG = json.loads((GOLDEN / "open_clip_config.json").read_text())
HF_CONFIG = json.loads((GOLDEN / "hugging_face" / "config.json").read_text())
INPUTS = {
    "vision": IO["in_image"].transpose(0, 2, 3, 1)[:, None],  # [B, 1, H, W, C]
    "text": IO["in_text"].astype(np.int32),
}
HEADS = {"vision": 3, "text": 4}
TOLERANCE = 1e-5
WHY = "differs from what the library computes; golden/clip changes only with make.py's models"
# Tiny models have tiny vocabularies, which is said of every one of them.
pytestmark = [pytest.mark.jax, pytest.mark.filterwarnings("ignore:.*a vocabulary of 40")]


@functools.cache
def state(name="open_clip"):
    """{name: array} of a golden checkpoint."""
    if name == "open_clip":
        with TorchFile(GOLDEN / "open_clip.pt") as file:
            return {key: np.array(file[key]) for key in file}
    return load_file(GOLDEN / "hugging_face" / "model.safetensors")


def openai():
    """The same weights as in OpenAI's own files, which say no activation, but have three numbers."""
    sizes = {"input_resolution": 32, "context_length": 12, "vocab_size": 40}
    return state() | {name: np.int64(size) for name, size in sizes.items()}


def written(folder, tensors, config=CONFIG):
    folder.mkdir(exist_ok=True)
    arrays = {name: np.ascontiguousarray(x).reshape(np.shape(x)) for name, x in tensors.items()}
    save_file(arrays, folder / "clip.safetensors")
    if config is not None:
        (folder / "clip_config.json").write_text(json.dumps(config))
    return folder / "clip.safetensors"


def opened(path, **options):
    with open_weights(path, **options) as weights:
        return weights


def assert_equal(params, expected):
    jax.tree.map(np.testing.assert_array_equal, params, expected)


# ---- embeddings


@pytest.mark.parametrize("name", ["open_clip", "openai", "hugging_face"])
def test_embeddings_are_those_of_the_library(name, tmp_path):
    if name == "openai":
        model, params = load(written(tmp_path, openai(), None), heads=HEADS)
    elif name == "open_clip":
        model, params = load(GOLDEN / "open_clip.pt")
    else:
        model, params = load(GOLDEN / "hugging_face" / "model.safetensors")
    activation = "gelu" if name == "open_clip" else "quick_gelu"
    assert {c.activation for c in model.config.encoders.values()} == {activation}
    z = embed(model, params, INPUTS)
    for modality, theirs in (("vision", "image"), ("text", "text")):
        np.testing.assert_allclose(
            z[modality], IO[f"{name}_{theirs}"], atol=TOLERANCE, err_msg=f"{modality} {WHY}"
        )
    text = model.config.encoders["text"]
    assert text.learn_scale and abs(text.logit_scale - 23.4) < 1e-5
    np.testing.assert_allclose(np.exp(params["text"]["log_logit_scale"]), 23.4, rtol=1e-6)


def test_openais_own_archive_is_torchscript_and_says_its_activation(tmp_path):
    """Half precision, but for norms and embeddings; the outputs are of these weights in float32."""
    path = shutil.copy(GOLDEN / "openai_jit.pt", tmp_path)  # away from the other's config
    with TorchFile(path) as file:
        sizes = {name: int(file[name]) for name in ("input_resolution", "context_length")}
        assert sizes == {"input_resolution": 32, "context_length": 12}
        for name in file.keys() - {*sizes, "vocab_size"}:
            np.testing.assert_allclose(file[name], state()[name], rtol=2**-11, atol=2**-25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is assumed
        warnings.filterwarnings("ignore", ".*a vocabulary of 40")
        model, params = load(path, heads=HEADS)
    assert {c.activation for c in model.config.encoders.values()} == {"quick_gelu"}
    z = embed(model, params, INPUTS)
    theirs = np.load(GOLDEN / "openai_jit.npz")
    for modality, name in (("vision", "image"), ("text", "text")):
        np.testing.assert_allclose(z[modality], theirs[name], atol=TOLERANCE, err_msg=WHY)


def test_a_video_that_stands_still_is_an_image():
    model, params = load(GOLDEN / "open_clip.pt", modalities=["vision"])
    z = embed(model, params, {"vision": np.repeat(INPUTS["vision"], 2, axis=1)})["vision"]
    np.testing.assert_allclose(z, IO["open_clip_image"], atol=TOLERANCE, err_msg=WHY)


@functools.partial(jax.jit, static_argnums=(0, 1))
def stages(config, size, params, x):
    keep = lambda module, _: module.name in ("stem", "trunk", "norm", "embed")  # noqa: E731
    _, kept = Encoder(config, size).apply(
        {"params": params}, x, capture_intermediates=keep, mutable=["intermediates"]
    )
    return {name: kept["intermediates"][name]["__call__"][0] for name in kept["intermediates"]}


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_every_layer_gives_the_tokens_of_the_library(modality):
    model, params = load(GOLDEN / "open_clip.pt", modalities=[modality])
    encoder, tree = model.config.encoders[modality], params[modality]
    close = functools.partial(np.testing.assert_allclose, atol=TOLERANCE, rtol=TOLERANCE)
    for depth in (1, 2):
        blocks = jax.tree.map(lambda x: x[:depth], tree["trunk"]["blocks"])  # noqa: B023
        cut = tree | {"trunk": tree["trunk"] | {"blocks": blocks}}
        config = dataclasses.replace(encoder, depth=depth)
        found = stages(config, model.config.embed_dim, cut, INPUTS[modality])
        if modality == "vision":
            patches = IO["open_clip_vision_patches"].reshape(2, encoder.width, 16).swapaxes(1, 2)
            close(found["stem"], patches, err_msg="patches")
        else:
            close(found["embed"], IO["open_clip_text_embedding"], err_msg="token embeddings")
        close(found["trunk"], IO[f"open_clip_{modality}_{depth}"], err_msg=f"after block {depth}")
    end = 0 if modality == "vision" else INPUTS["text"].argmax(-1)
    close(found["norm"], IO[f"open_clip_{modality}_norm"][np.arange(len(found["norm"])), end])


# ---- layouts of the same weights


def nested(tensors):
    """As a CustomTextCLIP names them."""
    return {k if k.startswith(("visual.", "logit")) else f"text.{k}": x for k, x in tensors.items()}


def as_linear(tensors):
    """With the text projection as a linear map."""
    rest = {k: x for k, x in tensors.items() if k != "text_projection"}
    return rest | {"text_projection.weight": tensors["text_projection"].T}


LAYOUTS = {
    "custom text": nested,
    "linear projection": as_linear,
    "both": lambda t: nested(as_linear(t)),
    "scale with an axis": lambda t: t | {"logit_scale": t["logit_scale"][None]},
    "wrapped": lambda t: {f"module.{k}": x for k, x in t.items()},
    "mask and bias": lambda t: t | {"attn_mask": np.ones((12, 12)), "logit_bias": np.float32(-10)},
    "nested mask": lambda t: nested(t | {"attn_mask": np.ones((12, 12))}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_parameters(layout, tmp_path):
    model, params = load(written(tmp_path, LAYOUTS[layout](state())))
    expected, plain = load(GOLDEN / "open_clip.pt")
    assert model == expected
    assert_equal(params, plain)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_widened_and_nothing_else(dtype, tmp_path):
    # A tenth and more: halves of float16's smallest numbers, in the inflated stem, are not exact.
    narrow = {k: np.where(abs(x) < 0.1, 0.5, x).astype(dtype) for k, x in state().items()}
    wide = {k: x.astype(np.float32) for k, x in narrow.items()}
    assert_equal(
        load(written(tmp_path / "narrow", narrow))[1], load(written(tmp_path / "wide", wide))[1]
    )


@pytest.mark.parametrize("name", ["open_clip", "hugging_face"])
@pytest.mark.parametrize("modality", ["vision", "text"])
def test_one_tower_is_the_same_with_or_without_the_other(name, modality, tmp_path):
    config = CONFIG if name == "open_clip" else HF_CONFIG
    whole = load(written(tmp_path / "whole", state(name), config))
    model, params = load(tmp_path / "whole" / "clip.safetensors", modalities=[modality])
    assert model.config.encoders == {modality: whole[0].config.encoders[modality]}
    assert_equal(params[modality], whole[1][modality])
    marks = ("visual", "vision_model")
    alone = {k: x for k, x in state(name).items() if k.startswith(marks) == (modality == "vision")}
    again, same = load(written(tmp_path / "alone", alone, config))
    assert again.config == model.config
    assert_equal(same, params)


@pytest.mark.parametrize("modality", ["vision", "text"])
def test_towers_with_projection_of_transformers(modality, tmp_path):
    """CLIPVisionModelWithProjection and CLIPTextModelWithProjection: no scale, a flat config."""
    marks = ("visual_", "vision_") if modality == "vision" else ("text_",)
    tensors = {k: x for k, x in state("hugging_face").items() if k.startswith(marks)}
    tensors[f"{modality}_model.embeddings.position_ids"] = np.arange(12)[None]
    flat = HF_CONFIG[f"{modality}_config"] | {"model_type": f"clip_{modality}_model"}
    model, params = load(written(tmp_path, tensors, flat))
    z = embed(model, params, {modality: INPUTS[modality]})[modality]
    theirs = IO["hugging_face_" + {"vision": "image", "text": "text"}[modality]]
    np.testing.assert_allclose(z, theirs, atol=TOLERANCE, err_msg=WHY)
    assert not model.config.encoders[modality].learn_scale


# ---- every tensor has one place


@pytest.mark.parametrize("name", ["open_clip", "hugging_face"])
def test_every_tensor_is_used_exactly_once(name, tmp_path):
    weights = opened(written(tmp_path, state(name), {**CONFIG, **HF_CONFIG}))
    used = collections.Counter(
        key for leaf in weights.leaves.values() for keys in leaf.keys for key in keys
    )
    assert used == collections.Counter(state(name).keys())


def broken(kind, tensors, key):
    if kind == "missing":
        return {k: x for k, x in tensors.items() if k != key}
    if kind == "unknown":
        return tensors | {f"{key}_too": tensors[key]}
    if kind == "integer":
        return tensors | {key: np.zeros(tensors[key].shape, np.int32)}
    x = tensors[key]
    return tensors | {key: x[None] if x.ndim else np.stack([x, x])}


KINDS = ["missing", "unknown", "shape", "integer"]


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.fuzz)])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["open_clip", "hugging_face"])
def test_a_tensor_that_is_not_as_it_should_be_is_named(name, kind, every, tmp_path):
    config = CONFIG if name == "open_clip" else HF_CONFIG
    keys = [  # blocks are alike
        key for key in state(name) if kind == "missing" or not re.search(r"\.[12]\.", key)
    ]
    for key in keys[KINDS.index(kind) % every :: every]:  # by default others for each kind
        path = written(tmp_path, broken(kind, state(name), key), config)
        with pytest.raises(UserError) as error:
            opened(path)
        line = str(error.value)
        assert key in line and str(path) in line and "\n" not in line, (key, line)


# ---- refusals

EXTRA = {
    "visual.layer1.0.conv1.weight": "ResNet",
    "visual.attnpool.positional_embedding": "ResNet",
    "visual.trunk.blocks.0.attn.qkv.weight": "timm",
    "visual.attn_pool.query": "attention pooling",
    "visual.blocks.0.norm1.weight": "not OpenCLIP's own",
    "text_decoder.ln_final.weight": "CoCa",
    "text.cls_emb": "CoCa",
    "audio.encoder.patch_embed.weight": "audio",
    "audio_branch.bn0.weight": "audio",
    "text.transformer.encoder.layer.0.output.dense.weight": "Hugging Face",
    "text.transformer.embeddings.word_embeddings.weight": "Hugging Face",
    "text.blocks.0.attn.qkv.weight": "modern text",
    "visual.transformer.resblocks.0.ls_1.gamma": "LayerScale",
    "visual.transformer.resblocks.0.attn.ln_q.weight": "in attention",
    "transformer.resblocks.1.attn.logit_scale": "in attention",
    "text_projection.bias": "bias",
}
HF_EXTRA = {
    "vision_model.head.probe": "SigLIP",
    "vision_model.embeddings.patch_embedding.bias": "SigLIP",
    "text_model.encoder.layer.0.output.dense.weight": "not CLIP's",
    "text_model.roberta.embeddings.word_embeddings.weight": "not CLIP's",
    "audio_model.audio_encoder.norm.weight": "audio",
    "mit.position_embedding": "X-CLIP",
    "vision_model.encoder.layers.0.self_attn.qkv.weight": "BLIP",
}


@pytest.mark.parametrize("key", [*EXTRA, *HF_EXTRA])
def test_what_is_not_supported_is_refused_by_name(key, tmp_path):
    tensors = state("open_clip" if key in EXTRA else "hugging_face") | {key: np.ones(3)}
    with pytest.raises(UserError, match=(EXTRA | HF_EXTRA)[key]) as error:
        opened(written(tmp_path, tensors))
    assert "not supported" in str(error.value) and "\n" not in str(error.value)


def test_a_tower_that_the_file_lacks_is_named(tmp_path):
    with pytest.raises(UserError, match="has no audio: only vision, text"):
        opened(written(tmp_path, state()), modalities=["vision", "audio"])


def test_an_image_tower_loads_beside_a_text_tower_that_is_not_supported(tmp_path):
    tensors = {k: x for k, x in state().items() if k.startswith(("visual.", "logit_scale"))}
    tensors["text.transformer.encoder.layer.0.output.dense.weight"] = np.ones(3)
    tensors["text.proj.weight"] = np.ones(3)
    path = written(tmp_path, tensors)
    assert list(opened(path, modalities=["vision"]).config.encoders) == ["vision"]
    with pytest.raises(UserError, match="text tower of Hugging Face"):
        opened(path)


def test_a_text_tower_loads_beside_an_image_tower_that_is_not_supported(tmp_path):
    text = {k: x for k, x in state().items() if not k.startswith("visual.")}
    resnet = text | {"visual.layer1.0.conv1.weight": np.ones(3)}
    path = written(tmp_path, resnet)
    assert list(opened(path, modalities=["text"]).config.encoders) == ["text"]
    with pytest.raises(UserError, match="ResNet"):
        opened(path, modalities=["vision"])


def test_shapes_that_make_no_model_are_refused(tmp_path):
    def refused(change, match, name="open_clip"):
        config = CONFIG if name == "open_clip" else HF_CONFIG
        path = written(tmp_path, state(name) | change, config)
        with pytest.raises(UserError, match=match):
            opened(path)

    ones = functools.partial(np.ones, dtype=np.float32)
    refused({"visual.positional_embedding": ones((13, 24))}, "square")
    refused({"visual.positional_embedding": ones((1, 24))}, "square")
    refused({"visual.proj": ones((24, 13))}, "no shared space")
    refused({"logit_scale": np.float32(np.inf)}, "logit_scale: a logit scale of inf")
    without = {k: x for k, x in state().items() if "ln_pre" not in k}
    with pytest.raises(UserError, match="no norm before the blocks.*not supported"):
        opened(written(tmp_path, without))


# ---- what no tensor says


def changed(tower, **fields):
    return CONFIG | {tower: CONFIG[tower] | fields}


def hf_changed(tower, **fields):
    return HF_CONFIG | {tower: HF_CONFIG[tower] | fields}


@pytest.mark.parametrize(
    ("config", "match"),
    [
        (changed("vision_cfg", pool_type="avg"), "pooled by 'avg'"),
        (changed("text_cfg", pool_type="last"), "pooled by 'last'"),
        (changed("text_cfg", pool_type="eos", eos_id=2), "pooled by 'eos'"),
        (changed("text_cfg", no_causal_mask=True), "causal"),
        (changed("vision_cfg", image_size=[32, 64]), "square"),
        (changed("vision_cfg", width=32), "says width 32, the tensors 24"),
        (changed("text_cfg", heads=3), "3 does not fit width 16"),
        (changed("text_cfg", heads="4"), "heads is '4'"),
        (changed("text_cfg", act_kwargs={"slope": 1}), "slope"),
        (changed("vision_cfg", norm_kwargs={"affine": False}), "affine"),
        (CONFIG | {"text_cfg": []}, "text_cfg is no JSON object"),
        (hf_changed("text_config", eos_token_id=3), "pooled at token 3"),
        (hf_changed("text_config", hidden_act="relu"), "'relu'"),
        (hf_changed("vision_config", layer_norm_eps=-1), "layer_norm_eps is -1"),
        (hf_changed("vision_config", hidden_size=768), "says width 768, the tensors 24"),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(config, match, tmp_path):
    name = "open_clip" if "text_cfg" in config else "hugging_face"
    with pytest.raises(UserError, match=match):
        opened(written(tmp_path, state(name), config))


def test_the_config_beside_says_what_no_tensor_does(tmp_path):
    def vision(config, name="open_clip"):
        return opened(written(tmp_path, state(name), config)).config.encoders["vision"]

    assert vision(CONFIG).heads == 3 and vision(CONFIG).norm_eps == 1e-5
    hub = {"model_cfg": CONFIG | {"quick_gelu": True}, "preprocess_cfg": {}}
    assert vision(hub).activation == "quick_gelu"
    assert vision(changed("vision_cfg", head_width=4)).heads == 6
    assert vision(changed("vision_cfg", norm_kwargs={"eps": 1e-6})).norm_eps == 1e-6
    tanh = changed("vision_cfg", act_kwargs={"approximate": "tanh"})
    assert vision(tanh).activation == "gelu_tanh"
    eos = changed("text_cfg", pool_type="eos", eos_id=39)  # the largest id: the same pooling
    assert vision(eos) == vision(CONFIG)
    assert vision(hf_changed("vision_config", hidden_act="gelu"), "hugging_face").heads == 3
    older = HF_CONFIG | {"vision_config_dict": {"hidden_act": "gelu"}, "text_config_dict": None}
    assert vision(older, "hugging_face").activation == "gelu"


def test_what_is_told_wins_over_the_config(tmp_path):
    path = written(tmp_path, state())
    config = opened(path, heads={"vision": 6}, activation="gelu_tanh").config
    assert config.encoders["vision"].heads == 6 and config.encoders["text"].heads == 4
    assert {c.activation for c in config.encoders.values()} == {"gelu_tanh"}


def test_what_nothing_says_is_assumed_aloud_or_refused(tmp_path):
    path = written(tmp_path, state(), None)
    with pytest.raises(UserError, match="pass heads={'vision': n}"):
        opened(path)
    with pytest.warns(UserWarning, match="assuming gelu"):
        config = opened(path, heads=HEADS).config
    assert config.encoders["text"].activation == "gelu"
    assert config.encoders["text"].norm_eps == 1e-5
    path = written(tmp_path, state("hugging_face"), None)
    with pytest.warns(UserWarning, match="assuming quick_gelu"):
        opened(path, heads=HEADS)
    inception = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": [0.5] * 3}}
    with pytest.warns(UserWarning, match="normalised with mean .*0.5"):
        opened(written(tmp_path, state(), inception))
    with pytest.warns(UserWarning, match="a vocabulary of 40"):
        opened(written(tmp_path, state()))


@pytest.mark.parametrize(
    ("modality", "width", "heads"),
    [
        ("vision", 768, 12),  # ViT-B
        ("vision", 1024, 16),  # ViT-L
        ("vision", 1280, 16),  # ViT-H
        ("vision", 1408, 16),  # ViT-g
        ("vision", 1664, 16),  # ViT-bigG
        ("text", 512, 8),
        ("text", 768, 12),
        ("text", 1280, 20),  # of ViT-bigG
    ],
)
def test_published_widths_have_their_heads_without_a_warning(modality, width, heads):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert LoadHints().heads_of(modality, width) == heads


def test_a_repository_of_the_hub_with_both_libraries_files(tmp_path):
    """The configs' names are fixed there; either describes either file."""
    shutil.copy(GOLDEN / "open_clip.pt", tmp_path / "open_clip_pytorch_model.bin")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    (tmp_path / "config.json").write_text(json.dumps(HF_CONFIG))
    model, params = load(tmp_path / "open_clip_pytorch_model.bin")
    assert model == load(GOLDEN / "open_clip.pt")[0]
    leaves = traverse_util.flatten_dict(params, sep="/")
    assert leaves["vision/stem/kernel"].shape == (2, 8, 8, 3, 24)


def test_a_folder_from_a_hub_is_opened_by_its_weights():
    with (
        pytest.warns(UserWarning, match="vocabulary"),
        open_weights(GOLDEN / "hugging_face") as weights,
    ):
        assert weights.origin["file"] == "model.safetensors"
