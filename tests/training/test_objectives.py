"""Objectives in a run: by name at the door, with a learned bias and a deeper head; runs begun without them go on."""

import dataclasses

import jax
import msgspec
import numpy as np
import pytest

import imagebind_jax as ib
from imagebind_jax.config import TrainConfig, run_fingerprint
from imagebind_jax.errors import UserError
from imagebind_jax.inputs.pipeline.batches import ModalityPair
from imagebind_jax.losses import contrastive
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import HUGE, ImageBindConfig
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.porting import convert, warm_start
from imagebind_jax.porting.files import provenance
from imagebind_jax.porting.formats import hugging_face, imagebind, open_clip, rules
from imagebind_jax.storage.fingerprint import flatten_config, json_sha256
from imagebind_jax.training import fit, frozen_towers, run_identity

pytestmark = [pytest.mark.jax, pytest.mark.usefixtures("two_devices")]

OLD = EncoderConfig((8, 4), patch=(2,), width=16, depth=1, heads=2)
NEW = dataclasses.replace(OLD, logit_scale=5.0, logit_bias=-2.7, mlp_head=True)
YOUNGER = {"objective", *(f"model.encoders.{m}.{name}" for m in ("vision", "imu")
                          for name in ("logit_bias", "mlp_head"))}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Noise:
    """Records of random numbers."""

    def open(self):
        rng = np.random.default_rng(0)
        return [{m: rng.standard_normal((8, 4), np.float32) for m in ("vision", "imu")}] * 16


@dataclasses.dataclass(frozen=True)
class Field:
    name: str

    def __call__(self, record, rng):
        return record[self.name]


def config(vision=OLD, imu=OLD, **changes):
    whole = TrainConfig(
        model=ImageBindConfig({"vision": vision, "imu": imu}, embed_dim=8),
        inputs={name: Field(name) for name in ("vision", "imu")},
        pairs=(ModalityPair(("vision", "imu"), Noise()),),
        steps=2,
        batch_size=16,
        optimizer=OptimizerConfig(1e-2, warmup_steps=1, frozen=("vision/",)),
        log_every=1,
    )
    return dataclasses.replace(whole, **changes)


def quiet(_):
    pass


def test_an_objective_is_checked_at_the_door():
    with pytest.raises(UserError, match="objective 'siglip': not one of info_nce, sigmoid, regre"):
        config(objective="siglip")
    with pytest.raises(UserError, match="loss 'ring' is a form of info_nce: the sigmoid objective"):
        config(objective="sigmoid", loss="ring")
    for loss in ("auto", "gathered"):
        config(objective="sigmoid", loss=loss)
    for objective in set(contrastive.OBJECTIVES) - {"sigmoid"}:
        config(objective=objective, loss="ring")
    with pytest.raises(UserError, match="logit_bias must be a number, or None, got nan"):
        dataclasses.replace(OLD, logit_bias=float("nan"))


# ---- what was made before


def test_a_run_begun_without_the_new_fields_is_the_same_run(tmp_path):
    now = run_fingerprint(config())["config"]
    assert not YOUNGER & now.keys()
    told = run_fingerprint(config(NEW, NEW, objective="joint"))["config"]
    assert told.keys() - now.keys() == YOUNGER
    for other in (config(objective="joint"), config(imu=NEW)):
        with pytest.raises(UserError, match="holds a run with (objective|.*imu.*) = None, not"):
            run_identity.check_config(tmp_path, now, run_fingerprint(other)["config"])


def test_digests_of_encoders_are_what_they_were():
    """Never to be updated: anchors, stores and results on disk hold such digests."""
    assert json_sha256(flatten_config({"imu": OLD})) == (
        "d6a74822df2ad23d9e07549dc845559981a51adbf9b4608eea4ca8c9f109f5b7"
    )
    assert json_sha256(flatten_config(dict(HUGE.encoders))) == (
        "bc9a75b51b659827f2a24c2b8bc57c65d7908e4482e7ec2829c8098d34fa264d"
    )
    assert json_sha256(
        frozen_towers.tower_fingerprint_fields(ImageBindConfig({"imu": OLD}), "imu")
    ) == ("ed46eb9779c2b9615e67b19cd0620bbeb67be174137a6f52975d06eb1598c7d7")


def test_a_note_without_the_new_fields_is_read():
    before = provenance.WeightsMetadata(config().model, {}, {})
    said = msgspec.to_builtins(before)
    for encoder in said["config"]["encoders"].values():
        del encoder["logit_bias"], encoder["mlp_head"]
    assert msgspec.convert(said, provenance.WeightsMetadata) == before


def test_anchors_hold_a_deeper_head_but_no_bias():
    deeper = dataclasses.replace(OLD, mlp_head=True)
    told = frozen_towers.tower_fingerprint_fields(ImageBindConfig({"imu": deeper}), "imu")
    assert told["encoder"]["imu.mlp_head"] is True
    with pytest.raises(UserError, match="imu encoder has a learned logit bias, which anchors do"):
        frozen_towers.tower_fingerprint_fields(ImageBindConfig({"imu": NEW}), "imu")


def test_a_bias_begins_anew_where_the_checkpoint_has_none():
    biased = dataclasses.replace(OLD, logit_bias=-3.0)
    assert warm_start.check_compatible(config(imu=biased).model, config().model, "old") == [
        "vision",
        "imu",
    ]
    with pytest.raises(UserError, match="its imu has mlp_head False, not True"):
        warm_start.check_compatible(config(imu=NEW).model, config().model, "old")


# ---- a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run by the sigmoid objective: its folder and its parameters."""
    folder = tmp_path_factory.mktemp("run")
    return folder, fit.fit(config(imu=NEW, objective="sigmoid"), folder, say=quiet)


def test_the_bias_learns_and_the_run_can_be_loaded(run):
    folder, params = run
    assert 1e-3 < abs(float(params["imu"]["logit_bias"]) + 2.7) < 0.1
    model, found = ib.load(folder)
    assert model.config == config(imu=NEW).model
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_it_goes_on_as_the_same_run_only(run):
    fit.fit(config(imu=NEW, objective="sigmoid"), run[0], say=quiet)
    with pytest.raises(UserError, match="holds a run with objective = sigmoid, not None"):
        fit.fit(config(imu=NEW), run[0], say=quiet)


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_formats_of_others_have_no_place_for_it(run, tmp_path, name):
    with pytest.raises(UserError) as refused:
        convert.convert(run[0], tmp_path / name, say=quiet)
    told = "this format has no place for imu/head_hidden/bias, imu/head_hidden/kernel, imu/logit_"
    assert told in str(refused.value)
    assert not (tmp_path / name).exists()
    convert.convert(run[0], tmp_path / "w", say=quiet)  # ours has
    jax.tree.map(np.testing.assert_array_equal, ib.load(tmp_path / "w")[1], run[1])


@pytest.mark.parametrize("form", [imagebind, open_clip, hugging_face])
def test_no_table_has_a_place_for_it(form):
    hidden = dataclasses.replace(HUGE.encoders["vision"], mlp_head=True)
    with pytest.raises(UserError, match="no place for vision/head_hidden/bias, vision/head_hidden"):
        rules.map_params(ImageBindConfig({"vision": hidden}), {"vision": form.rules("vision")})
