"""The watch over steps: what takes too long ends the process, what may take its time does not."""

import threading
import time

import pytest

from imagebind_jax.errors import StepTimeoutError
from imagebind_jax.training import watchdog
from imagebind_jax.training.watchdog import MAX_PAUSE_SECONDS, TIMEOUT_FACTOR

LEAST = 0.3  # seconds
LOOK = LEAST / 10  # after so many the watch looks again


class Clock:
    """The watch's time, which passes in `sleep` alone: a busy machine changes nothing."""

    def __init__(self):
        self._now = self._seen = 1000.0
        self.over = threading.Event()

    def monotonic(self):
        now = self._now
        if threading.current_thread().name == "watchdog":
            self._seen = now
        return now

    def sleep(self, seconds):
        """Lets the watch look at each moment, and decide, until it has ended the process."""
        for _ in range(round(seconds / LOOK)):
            self._now += LOOK
            end = time.monotonic() + 60
            while self._seen != self._now and not self.over.is_set():
                assert time.monotonic() < end, "the watch looks no more"
                time.sleep(1e-3)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(watchdog, "time", clock)
    return clock


@pytest.fixture
def watch(clock, capfd, monkeypatch):
    """A watch, and the lines with which it would have ended the process."""
    ended = []

    def leave(line, code):
        ended.append(line)
        assert code == StepTimeoutError.code
        watch._over.set()
        clock.over.set()

    monkeypatch.setattr(watchdog.os, "_exit", lambda code: None)
    with watchdog.Watchdog(LEAST, lambda: "last committed step 2", leave) as watch:
        yield watch, ended
    assert ("thread 0x" in capfd.readouterr().err.lower()) == bool(ended)


def test_a_step_that_hangs_is_told_with_what_is_safe(watch, clock):
    watch, ended = watch
    clock.sleep(2 * LEAST)
    assert not ended, "nothing has begun"
    watch.begin(3)
    watch.beat(3)
    clock.sleep(2 * LEAST)
    (line,) = ended
    assert line.startswith("step 4 has taken 0 s so far: a device or another host hangs")
    assert line.endswith("; last committed step 2")


def test_no_time_passes_in_a_pause(watch, clock):
    watch, ended = watch
    watch.begin(0)
    for step in range(3):
        with watch.paused(), watch.paused():
            clock.sleep(2 * LEAST)
        watch.beat(step)
    assert not ended
    assert watch.limit == LEAST


def test_a_step_has_all_its_time_after_a_pause_and_no_more(watch, clock):
    watch, ended = watch
    watch.begin(0)
    with watch.paused():
        clock.sleep(2 * LEAST)
    clock.sleep(0.8 * LEAST)
    assert not ended
    clock.sleep(0.8 * LEAST)
    assert ended


def test_a_pause_has_a_limit_of_its_own_and_longer_ones_inside_it(watch, clock):
    watch, ended = watch
    assert watch._until == clock.monotonic() + MAX_PAUSE_SECONDS  # before the first step, too
    watch.begin(7)
    with watch.paused(0.1):
        with watch.paused(3 * LEAST):
            clock.sleep(2 * LEAST)
        assert not ended
        clock.sleep(2 * LEAST)
    assert ended[0].startswith("what comes before step 7 takes for hours: a device or another host")


def test_steps_that_are_slow_make_it_patient(watch, clock):
    watch, ended = watch
    watch.begin(0)
    for step in range(3):
        clock.sleep(LEAST / 2)
        watch.beat(step)
    assert watch.limit == pytest.approx(TIMEOUT_FACTOR * LEAST / 2)
    clock.sleep(2 * LEAST)
    assert not ended
