"""What tells records from others: whatever changes what is read changes it, and nothing else does."""

import dataclasses
import os
import tarfile

import numpy as np
import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.inputs.sources import Manifest, TarShards
from imagebind_jax.inputs.sources.fingerprint import source_fingerprint


@dataclasses.dataclass(frozen=True)
class Given:
    """Records that a test makes."""

    records: tuple

    def open(self):
        return self.records


@pytest.fixture
def listed(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.wav").write_bytes(b"RIFF" + name.encode())
    (tmp_path / "mine.csv").write_text("id,audio,label\n1,a.wav,0\n2,b.wav,1\n")
    return Manifest(tmp_path / "mine.csv")


def test_of_a_list_of_files(listed, tmp_path):
    before = source_fingerprint(listed)
    assert source_fingerprint(Manifest(tmp_path / "mine.csv")) == before
    os.utime(tmp_path / "mine.csv", (0, 0))  # the list itself is read
    assert source_fingerprint(listed) == before
    (tmp_path / "a.wav").write_bytes(b"RIFFc")  # of the same size
    os.utime(tmp_path / "a.wav", (1, 1))
    replaced = source_fingerprint(listed)
    (tmp_path / "mine.csv").write_text("id,audio,label\n1,a.wav,1\n2,b.wav,1\n")
    labelled = source_fingerprint(listed)
    (tmp_path / "a.wav").unlink()
    assert len({repr(x) for x in (before, replaced, labelled, source_fingerprint(listed))}) == 4


def test_of_tar_files(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGEBIND_JAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.txt").write_text("a dog")
    for name in ("1.tar", "2.tar"):
        with tarfile.open(tmp_path / name, "w") as shard:
            shard.add(tmp_path / "a.txt", "a.txt")
    source = TarShards(str(tmp_path / "*.tar"))
    before = source_fingerprint(source)
    assert (
        source_fingerprint(source)
        == before
        != source_fingerprint(TarShards(str(tmp_path / "1.tar")))
    )
    os.utime(tmp_path / "2.tar", (1, 1))
    assert source_fingerprint(source) != before


@pytest.mark.parametrize(
    "other",
    [
        ({"imu": np.ones((2, 6), np.float32), "n": [1, {"a": b"x"}]},),
        ({"imu": np.zeros((2, 6), np.float64), "n": [1, {"a": b"x"}]},),
        ({"imu": np.zeros((2, 6), np.float32), "n": [1, {"a": b"y"}]},),
        ({"imu": np.zeros((2, 6), np.float32), "n": [2, {"a": b"x"}]},),
        (),
    ],
)
def test_of_records_in_memory(other):
    records = ({"imu": np.zeros((2, 6), np.float32), "n": [1, {"a": b"x"}]},)
    again = ({"n": [1, {"a": b"x"}], "imu": np.zeros((2, 6), np.float32)},)
    assert (
        source_fingerprint(Given(records))
        == source_fingerprint(Given(again))
        != source_fingerprint(Given(other))
    )


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(UserError, match="a record holds a object"):
        source_fingerprint(Given(({"x": object()},)))
