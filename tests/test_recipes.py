"""The configs of the paper's training are its Table 9, field by field, and train."""

import ast
import dataclasses
import functools
import importlib.util
import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from imagebind_jax.config import TrainConfig, load_config
from imagebind_jax.distributed import sharding
from imagebind_jax.inputs.transforms import augment
from imagebind_jax.models import imagebind
from imagebind_jax.models.imagebind import HUGE, count_parameters
from imagebind_jax.plan import aot_compile
from imagebind_jax.porting import warm_start
from imagebind_jax.porting.load import read_config
from imagebind_jax.prepare.run import prepare_dataset
from imagebind_jax.runtime import metrics_log
from imagebind_jax.training import fit
from imagebind_jax.training import step as training_step

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
PAPER = ("train_audioset", "train_sun_rgbd", "train_llvip", "train_ego4d")
BASE = "imagebind_base"

# Typed from arXiv:2305.05665v2, and never from the configs. None: a dash, or no row's business.
TABLE_9 = {
    # row of the table               AudioSet     SUN RGB-D    LLVIP        Ego4D
    "vision encoder (frozen)":      ("ViT-Huge",  "ViT-Huge",  "ViT-Huge",  "ViT-Huge"),
    "embed dim":                    (768,         384,         768,         512),
    "heads":                        (12,          8,           12,          8),
    "layers":                       (12,          12,          12,          6),
    "betas":                        ((0.9, 0.95), (0.9, 0.95), (0.9, 0.95), (0.9, 0.95)),
    "peak rate":                    (1.6e-3,      1.6e-3,      5e-4,        5e-4),
    "weight decay":                 (0.2,         0.2,         0.05,        0.5),
    "batch":                        (2048,        512,         512,         512),
    "gradient clip":                (1.0,         1.0,         5.0,         1.0),
    "warm-up epochs":               (2,           2,           2,           2),
    "replication":                  (1.25,        50,          25,          1.0),
    "epochs":                       (64,          64,          64,          8),
    "stochastic depth":             (0.1,         0.0,         0.0,         0.7),
    "temperature":                  (0.05,        0.2,         0.1,         0.2),
    "crop":                         (224,         224,         224,         224),
    "flip":                         (None,        0.5,         0.5,         None),
    "erase":                        (None,        0.25,        0.25,        None),
    "RandAugment":                  (None,        (9, 0.5),    (9, 0.5),    None),
    "jitter":                       (None,        0.4,         0.4,         None),
    "frequency masking":            (12,          None,        None,        None),
}  # fmt: skip
# By hand: records x replication x epochs / batch, less the fraction.
#   2,041,789 x 1.25 = 2,552,236;  x 64 = 163,343,104 / 2,048 = 79,757.4;  x 2: 2,492.4
#       5,285 x 50   =   264,250;  x 64 =  16,912,000 / 512   = 33,031.2;  x 2: 1,032.2
#      12,025 x 25   =   300,625;  x 64 =  19,240,000 / 512   = 37,578.1;  x 2: 1,174.3
#     510,142 x 1    =   510,142;  x 8  =   4,081,136 / 512   =  7,970.9;  x 2: 1,992.7
#   as the first, x 16 =  40,835,776 / 2,048 = 19,939.3
STEPS = {
    "train_audioset": (79_757, 2_492),
    "train_sun_rgbd": (33_031, 1_032),
    "train_llvip": (37_578, 1_174),
    "train_ego4d": (7_970, 1_992),
    BASE: (19_939, 2_492),
}
RECORDS = dict(zip(PAPER, (2_041_789, 5_285, 12_025, 510_142)))
PARAMETERS = {
    "train_audioset": {"audio": 86_235_648},
    "train_sun_rgbd": {"depth": 21_871_872},
    "train_llvip": {"thermal": 86_211_072},
    "train_ego4d": {"imu": 19_600_384},
    BASE: {"audio": 86_235_648 - 768 * (1024 - 512)},  # a head to 512
}
# The named lines of a config: the table's rows from top to bottom, and what steps are counted by.
LINES = {
    "VISION": "vision encoder (frozen)",
    "WIDTH": "embed dim",
    "HEADS": "heads",
    "LAYERS": "layers",
    "BETAS": "betas",
    "PEAK_RATE": "peak rate",
    "WEIGHT_DECAY": "weight decay",
    "BATCH_SIZE": "batch",
    "CLIP_NORM": "gradient clip",
    "WARMUP_EPOCHS": "warm-up epochs",
    "REPLICATION": "replication",
    "EPOCHS": "epochs",
    "STOCHASTIC_DEPTH": "stochastic depth",
    "TEMPERATURE": "temperature",
    "CROP": "crop",
    "FLIP": "flip",
    "ERASE": "erase",
    "RAND_AUGMENT": "RandAugment",
    "JITTER": "jitter",
    "MASKED_BANDS": "frequency masking",
}
pytestmark = pytest.mark.usefixtures("two_devices")


@functools.cache
def config(stem):
    return load_config(CONFIGS / f"{stem}.py", TrainConfig)


def column(stem):
    return {row: cells[PAPER.index(stem)] for row, cells in TABLE_9.items()}


def parts(settings):
    """(the pair, the trained modality, its encoder, its transform)."""
    [pair] = settings.pairs
    assert pair.modalities[0] == "vision" and not pair.inputs
    modality = pair.modalities[1]
    return pair, modality, settings.model.encoders[modality], settings.inputs[modality]


def is_huge(encoder):
    return encoder == dataclasses.replace(HUGE.encoders["vision"], norm_eps=encoder.norm_eps)


def computed(settings):
    """Table 9's rows, read off what would be run and not off the config's text."""
    pair, _, encoder, transform = parts(settings)
    vision, images = settings.model.encoders["vision"], settings.inputs["vision"]
    spatial, optimizer = images.augment, settings.optimizer
    # What has no augmentation of images at all is no image.
    crops = {t.size for t in (images, transform) if getattr(t, "augment", None)}
    assert getattr(transform, "augment", spatial) == spatial
    of_epoch = round(pair.replication * RECORDS[stem_of(settings)]) / settings.batch_size
    frozen = optimizer.frozen == ("vision/",) and is_huge(vision)
    return {
        "vision encoder (frozen)": "ViT-Huge" if frozen else None,
        "embed dim": encoder.width,
        "heads": encoder.heads,
        "layers": encoder.depth,
        "betas": (optimizer.beta1, optimizer.beta2),
        "peak rate": optimizer.learning_rate,
        "weight decay": optimizer.weight_decay,
        "batch": settings.batch_size,
        "gradient clip": optimizer.clip_norm,
        "warm-up epochs": round(optimizer.warmup_steps / of_epoch, 2),
        "replication": pair.replication,
        "epochs": round(settings.steps / of_epoch, 2),
        "stochastic depth": encoder.drop_path,
        "temperature": pytest.approx(1 / encoder.logit_scale),
        "crop": crops.pop() if len(crops) == 1 else crops,
        "flip": spatial.flip or None,
        "erase": spatial.erase or None,
        "RandAugment": (spatial.magnitude, spatial.magnitude_std) if spatial.operations else None,
        "jitter": spatial.jitter or None,
        "frequency masking": getattr(transform, "mask_bands", None),
    }


def stem_of(settings):
    return next(stem for stem in PAPER if config(stem) is settings)


@pytest.mark.parametrize("row", TABLE_9)
@pytest.mark.parametrize("stem", PAPER)
def test_a_config_is_its_column(stem, row):
    assert column(stem)[row] == computed(config(stem))[row]


def test_readings_that_the_table_leaves_open():
    """What a docstring calls not settled is what it says it is here."""
    for stem in PAPER:
        spatial = config(stem).inputs["vision"].augment
        assert spatial.crop_scale == (0.08, 1.0) and spatial.hue == 0
        assert spatial.operations in (0, 2)
        optimizer = config(stem).optimizer
        assert (optimizer.final_fraction, optimizer.epsilon) == (0.0, 1e-8)
        assert config(stem).pairs[0].aligned
        said = ast.get_docstring(tree(stem))
        for words in ("Not settled: ", "32", "cosine", "epsilon", "number of GPUs"):
            assert words in said, (stem, words)
    assert config("train_sun_rgbd").inputs["vision"].augment == augment.IMAGES
    assert config("train_audioset").inputs["vision"].augment.operations == 0


@pytest.mark.parametrize("stem", STEPS)
def test_epochs_become_steps(stem):
    settings = config(stem)
    assert (settings.steps, settings.optimizer.warmup_steps) == STEPS[stem]


@pytest.mark.parametrize("stem", PARAMETERS)
def test_parameters(stem):
    counts = count_parameters(config(stem).model)
    vision = counts.pop("vision")
    assert counts == PARAMETERS[stem]
    assert vision == (86_782_464 if stem == BASE else 632_829_440)


# ---- every row is one line of the config, and that line decides


def tree(stem):
    return ast.parse((CONFIGS / f"{stem}.py").read_text())


def module(stem):
    spec = importlib.util.spec_from_file_location(f"recipe_{stem}", CONFIGS / f"{stem}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def wanted_lines(stem):
    """Without frequency masking where there are no frequencies."""
    return [name for name in LINES if name != "MASKED_BANDS" or stem == "train_audioset"]


@pytest.mark.parametrize("stem", PAPER)
def test_every_row_is_one_named_line_in_the_tables_order(stem):
    names = [
        target.id
        for node in tree(stem).body
        if isinstance(node, ast.Assign)
        for target in node.targets
    ]
    assert names == [*wanted_lines(stem), "RECORDS", "EPOCH"]
    title = {"sun_rgbd": "SUN RGB-D", "audioset": "AudioSet", "llvip": "LLVIP", "ego4d": "Ego4D"}
    heading = f"# Table 9, column {title[stem.removeprefix('train_')]}, row by row"
    assert (CONFIGS / f"{stem}.py").read_text().count(heading) == 1


# Where half of a line's number, or 0.5 for 0, would not do.
OTHERS = {
    "VISION": [HUGE.encoders["depth"]],
    "BETAS": [(0.5, 0.95), (0.9, 0.5)],
    "REPLICATION": [2.0],
    "RAND_AUGMENT": [{"operations": 1}],
}


@pytest.mark.parametrize("stem", PAPER)
def test_every_line_reaches_the_run(stem, monkeypatch):
    made = module(stem)
    before = made.get_config()
    for name in wanted_lines(stem):
        value = getattr(made, name)
        half = [] if name in OTHERS else [type(value)(value / 2) or 0.5]
        for other in OTHERS.get(name, half):
            with monkeypatch.context() as patch:
                patch.setattr(made, name, other)
                assert made.get_config() != before, f"{stem} has {name} and does not use it"
    assert made.get_config() == before


@pytest.mark.parametrize("stem", STEPS)
def test_a_docstring_has_the_commands(stem):
    said = ast.get_docstring(tree(stem))
    assert f"    imagebind-jax train configs/{stem}.py\n" in said
    source, split = config(stem).pairs[0].source.folder, config(stem).pairs[0].source.split
    name = pathlib.PurePath(source).name
    prepares = [line for line in said.splitlines() if f"imagebind-jax prepare {name} " in line]
    assert len(prepares) == 1
    assert f"--out {source} " in prepares[0] and f"--splits {split}" in prepares[0]
    assert f" {config(stem).initial[0]}\n" in said  # what convert writes
    assert "Nobody has run" in said


# ---- it would start: the tower's checkpoint fits, the step is traced at full size, and trains


def open_clip(folder, towers):
    """A file with the tensors of OpenCLIP's towers, of which only names and shapes are written."""
    shapes = {"logit_scale": []}
    for top, (width, layers, embed, first) in towers.items():
        shapes |= first
        norms = {"visual.": ("visual.ln_pre", "visual.ln_post"), "": ("ln_final",)}[top]
        blocks = {"ln_1": None, "ln_2": None, "mlp.c_fc": (4, 1), "mlp.c_proj": (1, 4)}
        for layer in range(layers):
            at = f"{top}transformer.resblocks.{layer}"
            for name, sides in blocks.items():
                rows, columns = sides or (1, None)
                shape = [rows * width] if columns is None else [rows * width, columns * width]
                shapes[f"{at}.{name}.weight"] = shape
                shapes[f"{at}.{name}.bias"] = [rows * width]
            shapes[f"{at}.attn.in_proj_weight"] = [3 * width, width]
            shapes[f"{at}.attn.in_proj_bias"] = [3 * width]
            shapes[f"{at}.attn.out_proj.weight"] = [width, width]
            shapes[f"{at}.attn.out_proj.bias"] = [width]
        for norm in norms:
            shapes |= {f"{norm}.weight": [width], f"{norm}.bias": [width]}
        shapes["visual.proj" if top else "text_projection"] = [width, embed]
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * functools.reduce(lambda a, b: a * b, shape, 1)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path = folder / "open_clip_model.safetensors"
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)  # of zeros that take no space
    activation = {"model_cfg": {"quick_gelu": False}}
    (folder / "open_clip_config.json").write_text(json.dumps(activation))
    return path


def published(patch, vision, text, embed):
    """Of OpenCLIP's ViT-H/14 and ViT-B/16, as their own open_clip_config.json describes them."""
    (width, layers), (text_width, text_layers) = vision, text
    images = {
        "visual.class_embedding": [width],
        "visual.positional_embedding": [1 + (224 // patch) ** 2, width],
        "visual.conv1.weight": [width, 3, patch, patch],
    }
    words = {
        "positional_embedding": [77, text_width],
        "token_embedding.weight": [49408, text_width],
    }
    return {
        "visual.": (width, layers, embed, images),
        "": (text_width, text_layers, embed, words),
    }


VIT_H = published(14, (1280, 32), (1024, 24), 1024)
VIT_B = published(16, (768, 12), (512, 12), 512)


@pytest.mark.parametrize("stem", STEPS)
def test_the_published_tower_fits(stem, tmp_path):
    ours = config(stem).model
    path = open_clip(tmp_path, VIT_B if stem == BASE else VIT_H)
    assert warm_start.check_compatible(ours, read_config(path, assumed=ours.encoders), path) == [
        "vision"
    ]


@pytest.mark.parametrize("stem", STEPS)
def test_the_tower_of_text_can_be_added_as_a_docstring_says(stem, tmp_path):
    settings, size = config(stem), imagebind.BASE if stem == BASE else HUGE
    text = dataclasses.replace(size.encoders["text"], norm_eps=1e-5)
    more = dataclasses.replace(
        settings,
        model=dataclasses.replace(
            settings.model, encoders={**settings.model.encoders, "text": text}
        ),
        optimizer=dataclasses.replace(settings.optimizer, frozen=("vision/", "text/")),
    )
    path = open_clip(tmp_path, VIT_B if stem == BASE else VIT_H)
    theirs = read_config(path, assumed=more.model.encoders)
    assert set(warm_start.check_compatible(more.model, theirs, path)) == {"vision", "text"}
    state = jax.eval_shape(functools.partial(training_step.create_state, more))
    assert state.opt_state.keys() == {parts(settings)[1]}


@pytest.mark.jax
@pytest.mark.parametrize("stem", STEPS)
def test_one_step_at_full_size_is_traced(stem):
    settings = config(stem)
    _, modality, _, _ = parts(settings)
    aot_compile.check_plannable(settings, 8)
    place = sharding.ShardedStrategy(settings.fsdp)
    state = jax.eval_shape(functools.partial(training_step.create_state, settings))
    assert state.opt_state.keys() == {modality}  # and none of vision
    assert state.params["vision"]["stem"]["kernel"].dtype == jnp.bfloat16
    rows = {
        name: jax.ShapeDtypeStruct((settings.batch_size, *encoder.shape), jnp.float32)
        for name, encoder in settings.model.encoders.items()
    }
    batch = rows | {"weight": jax.ShapeDtypeStruct((settings.batch_size,), jnp.float32)}
    step = place.compile(functools.partial(training_step.train_step, config=settings), state)
    after, numbers = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(
        lambda x: (x.shape, x.dtype), state
    )
    assert {"loss", "gradient_norm"} <= numbers.keys()


@pytest.mark.notebooks
@pytest.mark.parametrize("stem", PAPER)
def test_it_trains_on_the_datasets_sample(stem, tmp_path, monkeypatch):
    """Everything as it is but for the widths of towers, the batch, and how many steps there are."""
    if stem in ("train_audioset", "train_ego4d"):
        pytest.importorskip("av")  # videos
    monkeypatch.chdir(tmp_path)
    settings = config(stem)
    [pair], encoders = settings.pairs, settings.model.encoders
    folder = pathlib.Path(pair.source.folder)
    splits = (pair.source.split,)
    prepare_dataset(
        folder.name, None, folder, splits=splits, allow_missing=0.5, say=lambda line: None
    )
    small = {
        name: dataclasses.replace(encoder, width=32, depth=2, heads=2)
        for name, encoder in encoders.items()
    }
    tiny = dataclasses.replace(
        settings,
        model=dataclasses.replace(settings.model, encoders=small, embed_dim=16),
        optimizer=dataclasses.replace(settings.optimizer, warmup_steps=1),
        initial=(),
        steps=2,
        batch_size=8,
        workers=0,
        bad_records=1.0,  # of Ego4D's sample only one video is there
        log_every=1,
        compare_every=0,
    )
    before = jax.jit(lambda: training_step.create_state(tiny))().params
    after = fit.fit(tiny, tmp_path / "run", say=lambda line: None)
    for modality in pair.modalities:
        old, new = before[modality]["head"]["kernel"], after[modality]["head"]["kernel"]
        assert bool(jnp.array_equal(old, new)) == (modality == "vision")
    lines = metrics_log.read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert all(jnp.isfinite(line["loss"]) and line["loss"] > 0 for line in lines)
    assert not lines[-1]["skipped_steps"]
