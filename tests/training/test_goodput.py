"""Where the time goes: every second is of one kind, and steps that were lost are so no longer."""

import json
import time

import pytest

from imagebind_jax.training import goodput
from imagebind_jax.training.goodput import TIME_CATEGORIES, GoodputRecorder


@pytest.mark.goal("G33")
def test_every_second_is_of_one_kind_over_a_loss(tmp_path, measured, monkeypatch):
    begun = time.monotonic()
    clock = GoodputRecorder(tmp_path)
    time.sleep(0.1)
    clock.begin(0)
    for step in range(3):
        with clock.spent("compiling"), clock.spent("data"):
            time.sleep(0.05)
        time.sleep(0.1)
        clock.mark(step + 1)
    time.sleep(0.2)  # after the last checkpoint
    monkeypatch.setattr(goodput, "FLUSH_SECONDS", 0)
    clock.alive()
    del clock  # as a kill leaves it
    time.sleep(0.3)
    clock = GoodputRecorder(tmp_path)
    clock.begin(2)
    time.sleep(0.1)
    line = clock.close()
    wall = time.monotonic() - begun
    seconds = json.loads((tmp_path / "goodput.json").read_text())["seconds"]
    assert list(seconds) == list(TIME_CATEGORIES)
    assert sum(seconds.values()) == pytest.approx(wall, rel=0.01)
    wanted = {"steps": 0.3, "redone": 0.3, "down": 0.3, "data": 0.15, "starting": 0.1}
    for kind, least in wanted.items():
        assert least - 0.01 < seconds[kind] < least + 0.5, kind
    assert "redone" in line and "saving" not in line
    measured(f"kinds sum to {100 * sum(seconds.values()) / wall:.2f} % of the time on the wall")


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "\xff", "[" * 200_000),
        '{"seconds": {"steps": "x"}, "seen": 0}',
        '{"seconds": {"steps": -500}, "seen": 1}',
        '{"seconds": {"steps": 1e308, "down": 1e308}, "seen": 1}',
        '{"seconds": {}, "seen": -1e308}',
        '{"seconds": {}, "seen": 1, "at_step": {"1": -5}}',
    ],
)
def test_a_damaged_clock_starts_anew(text, tmp_path):
    (tmp_path / "goodput.json").write_bytes(text.encode("latin-1"))
    clock = GoodputRecorder(tmp_path)
    clock.begin(0)
    assert clock.close().startswith("0 s: ")


def test_another_host_writes_nothing(tmp_path):
    clock = GoodputRecorder(tmp_path, writes=False)
    clock.begin(0)
    clock.close()
    assert not list(tmp_path.iterdir())
