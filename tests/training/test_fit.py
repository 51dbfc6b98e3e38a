"""Training on a toy task: it learns, and stopping, crashing, or other devices change nothing."""

import dataclasses
import functools
import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from imagebind_jax.checkpointing import checkpointer, step_dir
from imagebind_jax.config import TrainConfig, run_fingerprint
from imagebind_jax.distributed import sharding
from imagebind_jax.errors import Preemption, UserError
from imagebind_jax.inputs.pipeline import batches
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBind, ImageBindConfig, embed
from imagebind_jax.optimizer import OptimizerConfig
from imagebind_jax.runtime import fault_injection, metrics_log
from imagebind_jax.storage import checksummed, lock
from imagebind_jax.training import fit
from imagebind_jax.training import step as training_step

STEPS, HALF = 60, 30
BATCH = 16
pytestmark = [pytest.mark.jax, pytest.mark.usefixtures("two_devices", "compiled_once")]
PAUSE = "IMAGEBIND_JAX_TEST_PAUSE"  # seconds that reading a record takes


@dataclasses.dataclass(frozen=True)
class Toy:
    """Records in which all modalities are linear views of one latent vector."""

    first: int
    count: int = 32

    def open(self):
        views = np.random.default_rng(0).standard_normal((3, 8, 32))
        records = []
        for i in range(self.first, self.first + self.count):
            latent = np.random.default_rng([1, i]).standard_normal(8)
            seen = (np.float32(latent @ view).reshape(8, 4) for view in views)
            records.append(dict(zip(("vision", "audio", "imu"), seen)))
        return records


@dataclasses.dataclass(frozen=True)
class Field:
    """One modality of a record, with a little noise in training."""

    name: str
    noise: float = 0.1
    times: float = 1.0

    def __call__(self, record, rng):
        time.sleep(float(os.environ.get(PAUSE, 0)))
        x = record[self.name]
        if rng:
            x = x + self.noise * rng.standard_normal(x.shape, dtype=np.float32)
        return x * np.float32(self.times)


def make_config(**changes):
    encoder = functools.partial(EncoderConfig, (8, 4), width=32, depth=1, heads=4, patch=(2,))
    encoders = {
        "vision": encoder(),
        "audio": encoder(logit_scale=10.0),
        "imu": encoder(logit_scale=10.0, learn_scale=True),
    }
    config = TrainConfig(
        model=ImageBindConfig(encoders, embed_dim=16),
        inputs={name: Field(name) for name in encoders},
        pairs=(
            batches.ModalityPair(("vision", "audio"), Toy(0)),
            batches.ModalityPair(("vision", "imu"), Toy(32)),
        ),
        steps=STEPS,
        batch_size=BATCH,
        optimizer=OptimizerConfig(
            # A larger epsilon than Adam's: rounding is not blown up to a step.
            learning_rate=1e-2,
            warmup_steps=5,
            weight_decay=0.01,
            epsilon=1e-4,
            frozen=("vision/position",),
        ),
        checkpoint_every=HALF,
        log_every=1,
    )
    return dataclasses.replace(config, **changes)


def quiet(line):
    pass


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """(run folder, its parameters) of one uninterrupted run."""
    folder = tmp_path_factory.mktemp("full")
    return folder, fit.fit(make_config(), folder, say=quiet)


@pytest.fixture(scope="module")
def start():
    """The parameters before the first step."""
    return (
        sharding.ShardedStrategy()
        .create(functools.partial(training_step.create_state, make_config()))
        .params
    )


@pytest.fixture
def half(full, tmp_path):
    """The run folder as it was when the second half of its steps was lost."""
    shutil.copytree(full[0], tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / str(STEPS))
    return tmp_path / "half"


def assert_same_bits(a, b):
    assert checkpointer.tree_checksums(a) == checkpointer.tree_checksums(b)


def distance(a, b):
    """Euclidean, over all parameters."""
    return (
        sum(
            float(np.sum((np.asarray(x) - np.asarray(y)) ** 2))
            for x, y in zip(*map(jax.tree.leaves, (a, b)))
        )
        ** 0.5
    )


def steps_logged(folder):
    return [line["step"] for line in metrics_log.read_metrics(folder / "metrics.jsonl")]


def test_the_loss_falls_well_below_chance(full):
    lines = metrics_log.read_metrics(full[0] / "metrics.jsonl")
    chance = 2 * np.log(BATCH)  # both directions
    assert lines[0]["loss"] > 0.7 * chance
    for pair in ("vision+audio", "vision+imu"):
        last = [line for line in lines if line["pair"] == pair][-5:]
        assert np.mean([line["loss"] for line in last]) < 0.4 * chance
        assert np.mean([line["accuracy"] for line in last]) > 0.6


def test_audio_meets_imu_through_vision(full, start):
    """Of records that no training has seen: how often the own imu is nearer than another one."""
    config = make_config()
    records = Toy(64, 64).open()
    x = {m: np.stack([config.inputs[m](each, None) for each in records]) for m in ("audio", "imu")}

    def nearer(params):
        z = embed(ImageBind(config.model), params, x)
        cosines = np.asarray(z["audio"] @ z["imu"].T)
        return float(np.mean(np.diag(cosines)[:, None] > cosines))

    assert nearer(start) < 0.6
    assert nearer(full[1]) > 0.75


def test_the_folder_tells_the_run(full):
    folder, params = full
    assert steps_logged(folder) == list(range(STEPS))
    line = metrics_log.read_metrics(folder / "metrics.jsonl")[7]
    assert {
        "step",
        "pair",
        "loss",
        "accuracy",
        "learning_rate",
        "gradient_norm",
        "steps_per_second",
    } <= set(line)
    assert line["learning_rate"] == pytest.approx(1e-2, rel=0.05)
    assert list((folder / "tensorboard").iterdir())
    checkpoints = checkpointer.Checkpointer(folder / "checkpoints")
    assert checkpoints.steps() == [STEPS, HALF]
    like = jax.eval_shape(functools.partial(training_step.create_state, make_config()))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), like)
    state = checkpoints.restore(STEPS, like)
    checkpoints.close()
    assert state.step == STEPS
    assert_same_bits(state.params, params)


def test_frozen_parameters_are_those_of_the_start(full, start):
    np.testing.assert_array_equal(full[1]["vision"]["position"], start["vision"]["position"])
    assert np.abs(full[1]["audio"]["position"] - start["audio"]["position"]).max() > 1e-3


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(full, half):
    said = []
    params = fit.fit(make_config(), half, say=said.append)
    assert f"going on from step {HALF}" in said
    assert_same_bits(params, full[1])
    assert steps_logged(half) == list(range(STEPS))
    lost = {"steps_per_second"}
    for a, b in zip(*(metrics_log.read_metrics(f / "metrics.jsonl") for f in (half, full[0]))):
        assert {k: v for k, v in a.items() if k not in lost} == {
            k: v for k, v in b.items() if k not in lost
        }


@pytest.mark.usefixtures("theirs")
def test_a_preempted_run_goes_on_to_the_same_end_bit_for_bit(full, half, monkeypatch):
    def terminate(step, host):
        if step == HALF + 2:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)  # in which it is heard

    with monkeypatch.context() as patch:  # IBJ_FAULT would have the step compiled anew
        patch.setattr(fault_injection, "inject_process_faults", terminate)
        with pytest.raises(Preemption, match=r"preempted at step [345]\d, saved"):
            fit.fit(make_config(), half, say=quiet)
    assert_same_bits(fit.fit(make_config(), half, say=quiet), full[1])
    assert steps_logged(half) == list(range(STEPS))


def test_a_finished_run_is_not_run_again(full, tmp_path, monkeypatch):
    shutil.copytree(full[0], tmp_path / "run")
    monkeypatch.delattr(batches.PairBatches, "__getitem__")  # no batch is made
    assert_same_bits(fit.fit(make_config(), tmp_path / "run", say=quiet), full[1])


def test_a_damaged_checkpoint_is_stepped_over_and_made_again(full, tmp_path):
    folder, said = tmp_path / "run", []
    shutil.copytree(full[0], folder)
    for path in (folder / "checkpoints" / str(STEPS) / "meta").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(checkpointer.CorruptCheckpointError):
        fit.fit(make_config(), folder, say=quiet, fallback=False)
    params = fit.fit(make_config(), folder, say=said.append)
    assert f"going on from step {HALF}" in said
    assert len([line for line in said if f"checkpoint {STEPS}" in line]) == 1
    assert_same_bits(params, full[1])
    checkpoints = checkpointer.Checkpointer(folder / "checkpoints")
    assert checkpoints.meta(STEPS)["step"] == STEPS
    checkpoints.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"optimizer": OptimizerConfig(learning_rate=1e-4)},
            "optimizer.learning_rate = 0.01, not 0.0001",
        ),
        ({"seed": 3}, "seed = 0, not 3"),
        ({"pairs": (batches.ModalityPair(("vision", "audio"), Toy(0)),)}, "pairs.1"),
        (
            {"inputs": {name: Field(name, noise=0.2) for name in ("vision", "audio", "imu")}},
            "noise = 0.1, not 0.2",
        ),
    ],
)
def test_a_folder_of_another_config_is_refused(change, words, full):
    changed = make_config()
    if "optimizer" in change:
        change = {"optimizer": dataclasses.replace(changed.optimizer, learning_rate=1e-4)}
    before = (full[0] / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError) as raised:
        fit.fit(make_config(**change), full[0], say=quiet)
    assert words in str(raised.value)
    assert str(full[0]) in str(raised.value)
    assert (full[0] / "metrics.jsonl").read_bytes() == before


def test_a_config_with_tuples_in_tuples_may_go_on(full, tmp_path):
    assert run_fingerprint(make_config(fsdp=2, keep=5, threads=3)) == run_fingerprint(
        make_config()
    )  # how it is run is no fact

    @dataclasses.dataclass(frozen=True)
    class Nested:
        sizes: tuple = ((1, 2), (3, 4))

        def __call__(self, record, rng):
            return record

    config = make_config(inputs=dict(make_config().inputs) | {"imu": Nested()})
    assert json.loads(json.dumps(run_fingerprint(config))) == run_fingerprint(config)


@pytest.mark.variants
def test_a_sharded_run_may_go_on_as_pmap_to_the_same_end(full, half, start):
    said = []
    params = fit.fit(make_config(parallel="pmap"), half, say=said.append)
    assert f"going on from step {HALF}" in said
    assert steps_logged(half) == list(range(STEPS))
    assert distance(params, full[1]) < 0.02 * distance(start, full[1])
    a, b = (metrics_log.read_metrics(f / "metrics.jsonl")[HALF:] for f in (half, full[0]))
    assert [x["loss"] for x in a[:5]] == pytest.approx([x["loss"] for x in b[:5]], rel=1e-4)
    assert [x["loss"] for x in a] == pytest.approx([x["loss"] for x in b], abs=0.1)


def test_a_resumed_run_drops_what_the_uninterrupted_one_drops(tmp_path):
    base = make_config()
    audio = dataclasses.replace(base.model.encoders["audio"], drop_path=0.3, head_dropout=0.3)
    model = dataclasses.replace(base.model, encoders=dict(base.model.encoders) | {"audio": audio})
    config = dataclasses.replace(
        base, model=model, pairs=base.pairs[:1], steps=6, checkpoint_every=3
    )
    params = fit.fit(config, tmp_path, say=quiet)
    shutil.rmtree(tmp_path / "checkpoints" / "6")
    assert_same_bits(fit.fit(config, tmp_path, say=quiet), params)


def test_a_run_that_finds_other_records_does_not_go_on(tmp_path):
    config = make_config(pairs=make_config().pairs[1:], steps=2, checkpoint_every=1)
    fit.fit(config, tmp_path, say=quiet)
    assert checksummed.read_checksummed_json(tmp_path / "records.json") == {
        "records": [["vision+imu", 32]]
    }
    (tmp_path / "records.json").write_text('[["vision+imu", 31]]')  # as older versions did
    with pytest.raises(UserError, match="31 records .* now there are 32"):
        fit.fit(config, tmp_path, say=quiet)


def test_damaged_notes_of_a_run_are_told_and_its_checkpoint_counts(tmp_path):
    config = make_config(pairs=make_config().pairs[1:], steps=2, checkpoint_every=1)
    fit.fit(config, tmp_path, say=quiet)
    for name, before, after in [("config", '"seed": 0', '"seed": 8'), ("records", "32", "36")]:
        path = tmp_path / f"{name}.json"
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))
    with pytest.raises(UserError, match="holds a run with seed = 0, not 8"):
        fit.fit(dataclasses.replace(config, seed=8), tmp_path, say=quiet)
    said = []
    shutil.rmtree(tmp_path / "checkpoints" / "2")
    fit.fit(config, tmp_path, say=said.append)
    assert [line.split()[0] for line in said if "is damaged" in line] == [
        str(tmp_path / name) for name in ("config.json", "records.json")
    ]
    assert "going on from step 1" in said
    assert checksummed.read_checksummed_json(tmp_path / "config.json") == run_fingerprint(config)
    records = checksummed.read_checksummed_json(tmp_path / "records.json")
    assert records == {"records": [["vision+imu", 32]]}
    assert step_dir.read_meta(tmp_path / "checkpoints" / "2").items() >= records.items()


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (1e37, r"step 1 \(vision\+imu\): 2 steps in a row were skipped: loss nan"),
        (np.nan, r"vision\+imu: none of 32 records can be used: .*imu is not finite"),
    ],
)
def test_losses_that_are_no_numbers_stop_the_run_and_are_not_saved(times, words, tmp_path):
    inputs = dict(make_config().inputs) | {"imu": Field("imu", times=times)}
    config = make_config(inputs=inputs, pairs=make_config().pairs[1:], stop_after_skipped=2)
    with pytest.raises(UserError, match=words):
        fit.fit(config, tmp_path, say=quiet)
    checkpoints = checkpointer.Checkpointer(tmp_path / "checkpoints")
    assert checkpoints.steps() == []
    checkpoints.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 31}, "batch_size 31 is not divisible by 2 devices"),
        ({"fsdp": 3}, "fsdp 3 does not divide 2 devices"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"parallel": "ddp"}, "'ddp': not one of sharded, pmap"),
        ({"pairs": (batches.ModalityPair(("vision", "smell"), Toy(0)),)}, "a pair needs 'smell'"),
        ({"pairs": ()}, "pair"),
        ({"seed": -1}, "seed must"),
        ({"patience_of_step": np.nan}, "patience_of_step must be above 0, got nan"),
        ({"compare_every": -1}, "compare_every must be at least 0, got -1"),
        ({"bad_records": 1.5}, "bad_records must be within [0, 1], got 1.5"),
    ],
)
def test_mistakes_are_named_before_anything_is_written(change, words, tmp_path):
    with pytest.raises(UserError) as raised:
        fit.fit(make_config(**change), tmp_path / "run", say=quiet)
    assert words in str(raised.value)
    assert not list(tmp_path.rglob("metrics.jsonl"))


def test_a_second_trainer_is_refused_and_told_by_whom(tmp_path):
    tmp_path.joinpath("run").mkdir()
    with lock.file_lock(tmp_path / "run" / ".lock"), pytest.raises(UserError) as raised:
        fit.fit(make_config(), tmp_path / "run", say=quiet)
    held = f"held by process {os.getpid()} on {os.uname().nodename}"
    assert "another process is training in" in str(raised.value) and held in str(raised.value)


def train_slowly(arguments):
    """For `zygote`: a run that can be killed in its middle."""
    os.environ[PAUSE] = "0.01"
    fit.fit(make_config(checkpoint_every=4), arguments[0])


def test_a_run_killed_in_the_middle_goes_on_to_the_same_end(full, tmp_path, zygote):
    child = zygote.start([tmp_path / "run"], call="test_fit:train_slowly", devices=2)
    child.until("committed step 8")
    child.signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL  # and not at its end
    said = []
    params = fit.fit(make_config(checkpoint_every=100), tmp_path / "run", say=said.append)
    begun = next(int(line.split()[-1]) for line in said if line.startswith("going on from step"))
    assert 8 <= begun < STEPS
    assert_same_bits(params, full[1])
    assert steps_logged(tmp_path / "run") == list(range(STEPS))
