"""Hostile files of our own formats and of safetensors: one line each, at once, and no memory."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy

import imagebind_jax as ib
from imagebind_jax import UserError
from imagebind_jax.errors import one_line
from imagebind_jax.models.imagebind import TINY, ImageBindConfig
from imagebind_jax.porting.formats.rules import ParamMapping, Rule
from imagebind_jax.porting.load import read_config

pytestmark = pytest.mark.jax
CHECKPOINT = pathlib.Path(__file__).parents[1] / "golden" / "imagebind" / "imagebind_tiny.pth"


@pytest.fixture
def folder(small, tmp_path):
    return shutil.copytree(small / "w", tmp_path / "w")


def refusal(path, **how):
    with pytest.raises(UserError) as error:
        ib.load(path, **how)
    message = str(error.value)
    assert message.isprintable() and len(message) < 60_000
    return message


@pytest.mark.parametrize("name", ["model.json", "params/_METADATA", "params/imu.cls/.zarray"])
def test_a_fifo_in_a_folder_does_not_hang(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert "is no plain file" in refusal(folder)


def test_a_link_out_of_a_folder_is_not_followed(folder, tmp_path):
    array = folder / "params" / "imu.cls"
    array.rename(tmp_path / "elsewhere")
    array.symlink_to(tmp_path / "elsewhere")
    assert "is no plain file" in refusal(folder)


@pytest.mark.parametrize(
    "changes", [{"chunks": [30_000]}, {"compressor": {"id": "zlib", "level": 1}}, {"filters": [1]}]
)
def test_arrays_that_would_grow_are_refused(folder, changes):
    path = folder / "params" / "imu.cls" / ".zarray"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert "not ours" in refusal(folder)


@pytest.mark.parametrize("name", ["{layer:>200000000}", "{0}", "a/b", "a\n\x1b[31m", "", "A"])
def test_names_of_modalities_are_plain(name):
    with pytest.raises(UserError, match="small letters") as error:
        ImageBindConfig({name: TINY.encoders["imu"]})
    assert str(error.value).isprintable()


def tensors(path, **content):
    safetensors.numpy.save_file(content, path)
    return path


def test_names_out_of_a_file_do_not_drive_the_terminal(tmp_path):
    names = {
        "visual.conv1.weight": 1,
        "visual.x\n\x1b[31mEVIL\nfoo": 2,
        "visual." + "1" * 5000 + ".x": 3,
    }
    content = {name: np.zeros((2, 3, 4, 4), np.float32) for name in names}
    refusal(tensors(tmp_path / "w.safetensors", **content))


@pytest.mark.parametrize("shape", [(1,) * 40, (0, 2**62, 2**62)])
def test_tensors_of_absurd_shapes_are_refused(tmp_path, shape):
    header = {"visual.conv1.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
    header["visual.conv1.weight"]["data_offsets"][1] = 4 if 0 not in shape else 0
    text = json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4 if 0 not in shape else 0))
    refusal(path)


def test_a_header_that_is_too_long_is_not_even_parsed(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes((90 << 20).to_bytes(8, "little") + b'{"')
    assert "its header is larger than 16 MiB" in refusal(path)


def test_shapes_are_judged_without_memory():
    """The patch convolution of 48 TB is inflated on paper only."""
    rule = Rule("conv", "stem/kernel", "o c y x -> t y x c o", inflate="t")
    leaf = ParamMapping("vision/stem/kernel", (2, 4, 4, 3, 8), rule, (("conv",),), {"t": 2, "c": 3})
    assert leaf.shape_of((10**6, 3, 2000, 2000)) == (2, 2000, 2000, 3, 10**6)
    assert leaf.shape_of((8, 4, 4, 4)) is None  # four channels
    assert leaf.shape_of((8, 3, 4)) is None


def test_a_line_is_a_line():
    assert one_line("a\nb\x1b[0m") == "a b\\x1b[0m"
    assert one_line("x" * 100, limit=10) == "xxxxxxxxxx ..."


def test_the_config_alone_reads_no_weights():
    assert read_config(CHECKPOINT).encoders["imu"].width == 32
