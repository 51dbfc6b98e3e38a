"""No Ctrl-C is lost, wherever it arrives."""

import gc
import signal
import sys
import time

import pytest

from imagebind_jax import cli
from imagebind_jax.cli import commands, interrupts


@pytest.fixture(autouse=True)
def heeded():
    """Tests may have been started in the background, where shells have it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def in_a_callback_of_gc():
    """As JAX has one."""

    def callback(*_):
        gc.callbacks.remove(callback)
        signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(callback)
    gc.collect()


def in_a_destructor():
    class Closed:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    Closed()


@pytest.mark.parametrize("arrives", [in_a_callback_of_gc, in_a_destructor])
def test_where_python_drops_it_it_comes_again(arrives, capsys):
    with interrupts.deliver_keyboard_interrupts(), pytest.raises(KeyboardInterrupt):
        arrives()
        time.sleep(10)
    assert capsys.readouterr().err == ""


def test_other_errors_that_python_drops_are_told_as_ever(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    class Broken:
        def __del__(self):
            raise ValueError

    with interrupts.deliver_keyboard_interrupts():
        Broken()
    assert [each.exc_type for each in told] == [ValueError]
    assert sys.unraisablehook == told.append


def test_a_command_is_stopped_by_one_that_arrives_in_a_callback(monkeypatch, capsys):
    def run(arguments):
        in_a_callback_of_gc()
        time.sleep(10)

    monkeypatch.setattr(commands, "_run", run)
    assert cli.main(["prepare"]) == 1
    assert capsys.readouterr().err.startswith("imagebind-jax: error: stopped")
