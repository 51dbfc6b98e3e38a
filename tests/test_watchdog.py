"""The watch over steps: what takes too long ends the process, what may take its time does not."""

import time

import pytest

from imagebind_jax import watchdog
from imagebind_jax.errors import Stuck
from imagebind_jax.watchdog import LONGER, PAUSE

LEAST = 0.3  # seconds


@pytest.fixture
def watch(capfd, monkeypatch):
    """A watch, and the lines with which it would have ended the process."""
    ended = []

    def leave(line, code):
        ended.append(line)
        assert code == Stuck.code
        watch._over.set()

    monkeypatch.setattr(watchdog.os, "_exit", lambda code: None)
    with watchdog.Watchdog(LEAST, lambda: "last committed step 2", leave) as watch:
        yield watch, ended
    assert ("thread 0x" in capfd.readouterr().err.lower()) == bool(ended)


def test_a_step_that_hangs_is_told_with_what_is_safe(watch):
    watch, ended = watch
    time.sleep(2 * LEAST)
    assert not ended, "nothing has begun"
    watch.begin(3)
    watch.beat(3)
    time.sleep(2 * LEAST)
    (line,) = ended
    assert line.startswith("step 4 has taken 0 s so far: a device or another host hangs")
    assert line.endswith("; last committed step 2")


def test_no_time_passes_in_a_pause(watch):
    watch, ended = watch
    watch.begin(0)
    for step in range(3):
        with watch.paused(), watch.paused():
            time.sleep(2 * LEAST)
        watch.beat(step)
    assert not ended
    assert watch.limit == LEAST


def test_a_pause_has_a_limit_of_its_own_and_longer_ones_inside_it(watch):
    watch, ended = watch
    assert watch._until > time.monotonic() + PAUSE - 60  # before the first step, too
    watch.begin(7)
    with watch.paused(0.1):
        with watch.paused(3 * LEAST):
            time.sleep(2 * LEAST)
        assert not ended
        time.sleep(2 * LEAST)
    assert ended[0].startswith("what comes before step 7 takes for hours: a device or another host")


def test_steps_that_are_slow_make_it_patient(watch):
    watch, ended = watch
    watch.begin(0)
    for step in range(3):
        time.sleep(0.1)
        watch.beat(step)
    assert LONGER * 0.1 <= watch.limit < LONGER * 0.3
    time.sleep(2 * LEAST)
    assert not ended
