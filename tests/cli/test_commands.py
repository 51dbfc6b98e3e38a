"""The command line: a user's mistake is exit code 2 and one line that says what to do, no traceback."""

import errno
import os
import pathlib
import textwrap

import pytest

from imagebind_jax import __version__, cli
from imagebind_jax.cli import exit_codes
from imagebind_jax.config import TrainConfig, load_config
from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import EvalConfig
from imagebind_jax.storage import atomic

WEIGHTS = pathlib.Path(__file__).parents[1] / "golden" / "imagebind" / "imagebind_tiny.pth"
CONFIG = """
import dataclasses
import numpy as np
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.models.imagebind import ImageBindConfig
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.config import TrainConfig

@dataclasses.dataclass(frozen=True)
class Toy:
    count: int = 16
    def open(self):
        return [{"x": np.zeros((8, 4), np.float32)}] * self.count

@dataclasses.dataclass(frozen=True)
class X:
    def __call__(self, record, rng):
        return record["x"]

def get_config():
    encoders = {
        name: EncoderConfig((8, 4), width=32, depth=1, heads=4, patch=(2,)) for name in ("vision", "imu")
    }
    return TrainConfig(
        model=ImageBindConfig(encoders, embed_dim=16),
        inputs={"vision": X(), "imu": X()},
        pairs=(ModalityPair(("vision", "imu"), Toy()),),
        steps=2,
        batch_size=8,
        optimizer=OptimizerConfig(warmup_steps=1),
    )
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config file in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "toy.py"
    path.write_text(CONFIG)
    return str(path)


# ---- commands and options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "command"),
        (["sing"], "'sing' (choose from"),
        (["demo", "--speed", "9"], "unrecognized arguments: --speed 9"),
        (["demo", "--seed", "one"], "--seed: invalid int value: 'one'"),
        (["demo", "--seed", "-1"], "--seed must not be negative, got -1"),
        (["demo", "--seed"], "--seed: expected one argument"),
        (["train"], "train needs a config"),
        (["train", "nowhere.py"], "no config file nowhere.py"),
        (["convert", "nowhere.pth"], "the following arguments are required: DST"),
        (["convert", "nowhere.pth", "w"], "nowhere.pth: no such file or folder"),
        (["convert", WEIGHTS, "w", "--format", "onnx"], "format 'onnx': not one of orbax, safet"),
        (["convert", WEIGHTS, "w", "--source", "onnx"], "source 'onnx': not one of auto, imageb"),
        (["convert", WEIGHTS, "w", "--dtype", "int4"], "dtype 'int4': not one of float32, bfl"),
        (["convert", WEIGHTS, "w", "--modalities", "smell"], "has no smell: only vision, text"),
        (["convert", WEIGHTS, "w", "--heads", "vision"], "--heads vision: expected modality=num"),
        (["convert", WEIGHTS, "w", "--heads", "vision=5"], "5 does not fit width 48"),
        (["convert", WEIGHTS, "w", "--merge"], "--merge is for adapters"),
        (["convert", WEIGHTS, "w", "--source", "lora"], "--base CKPT"),
        (["convert", WEIGHTS, "w", "--base", WEIGHTS], "no adapter"),
        (["convert", WEIGHTS, "/proc/nowhere/w"], "cannot write to /proc/nowhere"),
        (["convert", __file__, "w"], "test_commands.py"),
    ],
)
def test_a_command_that_cannot_be_understood(arguments, words, mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words in mistake(*arguments)
    assert not list(tmp_path.iterdir())


def test_the_version(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    assert {"demo", "train", "convert"} <= set(capsys.readouterr().out.split())


def test_debug_shows_the_traceback():
    with pytest.raises(UserError):
        cli.main(["train", "nowhere.py", "--debug"])


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/nowhere/demo"])
def test_a_demo_that_cannot_be_written(name, mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    line = mistake("demo", "--out", name)
    assert name in line
    assert "--out" in line


@pytest.mark.parametrize(
    ("name", "is_folder", "words"),
    [
        (".lock", True, "is a link or a folder"),
        ("checkpoints", False, "checkpoints: File exists"),
        ("config.json", True, "config.json: Is a directory"),
    ],
)
def test_a_file_where_a_folder_should_be_or_the_reverse(
    name, is_folder, words, mistake, config, tmp_path
):
    path = tmp_path / "run" / name
    path.parent.mkdir()
    path.mkdir() if is_folder else path.touch()
    assert words in mistake("train", config, "--out", tmp_path / "run")


def test_no_link_in_place_of_a_lock_is_followed(mistake, config, tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    assert "is a link or a folder" in mistake("train", config, "--out", tmp_path / "run")
    assert (tmp_path / "mine").read_text() == "precious"


def test_what_a_full_disk_had_no_room_for_is_named(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write does, without a name

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError) as raised:
        atomic.write_text_atomic(tmp_path / "records.json", "[]")
    line, code, _ = exit_codes.exit_status(raised.value, ["train"])
    assert (line, code) == (f"{tmp_path / 'records.json'}: No space left on device", 2)


@pytest.mark.parametrize("name", ["file", "file/below", "/proc/nowhere/run"])
def test_a_run_that_cannot_be_written(name, mistake, config, tmp_path):
    (tmp_path / "file").write_text("")
    assert name in mistake("train", config, "--out", name)


# ---- configs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1", "does not define get_config()"),
        ("def get_config():\n    return {'steps': 3}", "returned dict, not TrainConfig"),
        (CONFIG.replace("batch_size=8", "batch_size=0"), "batch_size must be at least 1, got 0"),
        (CONFIG.replace('"imu"), Toy', '"smell"), Toy'), "a pair needs 'smell'"),
        (CONFIG.replace("width=32", "width=33"), "width 33 is not divisible by 4 heads"),
        (CONFIG.replace("batch_size=8", "batch_size=8, stepss=3"), "'stepss'"),
        (CONFIG.replace("batch_size=8", "batch_size='8'"), "batch_size must be a number, got '8'"),
        ("def get_config(:", "SyntaxError"),
    ],
)
def test_a_config_that_is_none(text, words, mistake, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(textwrap.dedent(text))
    assert words in mistake("train", path, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (["--step", "5"], ["--step", "--steps"]),
        (["--optimizer.learning-rat", "5"], ["learning-rat", "--optimizer.learning-rate"]),
        (["--batchsize", "5"], ["--batchsize", "--batch-size"]),
        (["--steps", "many"], ["--steps", "many", "int"]),
        (["--steps", "1.5"], ["--steps", "1.5", "int"]),
        (["--optimizer.learning-rate", "high"], ["--optimizer.learning-rate", "high", "float"]),
        (["--steps", "0"], ["steps must be at least 1, got 0"]),
        (["--optimizer.clip-norm", "0"], ["clip_norm must be > 0"]),
        (["--parallel", "ddp"], ["'ddp': not one of sharded, pmap"]),
        (["--batch-size", "30"], ["batch_size 30 is not divisible by 8 devices"]),
        (["--fsdp", "3"], ["fsdp 3 does not divide 8 devices"]),
        (["--seed", "-1"], ["seed", "-1"]),
        (["surplus"], ["surplus"]),
    ],
)
def test_a_field_that_is_wrong(override, words, mistake, config, tmp_path):
    line = mistake("train", config, "--out", tmp_path / "run", *override)
    assert [word for word in words if word not in line] == [], line


@pytest.mark.parametrize("spelling", ["learning-rate", "learning_rate"])
def test_overrides_reach_nested_fields_and_nothing_else(spelling, config):
    changed = [f"--optimizer.{spelling}", "0.25", "--steps", "7", "--model.embed-dim", "32"]
    found = load_config(config, TrainConfig, changed)
    wanted = load_config(config, TrainConfig)
    assert (found.optimizer.learning_rate, found.steps, found.model.embed_dim) == (0.25, 7, 32)
    assert (wanted.optimizer.learning_rate, wanted.steps, wanted.model.embed_dim) == (1.6e-3, 2, 16)
    assert found.batch_size == wanted.batch_size == 8
    assert found.model.encoders == wanted.model.encoders
    assert found.optimizer.warmup_steps == 1
    assert [pair.name for pair in found.pairs] == ["vision+imu"]
    assert found.pairs[0].source.count == 16


def test_the_configs_of_the_project_load(request):
    files = sorted((request.config.rootpath / "configs").glob("*.py"))
    assert files
    for path in files:
        kind = EvalConfig if path.name.startswith("eval_") else TrainConfig
        assert load_config(path, kind, ["--seed", "3"]).seed == 3
