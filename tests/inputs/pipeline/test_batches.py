"""The stream of batches is a pure function of (seed, step); every record is seen once an epoch."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.pipeline.batches import (
    ModalityPair,
    PairBatches,
    Standardize,
    iterate_inputs,
)

SHAPED = {0: 2, 1: 2, 2: 2}  # records that are decoded once more, to know the shape of a row
STEPS = 12
BATCH = 8


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Records {"number": first ... first + count - 1}, with ids where there is a form of them."""

    first: int
    count: int
    ids: str = ""

    def open(self):
        numbers = range(self.first, self.first + self.count)
        return [{"number": i} | ({"id": self.ids.format(i)} if self.ids else {}) for i in numbers]


@dataclasses.dataclass(frozen=True)
class Number:
    """The record's number, and a random one where there is randomness."""

    def __call__(self, record, rng):
        return np.float64([record["number"], rng.random() if rng else -1])


class Counting:
    """A transform that counts how often each record is decoded."""

    def __init__(self):
        self.seen, self.lock = {}, threading.Lock()

    def __call__(self, record, rng):
        with self.lock:
            self.seen[record["number"]] = self.seen.get(record["number"], 0) + 1
        return np.float64([record["number"], rng.random() if rng else -1])


INPUTS = {"vision": Number(), "audio": Number(), "imu": Number()}
PAIRS = (
    ModalityPair(("vision", "audio"), Numbers(0, 20), weight=3.0),
    ModalityPair(("vision", "imu"), Numbers(100, 12)),
)


def make(**options):
    options = {"seed": 0, "batch_size": BATCH, "steps": STEPS} | options
    return PairBatches(options.pop("pairs", PAIRS), options.pop("inputs", INPUTS), **options)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].dtype == wanted[name].dtype
        assert found[name].tobytes() == wanted[name].tobytes(), name


@pytest.fixture(scope="module")
def wanted():
    """All batches of one host, made one after the other."""
    batches = make()
    return [batches[step] for step in range(STEPS)]


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_in_order_hold_the_global_batch(hosts, in_memory):
    single = make(in_memory=in_memory)
    shares = [make(host=host, hosts=hosts, in_memory=in_memory) for host in range(hosts)]
    for step in range(STEPS):
        parts = [share[step] for share in shares]
        assert {len(part["weight"]) for part in parts} == {BATCH // hosts}
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert_same(joined, single[step])  # the same order, too
        assert {share.name(step) for share in shares} == {single.name(step)}


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_batches_are_made_in_parts_that_change_nothing(rows, wanted, monkeypatch):
    monkeypatch.setattr("imagebind_jax.inputs.pipeline.batches.ROWS_PER_PART", rows)
    batches = make()
    assert batches.parts == {1: 8, 2: 4, 3: 4}[rows]  # 3 does not divide 8
    for step, streamed in enumerate(batches.stream(threads=3)):
        assert_same(streamed, wanted[step])
        assert_same(batches[step], wanted[step])
    assert step == STEPS - 1


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_change_nothing(threads, wanted):
    found = list(make().stream(threads=threads))
    assert len(found) == STEPS
    for a, b in zip(found, wanted):
        assert_same(a, b)


@pytest.mark.parametrize("start", [1, 5, STEPS - 1])
def test_a_restart_at_any_step_goes_on_with_the_same_batches(start, wanted):
    found = list(make().stream(start))
    assert len(found) == STEPS - start
    for a, b in zip(found, wanted[start:]):
        assert_same(a, b)


def test_a_finished_stream_is_empty():
    assert list(make().stream(STEPS)) == []


def test_more_steps_begin_with_the_same_batches(wanted):
    longer = make(steps=2 * STEPS)
    for step in range(STEPS):
        assert_same(longer[step], wanted[step])


def test_another_seed_is_another_stream():
    a, b = make(seed=0, steps=40), make(seed=1, steps=40)
    assert a.schedule.tolist() != b.schedule.tolist()
    same = make(seed=1, pairs=PAIRS[:1]), make(seed=0, pairs=PAIRS[:1])
    assert all(not np.array_equal(same[0][i]["vision"], same[1][i]["vision"]) for i in range(4))


def test_no_pair_of_one_seed_shuffles_like_a_pair_of_another():
    pairs = tuple(ModalityPair(("vision", other), Numbers(0, 64)) for other in ("audio", "imu"))
    orders = []
    for seed, pair in itertools.product((0, 1, 2), (0, 1)):
        dataset = make(seed=seed, pairs=pairs).datasets[pair]
        orders.append(tuple(np.concatenate([dataset[i]["vision"][:, 0] for i in range(8)])))
    assert len(set(orders)) == len(orders)


def test_the_schedule_follows_the_weights():
    schedule = make(steps=4000).schedule
    assert abs(np.mean(schedule == 0) - 0.75) < 5 * (0.75 * 0.25 / 4000) ** 0.5
    # Drawn, not dealt in turn: a step tells nothing about the next.
    following = np.mean(schedule[1:][schedule[:-1] == 1] == 0)
    assert abs(following - 0.75) < 0.08
    assert set(make(pairs=PAIRS[1:]).schedule) == {0}


def test_a_batch_holds_one_pair_and_rows_that_belong_together(wanted):
    batches = make()
    for step, batch in enumerate(wanted):
        other = "audio" if batches.schedule[step] == 0 else "imu"
        assert batches.name(step) == f"vision+{other}"
        assert set(batch) == {"vision", other, "weight"}
        np.testing.assert_array_equal(batch["vision"][:, 0], batch[other][:, 0])
        assert batch["weight"].tolist() == [1] * BATCH
        assert batch["weight"].dtype == np.float32


def test_each_epoch_of_a_pair_sees_each_record_once():
    batches = make(steps=60)
    for pair, source in enumerate((PAIRS[0].source, PAIRS[1].source)):
        steps = np.flatnonzero(batches.schedule == pair)
        numbers = np.concatenate([batches[int(step)]["vision"][:, 0] for step in steps])
        epochs = [numbers[i : i + source.count] for i in range(0, len(numbers), source.count)]
        assert len(epochs) >= 4
        for epoch in epochs[:-1]:
            assert sorted(epoch) == list(range(source.first, source.first + source.count))
        assert len({tuple(epoch) for epoch in epochs[:-1]}) == len(epochs) - 1  # shuffled anew


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_records_of_a_step_are_named_without_being_decoded(hosts, wanted):
    counting = Counting()
    named = (dataclasses.replace(PAIRS[0], source=Numbers(0, 20, "image-{}.jpg")), PAIRS[1])
    inputs = dict.fromkeys(INPUTS, counting)
    shares = [make(pairs=named, inputs=inputs, host=h, hosts=hosts) for h in range(hosts)]
    for step in (0, 11, 3, 7, 8):
        found = [name for share in shares for name in share.records(step)]
        numbers = wanted[step]["vision"][:, 0].astype(int)
        first = shares[0].schedule[step] == 0
        assert found == [f"image-{n}.jpg" if first else f"record {n - 100}" for n in numbers]
    assert not counting.seen


def test_the_records_of_a_step_are_those_that_are_seen_more_often_too():
    pairs = (ModalityPair(("vision", "imu"), Numbers(0, 20, "{}"), replication=1.25),)
    batches = make(pairs=pairs, batch_size=5, steps=10)
    for step in range(10):
        assert list(map(int, batches.records(step))) == batches[step]["vision"][:, 0].tolist()


def test_random_numbers_differ_by_row_epoch_and_modality():
    batches = make(pairs=PAIRS[1:], steps=12)  # 96 rows of 12 records: 8 epochs
    rows = [batches[step] for step in range(12)]
    drawn = [np.concatenate([batch[name][:, 1] for batch in rows]) for name in ("vision", "imu")]
    assert len(set(np.concatenate(drawn))) == 2 * 96
    assert min(drawn[0]) >= 0
    assert max(drawn[0]) < 1


def test_in_memory_is_the_evaluation_form_and_decodes_each_record_once():
    counting = Counting()
    pair = ModalityPair(("vision", "audio"), Numbers(0, 20))
    inputs = {"vision": counting, "audio": Number()}
    batches = make(pairs=(pair,), inputs=inputs, in_memory=True)
    found = [batches[step] for step in range(STEPS)]  # 96 rows
    assert counting.seen == dict.fromkeys(range(20), 1) | SHAPED
    assert all((batch["vision"][:, 1] == -1).all() for batch in found)
    # The order of the records is the one that augmented training sees.
    for step, batch in enumerate(make(pairs=(pair,))[step] for step in range(STEPS)):
        np.testing.assert_array_equal(found[step]["vision"][:, 0], batch["vision"][:, 0])


def test_not_in_memory_decodes_at_every_sight():
    counting = Counting()
    pair = ModalityPair(("vision", "audio"), Numbers(0, 20))
    batches = make(pairs=(pair,), inputs={"vision": counting, "audio": Number()}, steps=5)
    for step in range(5):
        batches[step]
    assert counting.seen == {n: 2 + (n in SHAPED) for n in range(20)}  # 40 rows


@pytest.mark.parametrize("hosts", [1, 4])
def test_a_host_may_have_a_single_row(hosts):
    wide, narrow = (
        make(batch_size=4),
        [make(batch_size=hosts, hosts=hosts, host=h) for h in range(hosts)],
    )
    rows = np.concatenate([batches[0]["vision"] for batches in narrow])
    np.testing.assert_array_equal(rows, wide[0]["vision"][:hosts])


def test_replication_spreads_what_is_seen_more_often():
    pairs = (ModalityPair(("vision", "imu"), Numbers(0, 20), replication=1.25),)
    batches = make(pairs=pairs, batch_size=5, steps=10)
    for epoch in (0, 5):
        rows = [batches[step]["vision"][:, 0] for step in range(epoch, epoch + 5)]
        seen = np.bincount(np.concatenate(rows).astype(int), minlength=20)
        assert seen.tolist() == [2, 1, 1, 1] * 5


def test_a_batch_may_be_larger_than_a_source():
    batch = make(pairs=(ModalityPair(("vision", "imu"), Numbers(0, 5)),), batch_size=20)[0]
    assert np.bincount(batch["vision"][:, 0].astype(int)).tolist() == [4] * 5


def test_a_pair_may_have_inputs_of_its_own():
    own = ModalityPair(
        ("vision", "imu"), Numbers(0, 8), inputs={"imu": Standardize(Number(), (4.0,), (2.0,))}
    )
    batch = make(pairs=(own,), inputs={"vision": Number(), "imu": Number()})[0]
    np.testing.assert_array_equal((batch["vision"][:, 0] - 4) / 2, batch["imu"][:, 0])


@dataclasses.dataclass(frozen=True)
class Growing:
    """An input as long as the record's number says; of 3 there is none, and of 5 it is not finite."""

    def __call__(self, record, rng):
        assert rng is None
        if record["number"] == 3:
            raise MediaError("three.wav", "broken")
        return np.full(record["number"], np.nan if record["number"] == 5 else 1.0)


@pytest.mark.parametrize("options", [{}, {"start": 4}, {"threads": 3}, {"workers": 1}])
def test_an_evaluation_sees_all_records_once_in_order_whatever_their_shapes(options):
    records = Numbers(0, 10).open()
    found = list(iterate_inputs(records, Growing(), "audio", "tested", **options))
    wanted = range(options.get("start", 0), 10)
    assert [-1 if x is None else len(x) for x, _ in found] == [
        -1 if i in (3, 5) else i for i in wanted
    ]
    said = dict(zip(wanted, (why for _, why in found)))
    assert said[5] == "this record: audio is not finite"
    assert said.get(3) in (None, "three.wav: broken")
    assert all(why == "" for i, why in said.items() if i not in (3, 5))


def test_an_evaluation_of_no_more_records_is_empty():
    assert list(iterate_inputs(Numbers(0, 4).open(), Growing(), "audio", "tested", start=4)) == []


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: make(batch_size=9, hosts=2), "batch_size 9 is not divisible by 2 hosts"),
        (lambda: ModalityPair(("vision", "vision"), Numbers(0, 1)), "two different modalities"),
        (
            lambda: ModalityPair(("vision", "imu"), Numbers(0, 1), weight=0.0),
            "must be > 0, got 0.0",
        ),
        (
            lambda: ModalityPair(("vision", "imu"), Numbers(0, 1), weight=float("nan")),
            "must be > 0, got nan",
        ),
        (lambda: make(pairs=(ModalityPair(("vision", "imu"), Numbers(0, 0)),)), "vision+imu"),
        (lambda: make(pairs=()), "pair"),
        (
            lambda: ModalityPair(("vision", "imu"), Numbers(0, 1), inputs={"audio": Number()}),
            "['audio']",
        ),
        (lambda: make(seed=-1), "seed"),
    ],
)
def test_mistakes_are_named(mistake, words):
    with pytest.raises(UserError) as raised:
        mistake()
    assert words in str(raised.value)
