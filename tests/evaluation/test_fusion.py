"""Fusion of modalities: what only both together tell is learned, and nothing where there is nothing."""

import dataclasses

import flax.linen as nn
import numpy as np
import pytest

from imagebind_jax import UserError
from imagebind_jax.evaluation.benchmark import UNUSABLE_KEY, Embedder, EvalInputs
from imagebind_jax.evaluation.trained import fit_classifier, speaker_splits
from imagebind_jax.evaluation.trained.cnn import CnnBaseline
from imagebind_jax.evaluation.trained.fit_classifier import TrainingSchedule
from imagebind_jax.evaluation.trained.fusion import Fusion, frozen_features
from imagebind_jax.evaluation.trained.fusion_heads import HEADS
from imagebind_jax.models.encoder import EncoderConfig
from imagebind_jax.models.imagebind import ImageBindConfig, init

QUICK = TrainingSchedule(epochs=12, patience=12, batch_size=32, learning_rate=3e-3)
# The dearest to compile has a tier of its own.
SOME_HEADS = [
    pytest.param(head, marks=[pytest.mark.variants] * (head == "transformer")) for head in HEADS
]
BRIEF = dataclasses.replace(QUICK, epochs=1)
FAST = {"head": "concatenation", "learning": QUICK, "seeds": 1, "width": 16, "dropout": 0.0}
CODES = np.eye(4, 8)  # orthogonal: two for what is heard, two for what is seen


@dataclasses.dataclass(frozen=True)
class Exclusive:
    """Records that are heard as a, seen as b, and whose label is a XOR b, or anything."""

    count: int
    name: str
    shuffled: bool = False
    speakers: tuple[int, ...] = ()
    wrong: str = ""

    def open(self):
        rng = np.random.default_rng(len(self.name))
        found = []
        for i in range(self.count):
            heard, seen = i % 2, i // 2 % 2
            record = {"id": i, "heard": heard, "seen": seen, "label": heard ^ seen}
            if self.shuffled:
                record["label"] = int(rng.integers(2))
            if self.speakers:
                record["actor"] = self.speakers[i % len(self.speakers)]
            found.append(record if i != 5 or not self.wrong else {UNUSABLE_KEY: self.wrong})
        return found


class Planted:
    """A bench whose embeddings are a code each and some noise; rows of NaN where `lacks` says."""

    resamples, folder = 50, None

    def __init__(self, seed=0, lacks=lambda modality, row: False):
        self.seed, self.lacks, self.told = seed, lacks, []

    def facts(self, source):
        return None

    def notes(self, source):
        return source.open()

    records = notes

    def embed(self, items):
        rng = np.random.default_rng(len(items.name))
        field, first = {"audio": ("heard", 0), "vision": ("seen", 2)}[items.modality]
        z = np.stack([CODES[first + each.get(field, 0)] for each in items.source.open()])
        z = z + 0.02 * rng.standard_normal(z.shape)
        for row in range(len(z)):
            if self.lacks(items.modality, row):
                z[row] = np.nan
        return z.astype(np.float32)

    def inputs(self, items):
        z = self.embed(items)
        there = np.isfinite(z).all(axis=-1)
        waves = np.cos(np.pi / 4 * np.outer(1 + np.arange(8), np.arange(8)))  # a code's own
        x = waves[z.argmax(axis=-1)][:, None, :, None] + z[:, :, None, None]  # [n, 8, 8, 1]
        return x.astype(np.float32), there

    def texts(self, name, texts):
        raise NotImplementedError

    classes = texts

    def tell(self, what):
        self.told.append(what)


def never(record, rng):
    raise AssertionError("the bench makes the inputs")


def items(count, name, **options):
    return tuple(
        EvalInputs(Exclusive(count, name, **options), m, never) for m in ("audio", "vision")
    )


def fusion(train=256, test=64, same=None, **options):
    same = same or {}
    settings = FAST | options
    return Fusion(items(train, "train", **same), items(test, "test", **same), **settings)


def test_the_planted_bench_is_one():
    assert isinstance(Planted(), Embedder)


@pytest.mark.jax
@pytest.mark.parametrize("head", SOME_HEADS)
def test_what_only_both_tell_is_learned(head):
    found = fusion(head=head, seeds=2).measure(Planted())
    assert next(iter(found.numbers)) == "fusion"
    assert found.numbers["fusion"].value == found.numbers["fusion_balanced"].value == 1.0
    for alone in ("audio", "vision"):
        assert 0.3 < found.numbers[alone].value < 0.7
    better = max(found.numbers[m].value for m in ("audio", "vision"))
    gain = found.numbers["gain"]
    assert gain.value == pytest.approx(1 - better) and gain.low <= gain.value <= gain.high
    assert gain.n == 64 and found.chance["fusion"] == found.chance["audio_balanced"] == 0.5
    assert (found.samples, found.unusable) == (64, 0)
    assert {"fusion_0", "fusion_1", "audio_0", "vision_1"} <= found.numbers.keys()


def test_nothing_is_learned_of_labels_that_say_nothing():
    found = fusion(test=400, same={"shuffled": True}).measure(Planted())
    assert abs(found.numbers["fusion"].value - 0.5) < 0.1  # 4 standard deviations


def test_equal_seeds_give_equal_numbers():
    def values(seed):
        bench, few = Planted(seed), TrainingSchedule(epochs=2, batch_size=32)
        measured = fusion(learning=few, same={"shuffled": True}).measure(bench)
        return {name: dataclasses.astuple(each)[:3] for name, each in measured.numbers.items()}

    assert values(0) == values(0) != values(1)


@pytest.mark.parametrize("head", SOME_HEADS)
def test_records_may_lack_a_modality_but_not_both(head):
    def lacks(modality, row):
        return row % 8 == 1 or (modality == "audio" and row % 8 == 2)

    found = fusion(head=head, missing=0.2, seeds=1).measure(Planted(lacks=lacks))
    assert (found.samples, found.unusable) == (64, 8)
    right = found.numbers["fusion"].samples
    assert np.isnan(right[1::8]).all() and np.isfinite(right[2::8]).all()
    assert np.isnan(found.numbers["audio"].samples[2::8]).all()
    whole = np.delete(np.arange(64), np.r_[1:64:8, 2:64:8])
    assert right[whole].mean() == 1.0
    assert found.numbers["gain"].n == found.numbers["fusion"].n - 8 * (
        "audio" in found.notes[-1]  # paired where both could be asked
    )


def test_a_record_that_cannot_be_read_is_counted():
    found = fusion(same={"wrong": "gone"}).measure(Planted())
    assert (found.samples, found.unusable) == (64, 1)
    assert np.isnan(found.numbers["fusion"].samples[5])


def test_one_modality_alone_has_its_numbers_alone():
    found = fusion()
    alone = dataclasses.replace(found, train=found.train[:1], test=found.test[:1])
    numbers = alone.measure(Planted()).numbers
    assert next(iter(numbers)) == "audio" and not {"fusion", "gain"} & numbers.keys()


class Far(Planted):
    """The same, whose records to be tested on are far from those to learn from."""

    def embed(self, items):
        return super().embed(items) + np.float32(3.0 * (items.source.name == "test"))


def test_embeddings_are_standardised_by_those_to_learn_from_alone():
    learned = np.arange(192)  # of 256: the others are held out
    found = frozen_features(Far(), fusion().splits, learned)
    near = frozen_features(Planted(), fusion().splits, learned)
    for modality, x in found.samples.x.items():
        np.testing.assert_allclose(x[learned].mean(axis=0), 0, atol=1e-5)
        assert x[learned].std() == pytest.approx(1, rel=1e-4)
        np.testing.assert_array_equal(x[:256], near.samples.x[modality][:256])
        assert abs(x[256:].mean(axis=0)).max() > 0.5  # those to be tested on stay far


class Linear(nn.Module):
    """The smallest classifier."""

    @nn.compact
    def __call__(self, x, there, train=False):
        return nn.Dense(2)(x["audio"])


def test_patience_begins_anew_where_the_loss_falls(monkeypatch):
    """Two epochs in a row without a smaller loss end it, and not two of all."""
    losses = iter([3.0, 4.0, 2.0, 4.0, 1.0, 4.0, 4.0])  # more would be asked for in vain
    monkeypatch.setattr(fit_classifier, "_loss", lambda *_: next(losses))
    samples = fit_classifier.MultimodalArrays.of(
        {"audio": (np.eye(4, dtype=np.float32), np.ones(4, bool))}
    )
    rows, learning = np.arange(4), TrainingSchedule(epochs=20, patience=2)
    found = fit_classifier.fit_classifier(
        Linear(), samples, rows % 2, rows, rows, learning, seed=(0,)
    )
    assert (found.epoch, found.loss, list(losses)) == (5, 1.0, [])


# ---- speakers


def parts(train, test, validation=None, seed=0, **options):
    sources = [
        Exclusive(48, name, speakers=who) if who else None
        for name, who in (("train", train), ("validation", validation), ("test", test))
    ]
    return speaker_splits.split_by_speaker(Planted(seed), *sources, group="actor", **options)


def test_nobody_is_in_two_splits():
    with pytest.raises(UserError, match="actor 3 is in two splits: what is learnt"):
        parts((1, 2, 3), (3, 4))
    with pytest.raises(UserError, match="actor 4 is in two splits"):
        parts((1, 2), (3, 4), validation=(5, 6, 4))
    with pytest.raises(UserError, match="has no single 'actor'.*it has heard, id, label, seen"):
        speaker_splits.split_by_speaker(
            Planted(), Exclusive(4, "a"), None, Exclusive(4, "b"), group="actor"
        )


def test_whole_speakers_are_held_out():
    found = parts(tuple(range(8)), (20, 21), share=0.25)
    who = {name: set(found.groups[getattr(found, name)]) for name in ("train", "held_out", "test")}
    assert [len(who[name]) for name in ("train", "held_out", "test")] == [6, 2, 2]
    assert not who["train"] & who["held_out"] and not who["train"] & who["test"]
    again = parts(tuple(range(8)), (20, 21), share=0.25)
    np.testing.assert_array_equal(found.held_out, again.held_out)
    assert speaker_splits.hold_out_groups(None, 2, 0.01, 0).sum() == 1
    assert speaker_splits.hold_out_groups(np.array([4, 4, 9, 9]), 4, 0.99, 0).sum() == 2


def test_anyone_may_be_held_out_as_the_seed_has_it():
    held_out = [
        frozenset(found.groups[found.held_out].tolist())
        for found in (parts(tuple(range(8)), (20, 21), seed=seed, share=0.25) for seed in range(40))
    ]
    assert frozenset.union(*held_out) == set(range(8))  # their codes: those of train come first


def test_speakers_are_drawn_together():
    same = {"speakers": (1, 2, 3, 4)}
    train, test = items(64, "train", **same), items(64, "test", speakers=(5, 6))
    found = Fusion(train, test, group="actor", **FAST | {"learning": BRIEF}).measure(Planted())
    assert found.numbers["fusion"].n == found.numbers["gain"].n == 2


# ---- encoders that learn

ENCODERS = ImageBindConfig(
    {
        m: EncoderConfig((8, 8, 1), patch=(8, 8), width=16, depth=1, heads=2)
        for m in ("audio", "vision")
    },
    embed_dim=8,
)


class Tunable(Planted):
    """The same with encoders that can go on learning, whose embeddings it makes."""

    def weights(self, modalities):
        import jax

        params = init(ENCODERS, jax.random.key(0))
        return ENCODERS, {m: params[m] for m in modalities}


@pytest.mark.variants
def test_encoders_learn_where_they_may():
    found = fusion(fine_tune=True, encoder_rate=1.0, head="concatenation").measure(Tunable())
    assert found.numbers["fusion"].value == 1.0 > found.numbers["audio"].value
    with pytest.raises(UserError, match="fine_tune needs encoders.*--checkpoint"):
        fusion(fine_tune=True).measure(Planted())


@pytest.mark.jax
def test_a_tuned_encoder_moves_and_starts_where_it_was():
    import jax

    from imagebind_jax.evaluation.trained.fine_tuning import FineTuningInputs

    config = fusion(fine_tune=True)
    bench = Tunable()
    tuned = FineTuningInputs.of(bench, config.splits)
    module = tuned.module(HEADS["concatenation"](2, 16))
    standard = {m: {"mean": np.zeros((1, 8), np.float32), "deviation": np.ones((1, 1), np.float32)}
                for m in tuned.params}  # fmt: skip
    labels = np.array([each["label"] for each in config.train[0].source.open()] + [0] * 64)
    rows = np.arange(64)
    learned = {
        factor: fit_classifier.fit_classifier(
            module, tuned.samples, labels, rows, rows, TrainingSchedule(epochs=1), seed=(0,),
            start=tuned.params, fixed={"standard": standard}, factors={"audio": factor},
        ).variables["params"]
        for factor in (1e-12, 1.0)
    }  # fmt: skip

    def moved(found, modality):
        a, b = (jax.tree.leaves(each[modality]) for each in (found, tuned.params))
        return max(float(np.abs(x - y).max()) for x, y in zip(a, b, strict=True))

    assert moved(learned[1e-12], "audio") < 1e-8 < 1e-5 < moved(learned[1.0], "audio")
    assert moved(learned[1e-12], "vision") > 1e-5


# ---- the convolutional baseline


def network(modality, train=256, test=64, **options):
    sources = Exclusive(train, "train"), Exclusive(test, "test")
    one, other = (EvalInputs(source, modality, never) for source in sources)
    settings = {"learning": QUICK, "seeds": 1, "channels": (8,), "dropout": 0.0}
    return CnnBaseline(one, other, **(settings | options))


@dataclasses.dataclass(frozen=True)
class Heard(Exclusive):
    """The same, whose label is what is heard."""

    def open(self):
        return [{**each, "label": each["heard"]} for each in super().open()]


@pytest.mark.jax
def test_a_convolutional_network_learns_what_one_modality_tells():
    sources = Heard(256, "train"), Heard(64, "test")
    config = network("audio")
    told = dataclasses.replace(
        config,
        train=EvalInputs(sources[0], "audio", never),
        test=EvalInputs(sources[1], "audio", never),
    )
    numbers = told.measure(Planted()).numbers
    assert next(iter(numbers)) == "accuracy" and numbers["accuracy"].value == 1.0
    assert config.modalities == frozenset()
    assert 0.25 < config.measure(Planted()).numbers["accuracy_balanced"].value < 0.75


# ---- mistakes


def test_mistakes_are_one_line():
    good = fusion()
    for change, message in (
        ({"head": "sum"}, "head 'sum': choose from concatenation, attention, transformer"),
        ({"test": good.test[:1]}, "test has items of audio, and train of audio, vision"),
        ({"test": ()}, "test has items of nothing"),
        ({"validation": good.train}, "is there twice"),
        ({"held_out": 1.0}, "held_out 1.0 is not within 0 and 1"),
        ({"missing": 1.0}, "missing 1.0: within 0 and 1"),
        ({"seeds": 0}, "seeds 0"),
        ({"train": (good.train[0], good.test[1])}, "must be of the same records"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(good, **change)
    with pytest.raises(UserError, match="epochs must be at least 1, got 0"):
        TrainingSchedule(epochs=0)
    with pytest.raises(UserError, match="learning_rate must be > 0"):
        TrainingSchedule(learning_rate=0.0)
    with pytest.raises(UserError, match=r"channels \(12,\): one layer or more"):
        network("audio", channels=(12,))
    with pytest.raises(UserError, match="no record of train.audio to learn from"):
        good.measure(Planted(lacks=lambda modality, row: modality == "audio"))
    blown = dataclasses.replace(QUICK, learning_rate=1e30)
    with pytest.raises(
        UserError, match="fusion, concatenation: the loss is .*lower the learning_ra"
    ):
        dataclasses.replace(good, learning=blown).measure(Planted())
