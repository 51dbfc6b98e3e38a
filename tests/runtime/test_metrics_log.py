"""What a run tells, on a disk with room and on a full one."""

import errno
import os
import pathlib

import pytest

from imagebind_jax.runtime import metrics_log

event_file_writer = pytest.importorskip("tensorboardX.event_file_writer")


def scalars(folder):
    """[(name, value, step)] of all event files, as TensorBoard reads them."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            record, data = data[12 : 12 + size], data[12 + size :]
            assert int.from_bytes(data[:4], "little") == masked_crc32c(record)
            data = data[4:]
            event = event_pb2.Event.FromString(record)
            found += [(each.tag, each.simple_value, event.step) for each in event.summary.value]
    return found


def test_numbers_are_in_both(tmp_path):
    log = metrics_log.MetricsLog(tmp_path)
    for step in range(3):
        log.write(step, {"loss": 1.5 - step, "pair": "a+b"})
    log.close()
    assert metrics_log.read_metrics(tmp_path / "metrics.jsonl")[1] == {
        "step": 1,
        "loss": 0.5,
        "pair": "a+b",
    }
    assert scalars(tmp_path) == [("loss", 1.5, 0), ("loss", 0.5, 1), ("loss", -0.5, 2)]


def test_a_run_that_goes_on_drops_what_comes_again(tmp_path):
    for start in (0, 2):
        log = metrics_log.MetricsLog(tmp_path, start)
        for step in range(start, 4):
            log.write(step, {"loss": float(start)})
        log.close()
    lines = metrics_log.read_metrics(tmp_path / "metrics.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(0, 0), (1, 0), (2, 2), (3, 2)]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


@pytest.mark.parametrize(
    "line", ["[" * 200_000, '{"step": ' + "1" * 5000 + "}", '{"step": true}', "{"]
)
def test_a_damaged_line_is_left_out(line, tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n' + line + '\n{"step": 1}\n')
    metrics_log.MetricsLog(tmp_path, 2).close()
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n'


@pytest.mark.goal("G6")
def test_a_full_disk_costs_no_line_and_never_the_run(tmp_path, monkeypatch):
    log = metrics_log.MetricsLog(tmp_path)
    log.write(0, {"loss": 0.0})
    file, log._file = log._file, pathlib.Path("/dev/full").open("ab", buffering=0)  # noqa: SIM115
    whole = event_file_writer.EventsWriter.write_event

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(event_file_writer.EventsWriter, "write_event", full)
    for step in (1, 2):
        log.write(step, {"loss": float(step)})
    log._file.close()
    log._file = file
    monkeypatch.setattr(event_file_writer.EventsWriter, "write_event", whole)
    log.write(3, {"loss": 3.0})
    log.close()
    assert [line["step"] for line in metrics_log.read_metrics(tmp_path / "metrics.jsonl")] == [
        0,
        1,
        2,
        3,
    ]
    # The board may lose what there was no room for, but not what follows.
    assert scalars(tmp_path) == [("loss", 0.0, 0), ("loss", 3.0, 3)]


def test_any_other_error_is_told(tmp_path):
    log = metrics_log.MetricsLog(tmp_path)
    log._file.close()
    with pytest.raises(ValueError):
        log.write(0, {"loss": 0.0})
    assert metrics_log.FLUSH_SECONDS > 0
