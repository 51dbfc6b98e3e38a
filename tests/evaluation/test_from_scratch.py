"""The supervised baseline: what it learns of a few samples, and that it learns of nothing else."""

import dataclasses

import numpy as np
import pytest

from imagebind_jax import UserError
from imagebind_jax.evaluation.benchmark import EvalInputs
from imagebind_jax.evaluation.trained import from_scratch
from imagebind_jax.evaluation.trained.from_scratch import FromScratch
from imagebind_jax.models.encoder import EncoderConfig

pytestmark = pytest.mark.jax

ENCODER = EncoderConfig((8, 2), patch=(4,), width=16, depth=1, heads=2, drop_path=0.1)


@dataclasses.dataclass(frozen=True)
class Labels:
    """Records with one of three labels each, or with labels that say nothing."""

    count: int
    name: str
    shuffled: bool = False

    def open(self):
        rng = np.random.default_rng(0)
        labels = np.arange(self.count) % 3
        shown = rng.permutation(labels) if self.shuffled else labels
        return [
            {"id": i, "label": 10 * int(a), "shown": int(b)}
            for i, (a, b) in enumerate(zip(labels, shown))
        ]


def never(record, rng):
    raise AssertionError("the bench makes the inputs")


class Planted:
    """A bench of inputs in two views whose sign pattern is the label's; every fifth cannot be used."""

    resamples, seed, folder = 10, 0, None

    def __init__(self, views=2, scale=1.0):
        self.views, self.scale, self.told = views, scale, []

    def facts(self, source):
        return None

    def notes(self, source):
        return source.open()

    def records(self, source):
        return source.open()

    def embed(self, items):
        raise AssertionError("its encoder is its own")

    def inputs(self, items):
        records, rng = items.source.open(), np.random.default_rng(5)
        pattern = np.sign(np.random.default_rng(9).standard_normal((3, 8, 2)))
        x = pattern[[each["shown"] for each in records]][:, None]
        x = x + 0.2 * rng.standard_normal((len(records), self.views, 8, 2))
        usable = np.arange(len(records)) % 5 != 4
        x[~usable] = np.nan
        return (self.scale * x).astype(np.float32), usable

    def texts(self, name, texts):
        raise NotImplementedError

    def classes(self, name, names, prompts):
        raise NotImplementedError

    def tell(self, what):
        self.told.append(what)


def folds(*counts, **options):
    return tuple(
        EvalInputs(Labels(count, f"fold{i}", **options), "imu", never)
        for i, count in enumerate(counts)
    )


def baseline(*counts, shots=(1, 4), shuffled=False, **options):
    settings = {"draws": 1, "epochs": 20, "batch_size": 16, "learning_rate": 3e-3}
    return FromScratch(
        folds(*counts, shuffled=shuffled), ENCODER, shots=shots, **(settings | options)
    )


def test_it_learns_what_can_be_learned_and_in_one_compiled_step():
    before = from_scratch._step._cache_size()
    bench = Planted()
    found = baseline(30, 30).measure(bench)
    assert [found.numbers[name].value for name in ("shot1", "shot4")] == [1.0, 1.0]
    assert (found.samples, found.unusable) == (60, 12)
    assert from_scratch._step._cache_size() - before == 1
    assert any("loss" in line for line in bench.told)


def test_it_learns_nothing_of_labels_that_say_nothing():
    found = baseline(90, 90, shots=(4,), shuffled=True).measure(Planted())
    number = found.numbers["shot4"].value
    assert abs(number - 1 / 3) < 0.15  # 144 samples: 3.8 standard deviations


def test_an_episode_is_a_function_of_the_seed_alone():
    x, pool = from_scratch.few_shot.load_pool(
        Planted(), folds(30), folds(30, 9)[1:], Planted().inputs
    )
    first, *_ = from_scratch.few_shot.sample_episodes(pool, 1, 1, 0)
    config = baseline(30, 30)
    once, again, other = (config._fit(x, first, seed) for seed in (0, 0, 1))
    same = [(a == b).all() for a, b in zip(*map(from_scratch.jax.tree.leaves, (once[0], again[0])))]
    assert all(same) and once[1] == again[1] != other[1]


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match=r"inputs of shape \(2, 8, 2\) for an encoder of \(9, 2\)"):
        dataclasses.replace(
            baseline(30, 30), encoder=dataclasses.replace(ENCODER, shape=(9, 2))
        ).measure(Planted())
    with pytest.raises(UserError, match="the loss is nan; lower the learning_rate"):
        baseline(30, 30).measure(Planted(scale=1e38))
    with pytest.raises(UserError, match="epochs 0"):
        baseline(30, 30, epochs=0)
    with pytest.raises(UserError, match="learning_rate must be > 0"):
        baseline(30, 30, learning_rate=0.0)
    with pytest.raises(UserError, match="not of text"):
        FromScratch(folds(3, 3), EncoderConfig((7,), vocab_size=9, width=16, depth=1, heads=2))


def test_one_view_may_come_without_an_axis_for_it():
    x = np.zeros((3, 8, 2), np.float32)
    assert from_scratch.as_views(ENCODER, x).shape == (3, 1, 8, 2)
    assert from_scratch.as_views(ENCODER, x[:, None]).shape == (3, 1, 8, 2)
