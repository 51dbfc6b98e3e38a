"""Files of one's own and a checkpoint to embed them with, small: fixtures (`pytest_plugins = ["own_files"]`)."""

import functools
import io
import warnings
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from flax import traverse_util
from PIL import Image

from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig, init
from imagebind_jax.porting.files import own_checkpoint, provenance, tensor_writers
from imagebind_jax.porting.files.parameter_source import InMemoryParams, param_shapes
from imagebind_jax.porting.imagebind_export import imagebind_state_dict

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 50, 220)}
WORDS = ("a red dog", "the sea", "thunder at night", "two cups of tea, and a cake")
SMALL = {"width": 16, "depth": 1, "heads": 2}
MODEL = ImageBindConfig(
    {
        "vision": EncoderConfig((2, 32, 32, 3), patch=(2, 16, 16), **SMALL),
        "text": EncoderConfig((16,), vocab_size=49408, position_std=0.01, **SMALL),
        "audio": EncoderConfig((128, 204, 1), patch=(64, 51), **SMALL),
        "depth": EncoderConfig((32, 32, 1), patch=(16, 16), **SMALL),
        "thermal": EncoderConfig((32, 32, 1), patch=(16, 16), **SMALL),
        "imu": EncoderConfig((200, 6), patch=(50,), **SMALL),
    },
    embed_dim=12,
)


def parameters(config, seed=0):
    """Parameters, every one of them random, for which nothing is compiled."""
    rng = np.random.default_rng(seed)
    leaves = {
        path: jnp.asarray(
            np.float32(path.endswith("scale") + 0.2 * rng.standard_normal(leaf.shape))
        )
        for path, leaf in param_shapes(config).items()
    }
    return traverse_util.unflatten_dict(leaves, sep="/")


def save(path, seed=0, config=MODEL):
    """A checkpoint of random weights: a folder, or a file, of which each opening takes a tenth of the time."""
    begun = jax.device_get(jax.jit(functools.partial(init, config))(jax.random.key(seed)))
    # Larger than they begin: else all inputs give nearly one vector.
    weights = InMemoryParams(config, jax.tree.map(lambda x: 3 * x if x.ndim > 1 else x, begun))

    def told(digests):
        return provenance.WeightsMetadata(config, {"licence": ""}, dict(digests))

    if path.suffix != ".safetensors":
        own_checkpoint.write_checkpoint(path, weights, told)
        return path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the reference would compute otherwise
        specs, tensors = imagebind_state_dict(weights)
    tensor_writers.write_safetensors(path, specs, tensors, told)
    return path


def jpeg(colour, size=(40, 36), seed=0):
    noise = np.random.default_rng(seed).integers(-9, 9, (*size[::-1], 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def grey(seed, bits=8):
    levels = np.random.default_rng(seed).integers(500, 4000, (40, 40))
    image = Image.fromarray(
        levels.astype(np.uint16) if bits == 16 else (levels // 16).astype(np.uint8)
    )
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def tone(hertz, seconds=2.0, rate=16000):
    buffer = io.BytesIO()
    wave = 0.3 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)
    soundfile.write(buffer, wave, rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def walk(seed):
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(seed).standard_normal((400, 6)).astype(np.float32))
    return buffer.getvalue()


def write_files(root, count=4):
    """Folders of every modality, and a few that are none; returns how many can be embedded."""
    made = {}
    for i in range(count):
        for name, colour in COLOURS.items():
            made[f"photos/{name}{i}.jpg"] = jpeg(colour, seed=zlib.crc32(f"{name}{i}".encode()))
        made[f"sounds/{i}.flac"] = tone(200 * 2**i)
        made[f"moves/{i}.npy"] = walk(i)
        made[f"words/{i}.txt"] = WORDS[i % len(WORDS)].encode()
        made[f"depth/{i}.png"] = grey(i, 16)
        made[f"heat/{i}.png"] = grey(100 + i)
    for name, data in made.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return len(made)


OPTIONS = ["--focal-length", "30", "--baseline", "0.1", "--imu-rate", "40"]


def given(root):
    """The arguments of `embed` that name all of `write_files`."""
    paths = [root / name for name in ("photos", "sounds", "moves", "words")]
    return [*paths, "--depth", root / "depth", "--thermal", root / "heat", *OPTIONS]


# All of them once for all test processes, and read only.


@pytest.fixture(scope="session")
def checkpoint(made_once):
    name = "small.safetensors"
    return made_once("checkpoint", lambda folder: save(folder / name)) / name


@pytest.fixture(scope="session")
def files(made_once):
    return made_once("files", write_files)


@pytest.fixture(scope="module")
def stored(made_once, checkpoint, files):
    """A store of all of `files`."""
    from imagebind_jax import cli

    def make(folder):
        out = ["--checkpoint", checkpoint, "--out", folder / "store"]
        assert cli.main([str(each) for each in ("embed", *given(files), *out)]) == 0

    return made_once("stored", make) / "store"
