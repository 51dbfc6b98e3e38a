"""How hosts part: many of them in one process, each with threads of its own, and a store as JAX's."""

import threading
import time

import pytest

from imagebind_jax.distributed import failure_detection

SILENCE = 1  # seconds
GRACE = 0.6  # in place of `failure_detection.ERROR_GRACE_SECONDS`
ERROR = "imagebind-jax: error: "
# A thread that "ends the process".
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Store:
    """What JAX's coordinator keeps; `stuck` never answers, `gone` refuses."""

    def __init__(self):
        self.values, self.state = {}, "well"

    def key_value_set(self, key, value, allow_overwrite=False):
        self._answer()
        assert allow_overwrite or key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, folder):
        self._answer()
        return [(key, value) for key, value in self.values.items() if key.startswith(folder + "/")]

    def _answer(self):
        while self.state == "stuck":
            time.sleep(0.05)
        if self.state == "gone":
            raise RuntimeError("UNAVAILABLE: Socket closed")


@pytest.fixture
def company(monkeypatch, capfd):
    """company(n): n hosts that listen; `ends` has (exit code, seconds since the start) of each."""
    hosts, ends, mains, begun = [], {}, [], time.monotonic()
    monkeypatch.setattr(failure_detection.atexit, "register", lambda do: None)

    def leave(code):
        thread = threading.current_thread()
        (host,) = (h.host for h in hosts if thread in h._threads or thread.name == f"main {h.host}")
        assert host not in ends
        ends[host] = code, time.monotonic() - begun
        hosts[host]._over.set()
        raise SystemExit

    monkeypatch.setattr(failure_detection.os, "_exit", leave)
    monkeypatch.setattr(failure_detection, "ERROR_GRACE_SECONDS", GRACE)
    monkeypatch.setattr(
        failure_detection, "_silence_stderr", lambda: None
    )  # all share one stderr here

    def start(count):
        store = Store()
        words = [lambda host=host: f"last committed step {host}" for host in range(count)]
        hosts[:] = [
            failure_detection.FailureDetector(store, h, count, SILENCE, words[h])
            for h in range(count)
        ]
        for host in hosts:
            host.listen()
        return store

    def main(host, do, *arguments):
        thread = threading.Thread(
            target=do, args=(hosts[host], *arguments), name=f"main {host}", daemon=True
        )
        mains.append(thread)
        thread.start()
        return thread

    def wait(count, seconds=3 * SILENCE + 5):
        until = time.monotonic() + seconds
        while len(ends) < count:
            assert time.monotonic() < until, ends
            time.sleep(0.02)
        return sorted(capfd.readouterr().err.splitlines())

    start.main, start.wait, start.ends, start.hosts = main, wait, ends, hosts
    yield start
    for host in hosts:
        host._over.set()
    for thread in [*(thread for host in hosts for thread in host._threads), *mains]:
        thread.join(timeout=0.3)  # some sleep until their process is gone, which it is not here


@pytest.mark.parametrize("host", [0, pytest.param(5, marks=pytest.mark.processes)])
def test_all_end_with_the_error_of_the_one_that_failed(host, company):
    company(8)
    company.main(host, failure_detection.FailureDetector.leave, "OSError: it broke", 1)
    lines = company.wait(8)
    assert f"{ERROR}OSError: it broke" in lines
    others = [h for h in range(8) if h != host]
    for h in others:
        assert f"{ERROR}host {host}: OSError: it broke; last committed step {h}" in lines
        assert company.ends[h][0] == 70
    assert company.ends[host][0] == 1 and len(lines) == 8
    assert max(seconds for _, seconds in company.ends.values()) < 5
    # It keeps the store that the others read.
    assert company.ends[0][1] == max(seconds for _, seconds in company.ends.values())


@pytest.mark.parametrize(
    "code", [2, 76, *(pytest.param(code, marks=pytest.mark.processes) for code in (3, 4, 5, 6))]
)
def test_what_would_come_again_has_its_code_everywhere(code, company):
    company(3)
    company.main(1, failure_detection.FailureDetector.leave, "a reason", code)
    lines = company.wait(3)
    assert [company.ends[h][0] for h in range(3)] == [code] * 3
    assert [line for line in lines if line.startswith(ERROR)].count(f"{ERROR}host 1: a reason") == 2


def test_an_error_that_all_meet_is_each_ones_own(company):
    company(4)
    for host in range(4):
        company.main(host, failure_detection.FailureDetector.leave, "the loss is not finite", 1)
        time.sleep(GRACE / 10)
    assert company.wait(4) == [f"{ERROR}the loss is not finite"] * 4
    assert [company.ends[h][0] for h in range(4)] == [1] * 4


def test_a_broken_exchange_is_not_the_reason(company):
    """The others' connections to a host that leaves break before they hear of it."""
    company(3)
    broken = "ValueError: UNKNOWN: Gloo AllGather failed: Connection closed by peer [127.0.0.1]:49"
    company.main(0, failure_detection.FailureDetector.leave, broken, 1)
    company.main(2, failure_detection.FailureDetector.leave, broken, 1)
    time.sleep(0.2)
    company.main(1, failure_detection.FailureDetector.leave, "MemoryError: no more", 1)
    lines = company.wait(3)
    assert lines == sorted(
        [f"{ERROR}MemoryError: no more"]
        + [f"{ERROR}host 1: MemoryError: no more; last committed step {h}" for h in (0, 2)]
    )
    assert [company.ends[h][0] for h in range(3)] == [70, 1, 70]


@pytest.mark.processes
def test_a_broken_exchange_of_which_nobody_is_the_reason(company):
    company(2)
    company.main(1, failure_detection.FailureDetector.leave, "ValueError: Gloo timed out", 1)
    lines = company.wait(2)
    assert lines == sorted(
        [f"{ERROR}ValueError: Gloo timed out",
         f"{ERROR}host 1: ValueError: Gloo timed out; last committed step 0"]
    )  # fmt: skip
    assert SILENCE < company.ends[1][1] < 2 * SILENCE + 2


def test_a_silent_host_is_named_by_all(company):
    company(8)
    company.hosts[3]._over.set()  # it died
    lines = company.wait(7)
    for h in (0, 1, 2, 4, 5, 6, 7):
        assert f"{ERROR}host 3 stopped answering; last committed step {h}" in lines
        assert company.ends[h][0] == 70
    assert len(lines) == 7
    first, last = (f(seconds for _, seconds in company.ends.values()) for f in (min, max))
    assert first > SILENCE * 0.9 and last < SILENCE + 3


@pytest.mark.processes
def test_a_host_0_that_is_stopped_is_named_by_all(company):
    store = company(3)
    time.sleep(0.5)
    company.hosts[0]._over.set()
    store.state = "stuck"
    lines = company.wait(2)
    assert lines == [f"{ERROR}host 0 stopped answering; last committed step {h}" for h in (1, 2)]
    assert [company.ends[h][0] for h in (1, 2)] == [70, 70]
    assert company.ends[2][1] < 0.5 + SILENCE + 5
    store.state = "gone"


@pytest.mark.variants
def test_an_orderly_end_waits_for_all_and_is_nobodys_error(company, capfd):
    company(4)
    threads = [company.main(host, failure_detection.FailureDetector.part) for host in range(3)]
    time.sleep(1.5 * SILENCE)  # the last one has a lot to write
    assert all(thread.is_alive() for thread in threads)
    threads.append(company.main(3, failure_detection.FailureDetector.part))
    for thread in threads:
        thread.join(timeout=5)
        assert not thread.is_alive()
    time.sleep(1.2 * SILENCE)
    assert not company.ends and not capfd.readouterr().err
    assert not any(thread.is_alive() for host in company.hosts for thread in host._threads)


@pytest.mark.processes
def test_a_host_that_fails_while_others_wait_at_their_end(company):
    company(3)
    for host in (0, 1):
        company.main(host, failure_detection.FailureDetector.part)
    time.sleep(0.3)
    company.main(2, failure_detection.FailureDetector.leave, "OSError: no more disk", 1)
    lines = company.wait(3)
    assert f"{ERROR}host 2: OSError: no more disk; last committed step 1" in lines
    assert [company.ends[h][0] for h in range(3)] == [70, 70, 1]


def test_last_words_that_fail_say_nothing(company):
    company(2)
    company.hosts[1]._last_words = lambda: 1 / 0
    company.main(0, failure_detection.FailureDetector.leave, "a reason", 1)
    assert f"{ERROR}host 0: a reason" in company.wait(2)
