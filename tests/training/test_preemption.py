"""SIGTERM while a run goes on, and after it."""

import os
import signal
import threading
import time

import pytest

from imagebind_jax.training import preemption
from imagebind_jax.training.preemption import PreemptionNotice


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)  # in which Python's handlers are called


def test_where_none_came_it_means_what_it_did_before(theirs):
    with PreemptionNotice() as notice:
        assert not notice.reached(0)
    assert signal.set_wakeup_fd(-1) == -1
    terminate()
    assert theirs == [signal.SIGTERM]


def test_where_one_came_more_change_nothing_even_after_the_block(theirs):
    with PreemptionNotice() as notice:
        terminate()
        end = time.monotonic() + 10
        while not notice.reached(0):
            assert time.monotonic() < end
    terminate()
    assert theirs == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # which Python's end leaves as it is


@pytest.mark.parametrize("again, ends", [(3600, []), (-1, [128 + signal.SIGTERM])])
@pytest.mark.usefixtures("theirs")
def test_a_second_one_ends_it_unless_it_comes_with_the_first(again, ends, monkeypatch):
    found = []
    monkeypatch.setattr(os, "_exit", found.append)
    monkeypatch.setattr(
        preemption, "REPEAT_SIGNAL_SECONDS", again
    )  # so that a busy machine is never late, or always
    with PreemptionNotice():
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
    for thread in threading.enumerate():
        if thread.name == "sigterm":
            thread.join()  # which has then seen both
    assert found == ends
