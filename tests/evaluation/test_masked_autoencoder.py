"""The masked autoencoder: what is hidden, what the loss sees, runs that go on, features."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagebind_jax import UserError
from imagebind_jax.checkpointing import checkpointer
from imagebind_jax.distributed import sharding
from imagebind_jax.evaluation.benchmark import EvalInputs
from imagebind_jax.evaluation.tasks import linear_probe
from imagebind_jax.evaluation.tasks.few_shot import FewShot
from imagebind_jax.evaluation.trained import mae_pretraining
from imagebind_jax.evaluation.trained.mae_pretraining import AUDIO, MaePretraining, pretrain_mae
from imagebind_jax.evaluation.trained.masked_autoencoder import (
    MaskedAutoencoderBaseline,
    mean_pooled_features,
)
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.pipeline.bad_records import BadRecordLog
from imagebind_jax.inputs.pipeline.batches import unpaired_batches
from imagebind_jax.inputs.pipeline.examples import Examples, ToModelInputs
from imagebind_jax.inputs.sources.fingerprint import source_fingerprint
from imagebind_jax.models import masked_autoencoder
from imagebind_jax.models.encoder import Encoder, EncoderConfig, extract_patches
from imagebind_jax.models.masked_autoencoder import MaskedAutoencoder, MaskedConfig, UnpooledEncoder

ENCODER = EncoderConfig((40, 2), patch=(4,), width=16, depth=1, heads=2)  # 10 patches
CONFIG = MaskedConfig(ENCODER, mask=0.5, decoder_width=16, decoder_depth=1, decoder_heads=2)


@dataclasses.dataclass(frozen=True)
class Waves:
    """Records {"id", "label", "phase"}: waves of as many frequencies as there are labels."""

    count: int
    first: int = 0
    classes: int = 2
    name: str = "waves"

    def open(self):
        rng = np.random.default_rng(self.first)
        return [
            {"id": str(i), "label": i % self.classes, "phase": float(rng.uniform(0, 6))}
            for i in range(self.count)
        ]


@dataclasses.dataclass(frozen=True)
class Wave:
    """A wave [40, 2]; of a class of its own are frequency and nothing else."""

    bad: tuple[str, ...] = ()
    broken: float = 1.0  # what it is multiplied with: too large a number ends pretraining

    def __call__(self, record, rng):
        if record["id"] in self.bad:
            raise MediaError(record["id"], "broken")
        phase = record["phase"] if rng is None else rng.uniform(0, 6)
        angle = phase + np.arange(40)[:, None] * (0.4 + 0.5 * record["label"]) + np.float32([0, 1])
        return (self.broken * np.sin(angle)).astype(np.float32)


def items(count=40, first=0, **options):
    return EvalInputs(Waves(count, first, name=f"waves{first}"), "imu", Wave(**options))


def pretraining(**options):
    settings = {"steps": 6, "batch_size": 16, "checkpoint_every": 3, "log_every": 1}
    return MaePretraining(options.pop("items", items()), model=CONFIG, **{**settings, **options})


@functools.cache
def model():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 40, 2)), jnp.float32)
    order = masked_autoencoder.random_order(jax.random.key(0), 3, 10)
    return jax.jit(MaskedAutoencoder(CONFIG).init)(jax.random.key(1), x, order)["params"], x, order


def error(prediction, x, order):
    return np.asarray(
        masked_autoencoder.reconstruction_loss(CONFIG, jnp.asarray(prediction), x, order)
    )


# ---- what is hidden


def test_orders_are_seeded_and_differ_from_sample_to_sample():
    draw = functools.partial(masked_autoencoder.random_order, samples=4, patches=10)
    once, again, other = (np.asarray(draw(jax.random.key(seed))) for seed in (0, 0, 1))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any() and (once[0] != once[1]).any()
    np.testing.assert_array_equal(np.sort(once, axis=1), np.tile(np.arange(10), (4, 1)))


@pytest.mark.parametrize(("share", "visible"), [(0.8, 2), (0.75, 2), (0.5, 5), (0.1, 9)])
def test_as_many_patches_are_hidden_as_was_asked_for(share, visible):
    assert dataclasses.replace(CONFIG, mask=share).visible == visible


def test_two_seconds_of_sound_are_96_patches_of_which_19_are_seen():
    config = MaskedConfig(AUDIO)
    assert (config.patches, config.visible) == (96, 19)
    state = jax.eval_shape(
        functools.partial(mae_pretraining.create_mae_state, config, pretraining().optimizer, 0)
    )
    count = {
        name: sum(leaf.size for leaf in jax.tree.leaves(part))
        for name, part in state["params"].items()
    }
    # ViT-B: 12 blocks of 7,087,872, the stem, cls, 97 places, the norm.
    assert count["encoder"] == 12 * 7_087_872 + 256 * 768 + 768 + 97 * 768 + 2 * 768
    assert count["decoder"] < count["encoder"] / 3


def test_what_is_hidden_reaches_no_prediction():
    params, x, order = model()
    hidden = np.asarray(order)[:, CONFIG.visible :]
    changed = np.array(x)
    for row, columns in enumerate(hidden):
        for column in columns:
            changed[row, 4 * column : 4 * column + 4] = 7.0
    apply = jax.jit(lambda x: MaskedAutoencoder(CONFIG).apply({"params": params}, x, order))
    np.testing.assert_array_equal(apply(x), apply(jnp.asarray(changed)))
    assert (np.asarray(apply(x)) != np.asarray(apply(x.at[:, :, 0].add(1.0)))).any()


def test_the_loss_sees_hidden_patches_only():
    _, x, order = model()
    prediction = np.random.default_rng(1).standard_normal((3, 10, 8)).astype(np.float32)
    seen, hidden = prediction.copy(), prediction.copy()
    for row in range(3):
        seen[row, np.asarray(order)[row, : CONFIG.visible]] += 5.0
        hidden[row, np.asarray(order)[row, -1]] += 5.0
    np.testing.assert_array_equal(error(seen, x, order), error(prediction, x, order))
    assert (error(hidden, x, order) > error(prediction, x, order)).all()


def test_targets_are_patches_less_their_mean_by_their_deviation():
    _, x, order = model()
    cut = np.asarray(extract_patches(ENCODER, x))
    np.testing.assert_array_equal(cut[1, 2], np.asarray(x)[1, 8:12].ravel())
    wanted = (cut - cut.mean(-1, keepdims=True)) / cut.std(-1, keepdims=True)
    np.testing.assert_allclose(error(wanted, x, order), 0, atol=1e-5)
    np.testing.assert_allclose(error(0 * wanted, x, order), 1, atol=1e-4)
    # A patch that is all the same, such as silence, has nothing to be predicted.
    np.testing.assert_array_equal(error(0 * wanted, jnp.ones_like(x), order), 0)


# ---- an encoder like any other


def tokens(x, visible=None):
    return jax.jit(UnpooledEncoder(ENCODER).apply)({"params": model()[0]["encoder"]}, x, visible)


def test_its_encoder_is_an_encoder_once_it_has_a_head():
    params, x, _ = model()
    encoder = Encoder(ENCODER, 6)
    whole = jax.jit(encoder.init)(jax.random.key(2), x)["params"]
    same = jax.tree.map(jnp.shape, {name: whole[name] for name in params["encoder"]})
    assert jax.tree.map(jnp.shape, params["encoder"]) == same
    assert whole.keys() - params["encoder"].keys() == {"head"}

    used = whole | params["encoder"]
    z, _ = jax.jit(encoder.apply)({"params": used}, x)
    every = jnp.tile(jnp.arange(10), (3, 1))
    for visible in (None, every):  # the trunk sees all patches
        cls = tokens(x, visible)[:, 0]
        out = np.asarray(cls @ used["head"]["kernel"])
        out = out / np.linalg.norm(out, axis=-1, keepdims=True)
        np.testing.assert_allclose(out, z, atol=1e-6)


def test_tokens_know_their_places_in_whatever_order_they_come():
    _, x, order = model()
    some = order[:, :4]
    a, b = np.asarray(tokens(x, some)), np.asarray(tokens(x, some[:, ::-1]))
    np.testing.assert_allclose(a[:, 1:], b[:, :0:-1], atol=1e-6)


# ---- pretraining


class Killed(Exception):
    pass


def steps_logged(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.fixture
def two_devices(monkeypatch):
    """Among which a batch is split as among eight, which take longer to compile for."""
    two = functools.partial(sharding.ShardedStrategy, devices=jax.devices()[:2])
    monkeypatch.setattr(sharding, "ShardedStrategy", two)


@pytest.mark.variants
@pytest.mark.usefixtures("two_devices")
def test_a_run_that_was_killed_goes_on_to_the_same_parameters(tmp_path, monkeypatch):
    one = functools.partial(
        sharding.ShardedStrategy, devices=jax.devices()[:1]
    )  # eight are slow to compile
    monkeypatch.setattr(sharding, "ShardedStrategy", one)
    config = pretraining()
    records = config.items.source.open()
    once = pretrain_mae(config, records)
    save = checkpointer.Checkpointer.save

    def killed(self, step, state, said):
        if step == config.steps:
            raise Killed
        save(self, step, state, said)
        assert self.steps()[0] == step  # it is committed

    with monkeypatch.context() as patch:
        patch.setattr(checkpointer.Checkpointer, "save", killed)
        with pytest.raises(Killed):
            pretrain_mae(config, records, tmp_path)
    said = []
    again = pretrain_mae(config, records, tmp_path, said.append)
    jax.tree.map(np.testing.assert_array_equal, once, again)
    assert steps_logged(tmp_path) == list(range(config.steps))

    def untouched(*_):
        raise AssertionError("a finished run reads no record")

    monkeypatch.setattr(Wave, "__call__", untouched)
    finished = pretrain_mae(config, records, tmp_path)
    jax.tree.map(np.testing.assert_array_equal, once, finished)


@pytest.mark.usefixtures("two_devices")
def test_bad_records_are_named_and_too_large_a_loss_ends_it(tmp_path):
    config = pretraining(items=items(bad=("3", "7"), broken=3e38), bad_records=0.5)
    with pytest.raises(UserError, match="step 0: the loss is nan; lower the learning_rate 0.0004"):
        pretrain_mae(config, config.items.source.open(), tmp_path)
    named = (tmp_path / "bad_records.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in named} <= {"3", "7"} and named


def test_batches_are_the_same_whatever_the_hosts_and_the_start():
    rows = Examples(Waves(40).open(), ToModelInputs({"imu": Wave()}), "waves")

    def batches(**options):
        made = unpaired_batches(
            rows, seed=3, batch_size=8, steps=9, bad=BadRecordLog(None), **options
        )
        return np.stack([batch["imu"] for batch in made])

    alone = batches()
    assert alone.shape == (9, 8, 40, 2)
    np.testing.assert_array_equal(batches(start=6, threads=1), alone[6:])
    shared = [batches(host=host, hosts=2) for host in range(2)]
    np.testing.assert_array_equal(np.concatenate(shared, axis=1), alone)
    assert len(np.unique(alone[:5].reshape(40, -1), axis=0)) == 40
    assert (alone[5:] != alone[:4]).any(axis=(1, 2, 3)).all()  # another order, another moment


STEPS = 150


@functools.cache
def step_fn():
    rates = pretraining(steps=STEPS, learning_rate=1e-2).optimizer
    state = jax.jit(functools.partial(mae_pretraining.create_mae_state, CONFIG, rates, 0))()
    step = functools.partial(mae_pretraining.mae_train_step, config=CONFIG, rates=rates, seed=0)
    return state, jax.jit(functools.partial(step, steps=STEPS))


def test_rows_without_weight_count_for_nothing():
    state, step = step_fn()
    x = np.random.default_rng(0).standard_normal((32, 40, 2)).astype(np.float32)
    other = x.copy()
    other[3] = 9.0
    weight = np.ones(32, np.float32)
    whole = step(step(state, {"imu": other, "weight": weight})[0], {"imu": x, "weight": weight})
    weight[3] = 0
    (one, said), (two, _) = (step(state, {"imu": y, "weight": weight}) for y in (x, other))
    jax.tree.map(np.testing.assert_array_equal, one, two)
    assert float(said["loss"]) != float(whole[1]["loss"])


def patterns(count, seed):
    """One of four patterns or its negative in every patch, under noise: (inputs, which)."""
    rng = np.random.default_rng(seed)
    pattern = np.random.default_rng(99).standard_normal((4, 1, 8))
    which = np.arange(count) % 4
    clean = rng.choice([-1, 1], (count, 1, 1)) * pattern[which]
    noisy = clean + 1.4 * rng.standard_normal((count, 10, 8))
    return noisy.reshape(count, 40, 2).astype(np.float32), which


def test_what_it_learned_is_worth_more_than_what_it_began_with():
    state, step = step_fn()
    begun, losses = state["params"]["encoder"], []
    x, _ = patterns(400, 1)
    for i in range(STEPS):
        rows = np.random.default_rng(i).choice(400, 32)
        state, said = step(state, {"imu": x[rows], "weight": np.ones(32, np.float32)})
        losses.append(said["loss"])
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])

    (train, labels), (test, answers) = patterns(32, 2), patterns(200, 3)

    def accuracy(params):
        fitted = linear_probe.fit_probe_ridge(
            mean_pooled_features(CONFIG, params, train), labels, 4
        )
        return np.mean(
            linear_probe.predict_class(mean_pooled_features(CONFIG, params, test), fitted)
            == answers
        )

    assert accuracy(state["params"]["encoder"]) > accuracy(begun) + 0.15


def test_what_cannot_be_learned_is_one_clear_line():
    def refused(match, **options):
        config = pretraining(**options)
        with pytest.raises(UserError, match=match):
            pretrain_mae(config, config.items.source.open())

    refused("batch_size 12 is not divisible by 8", batch_size=12)
    refused("no records", items=items(0))
    with pytest.raises(UserError, match="do not overlap"):
        MaskedConfig(dataclasses.replace(ENCODER, stride=(2,)))
    with pytest.raises(UserError, match="some must be hidden"):
        MaskedConfig(ENCODER, mask=0.01)
    with pytest.raises(UserError, match="not of text"):
        MaskedConfig(EncoderConfig((7,), vocab_size=9, width=16, depth=1, heads=2))
    with pytest.raises(UserError, match="steps must be at least 1"):
        pretraining(steps=0)


def test_another_run_has_another_digest():
    digest = pretraining().digest(40)
    assert digest == pretraining().digest(40) == pretraining(threads=1, patience=9.0).digest(40)
    others = [pretraining().digest(41), pretraining(seed=1).digest(40)]
    others += [pretraining(items=items(bad=("1",))).digest(40)]
    assert len({digest, *others}) == 4
    with pytest.raises(UserError, match="dataclasses"):
        pretraining(
            items=EvalInputs(Waves(4), "imu", lambda record, rng: np.zeros((40, 2)))
        ).digest(4)


# ---- the benchmark


class Planted:
    """A bench of waves."""

    resamples, seed = 20, 0

    def __init__(self, folder=None):
        self.folder, self.told = folder, []

    def facts(self, source):
        return None

    def notes(self, source):
        return [{"id": each["id"], "label": each["label"]} for each in source.open()]

    def records(self, source):
        return source.open()

    def embed(self, items):
        raise AssertionError("its encoder is its own")

    def inputs(self, items):
        found = np.stack([items.transform(each, None) for each in items.source.open()])
        return np.stack([found, found], axis=1), np.arange(len(found)) != 3  # two views

    def texts(self, name, texts):
        raise NotImplementedError

    def classes(self, name, names, prompts):
        raise NotImplementedError

    def tell(self, what):
        self.told.append(what)


@pytest.mark.jax
@pytest.mark.usefixtures("two_devices")
def test_the_benchmark_pretrains_once_and_probes_its_features(tmp_path, monkeypatch):
    few = FewShot((items(40, 1),), (items(60, 2),), shots=(2,), draws=2)
    masked = MaskedAutoencoderBaseline(pretraining(), few)
    assert masked.modalities == frozenset() and len(masked.sources) == 3
    found = masked.measure(Planted(tmp_path))
    assert list(found.numbers) == ["shot2", "shot2_ridge"]
    assert (found.samples, found.unusable, found.chance["shot2"]) == (60, 1, 0.5)
    assert [folder.name for folder in tmp_path.iterdir()] == [
        f"masked-{masked.pretraining.digest(source_fingerprint(masked.pretraining.items.source))}"
    ]
    monkeypatch.setattr(
        "imagebind_jax.evaluation.trained.mae_pretraining._step_fn", None
    )  # is not needed
    again = masked.measure(Planted(tmp_path))
    wrong = Planted(tmp_path / "wrong")
    wrong.inputs = lambda items: (np.zeros((4, 41, 2), np.float32), np.ones(4, bool))
    with pytest.raises(UserError, match="give `encoder` the shape"):  # before it pretrains
        masked.measure(wrong)
    assert not (tmp_path / "wrong").exists()
    assert again.numbers["shot2_ridge"].value == found.numbers["shot2_ridge"].value


def test_features_are_the_mean_over_views_of_patch_tokens():
    params, x, _ = model()
    encoder = params["encoder"]
    wanted = np.asarray(tokens(x)[:, 1:].mean(axis=1))
    one = mean_pooled_features(CONFIG, encoder, np.asarray(x), batch_size=2)
    np.testing.assert_allclose(
        one, wanted / np.linalg.norm(wanted, axis=-1, keepdims=True), atol=1e-6
    )
    two = mean_pooled_features(
        CONFIG, encoder, np.asarray(x)[None], batch_size=2
    )  # three views of one
    wanted = wanted.mean(axis=0)
    np.testing.assert_allclose(two[0], wanted / np.linalg.norm(wanted), atol=1e-6)
    with pytest.raises(UserError, match="give `encoder` the shape"):
        mean_pooled_features(CONFIG, encoder, np.zeros((2, 41, 2), np.float32))
