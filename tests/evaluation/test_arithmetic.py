"""Composed queries: vectors whose sum finds what has something of both."""

import itertools
import pathlib

import numpy as np
import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.evaluation.benchmark import EvalInputs
from imagebind_jax.evaluation.tasks import arithmetic
from imagebind_jax.evaluation.tasks.arithmetic import Arithmetic


def test_compose_by_hand():
    right, up = np.array([[2.0, 0]]), np.array([[0, 5.0]])
    np.testing.assert_allclose(arithmetic.compose(right, up), [[0.5**0.5, 0.5**0.5]])
    np.testing.assert_allclose(arithmetic.compose(right, up, weights=(3.0, 4.0)), [[0.6, 0.8]])
    np.testing.assert_allclose(
        arithmetic.compose(right, up, weights=(1.0, -1.0)), [[0.5**0.5, -(0.5**0.5)]]
    )
    with pytest.raises(ValueError):
        arithmetic.compose(right, up, weights=(1.0,))


# ---- what a query finds

KEYS = np.array([[1.0, 0], [0.8, 0.6], [0, 1], [-1, 0]])  # seen from (1, 0): in this order
QUERY = np.array([[1.0, 0]])


@pytest.mark.parametrize(
    ("excluded", "first"), [([], 1), ([0], 0), ([0, 0], 0), ([1], 3), ([0, 1], 2), ([3], 1)]
)
def test_the_first_k_that_are_not_excluded_are_looked_at(excluded, first):
    labels = np.array([[5, 0], [0, 7], [5, 7], [5, 7]])
    left = [i for i in range(4) if i not in excluded]
    for wanted, k in itertools.product(([5, 7], [0, 7], [5, 0], [7, 5]), (1, 2, 3, 9)):
        hit = any(labels[i].tolist() == wanted for i in left[:k])
        found = arithmetic.composed_hit(
            QUERY, KEYS, np.array([wanted]), labels, np.array([excluded], int), k
        )
        assert found.tolist() == [hit]


def test_what_is_not_a_number_is_neither_found_nor_finds():
    labels = np.array([[0], [0], [1], [1]])
    keys = np.where(np.arange(4)[:, None] < 2, np.nan, KEYS)
    queries = np.array([[1.0, 0], [1, 0], [np.nan, 0]])
    wanted = np.array([[0], [1], [1]])
    assert arithmetic.composed_hit(queries, keys, wanted, labels, k=4).tolist() == [
        False,
        True,
        False,
    ]


def test_chance_is_the_mean_over_all_orders_of_the_keys():
    labels = np.array([[5, 0], [5, 7], [0, 7], [5, 7], [1, 1]])
    wanted = np.array([[5, 7], [0, 7], [7, 5], [1, 1]])
    excluded = np.array([[1, 1], [0, 4], [2, 3], [4, 0]])  # the last one's only answer
    for k in (1, 2, 4, 9):
        hits = []
        for want, out in zip(wanted, excluded):
            left = [i for i in range(5) if i not in out]
            for order in itertools.permutations(left):
                weight = 1 / len(list(itertools.permutations(left)))
                hits.append(weight * any((labels[i] == want).all() for i in order[:k]))
        assert arithmetic.chance_hit_rate(wanted, labels, excluded, k) == pytest.approx(
            sum(hits) / 4
        )
    assert arithmetic.chance_hit_rate(wanted, labels) == pytest.approx((2 + 1 + 0 + 1) / 5 / 4)
    assert arithmetic.count_answers(wanted, labels).tolist() == [2, 1, 0, 1]


def test_random_vectors_are_found_at_chance():
    rng = np.random.default_rng(0)
    labels, wanted = rng.integers(3, size=(300, 2)), rng.integers(3, size=(2000, 2))
    excluded = rng.integers(300, size=(2000, 1))
    query, keys = rng.standard_normal((2000, 32)), rng.standard_normal((300, 32))
    for k in (1, 5):
        chance = arithmetic.chance_hit_rate(wanted, labels, excluded, k)
        hits = arithmetic.composed_hit(query, keys, wanted, labels, excluded, k)
        assert abs(hits.mean() - chance) < 5 * (chance * (1 - chance) / 2000) ** 0.5


# ---- the benchmark


class Made:
    name = "world"

    def __call__(self, record, rng):
        raise AssertionError("a bench gives what is needed")

    def open(self):
        raise AssertionError("a bench gives what is needed")


class Planted:
    """A bench of records with shapes and materials, each of which is a direction."""

    resamples, seed, folder = 20, 0, pathlib.Path()

    def __init__(self, notes, **embeddings):
        self.held, self.embeddings = notes, embeddings

    def notes(self, source):
        return self.held

    def embed(self, items):
        return self.embeddings[items.modality].astype(np.float32)

    def unasked(self, *_):
        raise AssertionError("arithmetic needs no more than this")

    facts = records = inputs = classes = texts = tell = unasked


SHAPES, MATERIALS = ("ball", "cube", "cone"), ("wood", "glass", "steel", "stone")
CONCEPTS = [*itertools.product(range(3), range(4))] * 2


def notes():
    return [
        {"id": i, "labels": {"shape": SHAPES[shape], "material": m}}
        for i, (shape, m) in enumerate(CONCEPTS)
    ]


def planted():
    shape, material = np.eye(7)[[s for s, _ in CONCEPTS]], np.eye(7)[[3 + m for _, m in CONCEPTS]]
    return Planted(notes(), vision=shape + material, audio=material)


def measured(bench, first="vision", second="audio", keys="vision", wanted=("shape", "material")):
    items = (EvalInputs(SOURCE, modality, SOURCE) for modality in (first, second, keys))
    return Arithmetic(*items, wanted=wanted).measure(bench)


SOURCE = Made()


def test_a_shape_and_a_material_are_found_together_and_not_alone():
    found = measured(planted())
    assert list(found.numbers) == ["top1", "top5", "first_alone", "second_alone"]

    assert found.numbers["top1"].value == found.numbers["top5"].value == 1
    assert found.numbers["first_alone"].value == 0  # the other record of the same concept is first
    assert found.numbers["second_alone"].value < 1
    assert 0 < found.samples <= 24 and found.unusable == 0
    assert found.chance["top1"] == pytest.approx(2 / 23)  # without the record itself
    assert found.chance["top5"] == pytest.approx(
        1 - (21 * 20 * 19 * 18 * 17) / (23 * 22 * 21 * 20 * 19)
    )


def test_keys_of_another_modality_are_all_there():
    bench = planted()
    bench.embeddings["depth"] = bench.embeddings["vision"]
    assert measured(bench, keys="depth").chance["top1"] == pytest.approx(2 / 24)
    assert measured(bench, second="vision").chance["top1"] == pytest.approx(2 / 22)


def test_the_wanted_labels_go_with_their_records():
    """The other way round, sound first, the same concept is asked for."""
    found = measured(planted(), "audio", "vision", wanted=("material", "shape"))
    assert found.numbers["top1"].value == 1
    wrong = measured(planted(), "audio", "vision")  # a sound has no shape
    assert wrong.numbers["top1"].value < 0.5


def test_records_without_an_embedding_are_left_out_and_counted():
    bench = planted()
    everything = measured(bench)
    bench.embeddings["audio"] = np.where(np.arange(24)[:, None] < 12, np.nan, np.eye(24, 7))
    found = measured(bench)
    assert found.samples == everything.samples
    assert found.unusable > 0
    assert found.numbers["top1"].n == found.samples - found.unusable


def test_records_without_the_labels_are_named():
    bench = planted()
    bench.held[3] = {"id": "three", "labels": {"shape": "cube"}}
    with pytest.raises(UserError, match="record 'three' of world has no single label 'material'"):
        measured(bench)
    bench.held = [{**note, "labels": {"shape": 0, "material": 1}} for note in notes()]
    with pytest.raises(UserError, match="differs in both"):
        measured(bench)


def test_a_label_of_the_record_itself_will_do():
    bench = planted()
    bench.held = [{**note["labels"], "id": note["id"]} for note in bench.held]
    assert measured(bench).numbers["top1"].value == 1


def test_arithmetic_says_what_it_needs():
    items = [EvalInputs(SOURCE, modality, SOURCE) for modality in ("vision", "audio", "vision")]
    found = Arithmetic(*items, wanted=("shape", "material"))
    assert found.sources == (SOURCE,)
    assert found.modalities == {"vision", "audio"}
