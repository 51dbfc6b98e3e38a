"""Hosts that evaluate, as threads that exchange what real ones do: none is left to wait for another."""

import threading
from concurrent import futures

import jax
import pytest

from imagebind_jax.distributed import agreement, lockstep
from imagebind_jax.errors import FatalRunError, UserError

HOSTS = 3
pytestmark = pytest.mark.jax  # whose errors are told apart


@pytest.fixture
def company(monkeypatch):
    """company(do): what do(host) raised on each of three hosts, or returned."""
    barrier, said = threading.Barrier(HOSTS, timeout=5), [""] * HOSTS

    def of_all(text):
        said[int(threading.current_thread().name)] = text
        barrier.wait()  # raises where one never comes
        found = list(said)
        barrier.wait()
        return found

    def start(do):
        def run(host):
            threading.current_thread().name = str(host)
            try:
                return do(host)
            except Exception as error:
                return error

        with futures.ThreadPoolExecutor(HOSTS) as pool:
            return list(pool.map(run, range(HOSTS)))

    monkeypatch.setattr(jax, "process_count", lambda: HOSTS)
    monkeypatch.setattr(agreement, "allgather_text", of_all)
    return start


def measure(fails=lambda host, batch: None, batches=5, rows=lambda host, batch: batch):
    """What a host does in an evaluation, and that it does the next one with the others."""

    def do(host):
        try:
            with lockstep.lockstep("pairs"):
                for batch in range(batches):
                    fails(host, batch)
                    lockstep.lockstep_barrier(
                        f"batch {batch}", rows(host, batch), " (noted)" if host else ""
                    )
        except lockstep.OutOfStepError as error:
            with lockstep.lockstep("the next one"):
                lockstep.lockstep_barrier("its batch")
            return str(error)

    return do


@pytest.mark.parametrize("at", [0, 3])
@pytest.mark.parametrize("host", range(HOSTS))
@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("no permission"), "no permission"),
        (FatalRunError("stuck for 60 s reading a.mp4"), "stuck for 60 s reading a.mp4"),
        (IndexError("out\nof range"), "IndexError: out"),
        (OSError(32, "Broken pipe"), "BrokenPipeError: [Errno 32] Broken pipe"),
    ],
)
def test_what_fails_on_one_fails_on_all_and_is_the_same_line(error, line, host, at, company):
    def fails(here, batch):
        if (here, batch) == (host, at):
            raise error

    wanted = [line if here == host else f"host {host}: {line}" for here in range(HOSTS)]
    assert company(measure(fails)) == wanted


def test_what_fails_after_the_last_batch_fails_on_all(company):
    def do(host):
        with lockstep.lockstep("pairs"):
            lockstep.lockstep_barrier("batch 0")
            if host == 1:
                raise UserError("not finite")

    assert [str(error) for error in company(do)] == [
        f"{name}not finite" for name in ("host 1: ", "", "host 1: ")
    ]


def test_hosts_that_are_elsewhere_are_named(company):
    """Host 2 could not use a record, so that all its batches from there on hold others."""
    found = company(measure(rows=lambda host, batch: batch + (host == 2 and batch > 1)))
    line = "hosts read other records, or fewer: host 0 is at batch 2; host 2 at batch 2 (noted)"
    assert found == [line] * HOSTS


def test_a_host_that_is_done_earlier_is_named(company):
    found = company(lambda host: measure(batches=3 if host else 2)(host))
    line = "hosts read other records, or fewer: host 0 is at the end of pairs; host 1 at batch 2 (noted)"
    assert found == [line] * HOSTS


def test_nothing_is_wrong_with_notes_that_differ(company):
    assert company(measure()) == [None] * HOSTS


def test_an_error_of_the_devices_ends_the_run(company):
    """The others are in the program, or the exchange, that it came out of: none would answer."""
    broken = (
        ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:49"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    )
    for error in broken:

        def do(host, error=error):
            with lockstep.lockstep("pairs"):
                raise error

        assert company(do) == [error] * HOSTS


def test_alone_errors_are_what_they_are():
    with pytest.raises(FatalRunError, match="stuck"), lockstep.lockstep("pairs"):
        lockstep.lockstep_barrier("batch 0", object())  # not looked at
        raise FatalRunError("stuck")
