"""Training that starts from checkpoints, and checkpoints of training as weights."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import pytest
from flax import traverse_util

import imagebind_jax as ib
from imagebind_jax import UserError
from imagebind_jax.config import TrainConfig
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.porting.load import read_config
from imagebind_jax.porting.warm_start import warm_start
from imagebind_jax.training import fit

CLIP = pathlib.Path(__file__).parents[1] / "golden" / "clip" / "open_clip.pt"
pytestmark = [
    pytest.mark.usefixtures("two_devices"),
    pytest.mark.filterwarnings("ignore:.*a vocabulary of 40"),
]


@dataclasses.dataclass(frozen=True)
class Noise:
    """Records of random pictures and sounds."""

    count: int = 16

    def open(self):
        rng = np.random.default_rng(0)
        return [
            {name: rng.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}
            for _ in range(self.count)
        ]


SHAPES = {"vision": (1, 32, 32, 3), "audio": (16, 24, 1)}


@dataclasses.dataclass(frozen=True)
class Field:
    name: str

    def __call__(self, record, rng):
        return record[self.name]


def config(checkpoint=CLIP, **changes):
    clip = read_config(checkpoint)
    audio = EncoderConfig((16, 24, 1), patch=(8, 8), width=16, depth=1, heads=2, logit_scale=20.0)
    model = dataclasses.replace(clip, encoders={**clip.encoders, "audio": audio})
    model = dataclasses.replace(model, **changes.pop("model", {}))
    return TrainConfig(
        model=model,
        inputs={name: Field(name) for name in SHAPES},
        pairs=(ModalityPair(("vision", "audio"), Noise()),),
        steps=2,
        batch_size=8,
        initial=(str(checkpoint),),
        optimizer=OptimizerConfig(warmup_steps=1, frozen=("vision/", "text/")),
        **changes,
    )


def quiet(_):
    pass


def same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on CLIP's frozen towers: its folder and its parameters."""
    folder = tmp_path_factory.mktemp("run")
    return folder, fit.fit(config(), folder, say=quiet)


@pytest.mark.jax
@pytest.mark.parametrize("parallel", ["sharded", pytest.param("pmap", marks=pytest.mark.variants)])
def test_frozen_towers_are_clips(run, tmp_path, parallel):
    params = run[1]
    if parallel == "pmap":
        params = fit.fit(config(parallel="pmap"), tmp_path, say=quiet)
    _, clip = ib.load(CLIP)
    same({m: params[m] for m in clip}, clip)


def test_the_new_encoder_learns_and_does_not_come_from_the_checkpoint(run):
    fresh = ib.init(config().model, jax.random.key(0))["audio"]
    moved = jax.tree.map(
        lambda a, b: float(np.abs(np.asarray(a) - b).max()), run[1]["audio"], fresh
    )
    assert max(jax.tree.leaves(moved)) > 0


@pytest.mark.jax
def test_a_run_is_a_checkpoint_to_load(run):
    folder, params = run
    for path in (folder, folder / "checkpoints", folder / "checkpoints" / "2"):
        model, found = ib.load(path)
        assert model.config == config().model
        same(found, params)
    model, found = ib.load(folder, modalities=["audio"])
    assert set(found) == {"audio"} == set(model.config.encoders)


def test_a_damaged_run_is_refused(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    state = tmp_path / "run" / "checkpoints" / "2" / "state"
    for path in (path for path in state.rglob("d/*") if path.stat().st_size > 2_000):
        content = bytearray(path.read_bytes())
        for at in range(200, len(content), 50):
            content[at] ^= 1
        path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged|cannot be read"):
        ib.load(tmp_path / "run")


def test_a_run_without_a_commit_is_refused(run, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="no checkpoint is committed there yet"):
        ib.load(tmp_path / "run")


def test_a_run_starts_from_a_run_at_another_size(run, tmp_path):
    """Positions are interpolated; the rest is the earlier run's."""
    encoders = dict(config().model.encoders)
    encoders["audio"] = dataclasses.replace(encoders["audio"], shape=(16, 48, 1))
    params = ib.init(dataclasses.replace(config().model, encoders=encoders), jax.random.key(1))
    new = dataclasses.replace(config().model, encoders=encoders)
    filled = warm_start(params, new, run[0])
    assert filled["audio"]["position"].shape == (1 + 2 * 6, 16)
    same(filled["vision"], run[1]["vision"])
    same(filled["audio"]["trunk"], run[1]["audio"]["trunk"])


def test_a_learned_scale_that_a_checkpoint_lacks_stays(run):
    encoders = dict(config().model.encoders)
    encoders["audio"] = dataclasses.replace(encoders["audio"], learn_scale=True)
    new = dataclasses.replace(config().model, encoders=encoders)
    filled = warm_start(ib.init(new, jax.random.key(1)), new, run[0])
    assert np.isclose(float(filled["audio"]["log_logit_scale"]), np.log(20))
    assert traverse_util.flatten_dict(filled).keys() > traverse_util.flatten_dict(run[1]).keys()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not fit: it has embed_dim 12, not 13"):
        fit.fit(config(model={"embed_dim": 13}), tmp_path, say=quiet)


def test_a_checkpoint_without_any_of_the_encoders_is_refused():
    audio = {"audio": config().model.encoders["audio"]}
    with pytest.raises(UserError, match="has none of the encoders audio"):
        warm_start({}, dataclasses.replace(config().model, encoders=audio), CLIP)


def test_what_differs_in_an_encoder_is_named():
    encoders = dict(config().model.encoders)
    encoders["vision"] = dataclasses.replace(encoders["vision"], norm_eps=1e-6, width=48, heads=6)
    new = dataclasses.replace(config().model, encoders=encoders)
    with pytest.raises(UserError, match="its vision has width 24, not 48; .*norm_eps 1e-05"):
        warm_start({}, new, CLIP)


def test_what_a_checkpoints_json_says_is_not_overruled_by_the_config():
    """Heads change no shape: 24 channels in 3 heads, as CLIP's JSON says, or in 4."""
    encoders = dict(config().model.encoders)
    encoders["vision"] = dataclasses.replace(encoders["vision"], heads=4)
    with pytest.raises(UserError, match="its vision has heads 3, not 4"):
        warm_start({}, dataclasses.replace(config().model, encoders=encoders), CLIP)


def test_a_missing_or_wrong_start_is_told_before_anything_slow(tmp_path):
    with pytest.raises(UserError, match=r"nosuch\.pth.* cannot be read"):
        fit.preflight_check(dataclasses.replace(config(), initial=("nosuch.pth",)), tmp_path)
    with pytest.raises(UserError, match="embed_dim 12, not 13"):
        fit.preflight_check(config(model={"embed_dim": 13}), tmp_path)


def test_a_runs_licence_names_what_it_started_from(run):
    from imagebind_jax.porting.load import open_weights

    with open_weights(run[0]) as weights:
        assert weights.origin["licence"].endswith("what it started from: open_clip.pt")


def test_a_step_under_any_name_is_a_checkpoint(run, tmp_path):
    shutil.copytree(run[0] / "checkpoints" / "2", tmp_path / "best")
    same(ib.load(tmp_path / "best")[1], run[1])
