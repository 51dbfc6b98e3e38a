"""Unusable records: masked, counted, named, and too many of them end the run."""

import json
import resource

import numpy as np
import pytest
from feeding import Noisy, batches

from imagebind_jax.errors import BadRecordLimitError, UserError
from imagebind_jax.inputs.decoders.media import MediaError
from imagebind_jax.inputs.pipeline.bad_records import BadRecordLog
from imagebind_jax.inputs.pipeline.examples import Examples, ToModelInputs


def lines(folder):
    return [json.loads(line) for line in (folder / "bad_records.jsonl").read_text().splitlines()]


@pytest.mark.goal("G21")
def test_a_bad_record_is_a_masked_row_in_its_place(measured):
    good, holed = batches(), batches(second=Noisy(bad=(3, 105)))
    masked = 0
    for step in range(16):
        whole, batch = good[step], holed[step]
        other = "audio" if "audio" in batch else "imu"
        bad = np.isin(whole[other][:, 0], (3, 105))
        np.testing.assert_array_equal(batch["weight"], np.where(bad, 0, 1))
        for name in ("vision", other):
            np.testing.assert_array_equal(batch[name][~bad], whole[name][~bad])
            assert not batch[name][bad].any()
            assert batch[name].dtype == whole[name].dtype
        masked += bad.sum()
    assert masked == holed.bad.count.total() >= 6
    measured(f"{masked} bad rows of 16 batches: masked in their places, no other byte changed")


@pytest.mark.goal("G21")
def test_each_is_named_once_with_its_cause(tmp_path):
    stream = batches(second=Noisy(bad=(3, 105)), bad=BadRecordLog(tmp_path))
    steps = {(stream.name(step), step) for step in range(16) if stream[step] is not None}
    found = lines(tmp_path)
    assert {(line["pair"], line["record"]) for line in found} == {
        ("vision+audio", 3),
        ("vision+imu", 5),
    }
    assert len(found) == 2
    for line in found:
        assert (line["pair"], line["step"]) in steps
        number = {"vision+audio": 3, "vision+imu": 105}[line["pair"]]
        assert (line["id"], line["file"]) == (f"n{number}", f"{number}.wav")
        assert line["reason"] == "broken"


def test_a_run_that_goes_on_finds_again_what_it_lost(tmp_path):
    def run(start, stop):
        bad = BadRecordLog(tmp_path, 1.0, start)
        stream = batches(second=Noisy(bad=(0, 3, 7, 105, 111)), bad=bad)
        for step in range(start, stop):
            stream[step]

    run(0, 16)
    uninterrupted = lines(tmp_path)
    assert len(uninterrupted) == 5
    (tmp_path / "bad_records.jsonl").unlink()
    run(0, 9)
    with (tmp_path / "bad_records.jsonl").open("a") as file:
        file.write('{"step": 9, "pair": "vis')  # cut short by a crash
    run(5, 16)
    assert lines(tmp_path) == uninterrupted


@pytest.mark.parametrize(
    "line",
    [
        b"123",
        b"{}",
        b'{"step": "a", "pair": 1, "record": 2}',
        b"\xff",
        b'{"step": 1, "pa',
        b"[" * 200_000,
    ],
)
def test_a_damaged_line_is_left_out(line, tmp_path):
    whole = b'{"step": 1, "pair": "a", "record": 2, "reason": "x"}'
    (tmp_path / "bad_records.jsonl").write_bytes(whole + b"\n" + line + b"\n" + whole)
    BadRecordLog(tmp_path, start=5)
    assert lines(tmp_path) == [json.loads(whole)] * 2


def test_half_a_line_on_a_full_disk_is_ended_by_the_next(tmp_path):
    def see(record):
        said = {"record": record, "file": "f" * 200, "reason": "r"}
        bad.see(record, "a+b", np.array([json.dumps(said)]))

    bad, before = BadRecordLog(tmp_path, 1.0), resource.getrlimit(resource.RLIMIT_FSIZE)
    see(0)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400, before[1]))  # EFBIG, after a part
        see(1)
        see(2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "bad_records.jsonl").stat().st_size == 400
    see(3)
    assert [line["record"] for line in lines(tmp_path)] == [0, 1, 2, 3]


@pytest.mark.goal("G21")
def test_too_many_end_the_run_and_a_few_do_not(measured):
    stream = batches(second=Noisy(bad=(3,)), steps=80)  # 1 of 20 rows of the first pair
    words = r"^vision\+audio: 11 of \d+ rows .* 1.0%; .*3.wav: broken"
    with pytest.raises(BadRecordLimitError, match=words) as raised:
        for step in range(80):
            stream[step]
    assert raised.value.code == 3
    measured("5 % of one pair's rows are bad: ends with exit code 3 at the eleventh row")
    generous = batches(second=Noisy(bad=(3,)), steps=80, bad=BadRecordLog(None, allowed=0.06))
    for later in range(step + 10):
        generous[later]
    assert generous.bad.count["vision+imu"] == 0


def test_none_are_allowed_if_none_are_to_be():
    stream = batches(second=Noisy(bad=(3,)), bad=BadRecordLog(None, allowed=0.0))
    with pytest.raises(UserError, match="1 of"):
        for step in range(16):
            stream[step]


class Records(list):
    """Records of which some cannot even be read."""

    def __getitem__(self, index):
        if index == 1:
            raise MediaError("shard.tar, member 1", "truncated")
        return super().__getitem__(index)


def test_records_that_cannot_be_read_are_bad_and_other_errors_are_not_hidden():
    records = Records([{"number": 0}, {}, {"number": 1}, {"number": 2}, {"wrong": 2}])
    rows = Examples(records, ToModelInputs({"vision": Noisy()}), "x")
    row = rows.row(1, None)
    assert row["weight"] == 0 and row["vision"].tolist() == [0, 0]
    assert json.loads(str(row["bad"]))["file"] == "shard.tar, member 1"
    assert [rows.id(index) for index in (0, 1)] == ["record 0", "record 1"]
    with pytest.raises(KeyError):  # a transform that does not fit: no fault of the data
        rows.row(4, None)


class Shaped:
    """A record's own number of values."""

    def __call__(self, record, rng):
        return np.zeros(record["number"], np.float32)


def test_a_row_of_another_shape_is_bad_too():
    rows = Examples([{"number": n} for n in (2, 3, 3)], ToModelInputs({"vision": Shaped()}), "x")
    assert [rows.row(index, None)["vision"].shape for index in range(3)] == [(3,)] * 3
    said = json.loads(str(rows.row(0, None)["bad"]))
    assert said["file"] == "record 0"
    assert said["reason"] == "vision is float32 [2], and not float32 [3] as most records'"


def test_nothing_usable_at_all_says_so():
    rows = Examples(Records([{}, {}]), ToModelInputs({"vision": Infinite()}), "x+y")
    with pytest.raises(UserError, match="x\\+y: none of 2 records can be used: .*finite"):
        rows.row(0, None)


class Infinite:
    def __call__(self, record, rng):
        return np.float32([np.inf])
