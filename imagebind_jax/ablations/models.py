"""The bench's encoders: frozen towers of image and text, and the small ones that are bound to them."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import Float

from imagebind_jax import optimizer
from imagebind_jax.ablations.spec import TrialConfig
from imagebind_jax.config import TrainConfig
from imagebind_jax.distributed import sharding
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.tasks.zero_shot import zero_shot_weights
from imagebind_jax.inputs import world
from imagebind_jax.inputs.pipeline import batches
from imagebind_jax.inputs.pipeline.precomputed import FixedViews, PrecomputedEmbeddings
from imagebind_jax.inputs.sources import Record
from imagebind_jax.inputs.transforms import audio, augment, depth, text, thermal, vision
from imagebind_jax.inputs.world import captions
from imagebind_jax.inputs.world.attributes import sample_attributes
from imagebind_jax.inputs.world.recordings import MomentSequences
from imagebind_jax.inputs.world.world import world_source
from imagebind_jax.models.imagebind import TINY, ImageBind, ImageBindConfig
from imagebind_jax.training.step import create_state, train_step

SIZE, WIDTH = 64, 64  # pixels; dimensions of the shared space
LABEL_COLUMNS = ("shape", "material")  # the columns of labels
TASK_OF_MODALITY = {
    "depth": "shape",
    "audio": "material",
    "thermal": "shape",
}  # what is asked of each
# Of the towers' own training. Crops that show a twelfth of a picture, as the paper's may, would be
# beyond what towers of this size can tell.
IMAGE_AUGMENTATION = augment.SpatialAugmentation(
    crop_scale=(0.5, 1.0), operations=0, jitter=0.2, erase=0.0
)
TOWER_PAIRS, TOWER_VIEWS, TOWER_STEPS, TOWER_BATCH = 6144, 2, 2000, 64

TOKENIZER = text.Tokenize(24)  # the longest caption has as many
VOCABULARY_SAMPLES = 4000  # captions that hold every word there is


@functools.cache
def vocabulary() -> tuple[int, ...]:
    """The tokens that the world's captions and prompts are made of: 139 of 49,408."""
    rng = np.random.default_rng(0)
    said = [
        captions.caption(sample_attributes(rng, test=i % 2 == 0), rng)
        for i in range(VOCABULARY_SAMPLES)
    ]
    for task, prompts in world.PROMPTS.items():
        said += [p.replace("{}", name) for p in prompts for name in world.CLASS_NAMES[task]]
    return tuple(np.unique([TOKENIZER({"text": each}, None) for each in said]).tolist())


@dataclasses.dataclass(frozen=True)
class WorldTokens:
    """record["text"] to tokens numbered by `vocabulary`: a tower learns in a quarter of the time.

    The end of a text stays the largest. Raises UserError on a word the world does not know.
    """

    def __call__(self, record: Record, rng: np.random.Generator | None) -> np.ndarray:
        tokens, known = TOKENIZER(record, rng), np.array(vocabulary())
        numbers = np.minimum(np.searchsorted(known, tokens), len(known) - 1)
        if (known[numbers] != tokens).any():
            raise UserError(f"a word of {record['text']!r} is not one of the world's")
        return numbers.astype(np.int32)


_IMAGE = dataclasses.replace(TINY.encoders["vision"], shape=(1, SIZE, SIZE, 3), patch=(1, 32, 32))
IMAGE_ENCODERS = {
    "small": dataclasses.replace(_IMAGE, width=40, depth=1, heads=2),
    "base": dataclasses.replace(_IMAGE, width=96, depth=2, heads=3),
    "large": dataclasses.replace(_IMAGE, width=160, depth=3, heads=5),
}
SCALE_RATE = 30.0  # so that a learned temperature can halve within the shortest of these runs
ENCODERS = {"small": (48, 1, 2), "base": (96, 2, 3)}  # width, layers, heads
# Means and standard deviations of the training inputs; of depth and heat as of the demo's.
LOG_MEL_MEAN_STD = 0.16, 0.40
DEPTH = depth.Disparity(SIZE, "metric", mean=1.66, std=0.83)
INPUTS: dict[str, batches.Transform] = {
    "vision": vision.FramesTransform(SIZE, frames=1),
    "text": WorldTokens(),
    "audio": batches.Standardize(audio.LogMel(), *((x,) for x in LOG_MEL_MEAN_STD)),
    "depth": DEPTH,
    "thermal": batches.Standardize(thermal.Thermal(SIZE), (0.34,), (0.15,)),
}
Params = Mapping


def pretrain_config(seed: int, size: str) -> TrainConfig:
    """The training of an image tower and its text tower, on captioned images of that seed's world."""
    words = dataclasses.replace(
        TINY.encoders["text"],
        shape=(TOKENIZER.context_length,),
        vocab_size=len(vocabulary()),
        width=64,
        heads=2,
    )
    encoders = {"vision": IMAGE_ENCODERS[size], "text": words}
    pair = batches.ModalityPair(
        ("vision", "text"),
        world_source(
            MomentSequences(seed, SIZE), "train", TOWER_PAIRS, modalities=("vision", "text")
        ),
        views=FixedViews(TOWER_VIEWS),
    )
    return TrainConfig(
        model=ImageBindConfig(encoders, embed_dim=WIDTH),
        inputs=INPUTS
        | {"vision": vision.FramesTransform(SIZE, frames=1, augment=IMAGE_AUGMENTATION)},
        pairs=(pair,),
        steps=TOWER_STEPS,
        batch_size=TOWER_BATCH,
        optimizer=optimizer.OptimizerConfig(
            learning_rate=1e-3, warmup_steps=TOWER_STEPS // 10, weight_decay=0.05, beta2=0.98
        ),
        seed=seed,
    )


def steps(setting: TrialConfig) -> int:
    """That its epochs make."""
    return -(-setting.epochs * setting.pairs // setting.batch_size)


def trial_config(setting: TrialConfig, seed: int) -> TrainConfig:
    """The training that a setting stands for, as any config file would say it.

    Its anchors are not read from a folder: the bench has them in memory.
    """
    like = TINY.encoders[setting.modality]
    patch = (128, 34) if setting.modality == "audio" else (32, 32)
    width, layers, heads = ENCODERS[setting.encoder]
    encoder = dataclasses.replace(
        like,
        width=width,
        depth=layers,
        heads=heads,
        patch=patch,
        logit_scale=1 / setting.temperature,
        learn_scale=setting.learned,
        mlp_head=setting.head == "mlp",
        logit_bias=-float(np.log(setting.batch_size - 1))
        if setting.objective == "sigmoid"
        else None,
    )
    return TrainConfig(
        model=ImageBindConfig({setting.modality: encoder}, embed_dim=WIDTH),
        inputs=INPUTS,
        pairs=(
            batches.ModalityPair(
                ("vision", setting.modality),
                world_source(MomentSequences(seed, SIZE), "train", setting.pairs),
                views=FixedViews(1),
                anchors=PrecomputedEmbeddings("in memory"),
            ),
        ),
        steps=steps(setting),
        batch_size=setting.batch_size,
        optimizer=optimizer.OptimizerConfig(
            learning_rate=1e-3,
            scale_rate=SCALE_RATE,
            warmup_steps=steps(setting) // 10,
            weight_decay=0.05,
            beta2=0.98,
        ),
        objective=setting.objective,
        seed=seed + 1000 * setting.repeat,
    )


def train_on_arrays(
    config: TrainConfig,
    batch: Callable[[int], Mapping[str, np.ndarray]],
    tell: Callable[[float], None] = lambda share: None,
) -> Params:
    """The parameters after a config's steps, by the step that `imagebind-jax train` takes.

    batch: step -> that step's batch, from memory. tell: told the share that is done.
    Raises UserError where a step was not finite.
    """
    place = sharding.make_strategy(config.parallel, config.fsdp)
    # No seed in the programs: one compilation serves them all. (Nothing is dropped, so none is used.)
    state = place.place(create_state(config))
    step = _step(dataclasses.replace(config, seed=0), place, state)
    for i in range(config.steps):
        state, numbers = step(state, place.batch(batch(i)))
        if i % 50 == 49 or i + 1 == config.steps:
            jax.block_until_ready(numbers)  # not further ahead than what progress says
            tell((i + 1) / config.steps)
    if skipped := int(state.health["skipped"]):
        raise UserError(f"{skipped} of {config.steps} steps were not finite")
    return jax.device_get(place.gather(state).params)


_STEPS: dict[tuple, Callable] = {}


def _step(config: TrainConfig, place, state) -> Callable:
    """Compiled once for all seeds of a setting, which come one after the other."""
    key = (config.model, config.optimizer, config.steps, config.objective, config.batch_size)
    if key not in _STEPS:
        if len(_STEPS) > 1:  # a chain's two encoders take turns
            _STEPS.clear()
        _STEPS[key] = place.compile(functools.partial(train_step, config=config), state)
    return _STEPS[key]


def embed(
    model: ImageBindConfig, params: Params, modality: str, x: np.ndarray, rows: int = 256
) -> Float[np.ndarray, "n e"]:
    """Unit vectors of inputs of one modality, `rows` at a time."""
    one = ImageBindConfig({modality: model.encoders[modality]}, embed_dim=model.embed_dim)
    tower = {modality: params[modality]}
    parts = []
    for start in range(0, len(x), rows):
        part = np.asarray(x[start : start + rows])
        part = part.astype(np.float32) if part.dtype == np.float16 else part
        missing = rows - len(part)  # one shape, one compilation
        padded = np.concatenate([part, np.repeat(part[:1], missing, axis=0)]) if missing else part
        parts.append(np.asarray(_embed(one, tower, modality, padded))[: len(part)])
    return np.concatenate(parts)


@functools.partial(jax.jit, static_argnums=(0, 2))
def _embed(model: ImageBindConfig, params: Params, modality: str, x: jax.Array) -> jax.Array:
    return ImageBind(model).apply({"params": params}, {modality: x})[0][modality]


def class_embeddings(
    model: ImageBindConfig, params: Params, task: str
) -> Float[np.ndarray, "classes e"]:
    """A unit vector for each of a task's classes, by the prompts of the world."""
    tokens = INPUTS["text"]

    def embed_text(sentences):
        x = np.stack([tokens({"text": sentence}, None) for sentence in sentences])
        return embed(model, params, "text", x)

    return zero_shot_weights(embed_text, world.CLASS_NAMES[task], world.PROMPTS[task])
