"""Hosts that meet: all of them, some of them, ones that contradict each other, and strangers at the door."""

import contextlib
import socket
import threading
import time

import goals
import pytest
from test_initialize import free_port

from imagebind_jax.distributed import rendezvous
from imagebind_jax.errors import UserError


@pytest.fixture
def address():
    return f"127.0.0.1:{free_port()}"


def meet(address, *hosts, of=4, wait=3, after=None):
    """{place in the call: (seconds, what it was told)} of hosts that come, some after a while."""
    told = {}

    def come(index, host, of):
        time.sleep((after or {}).get(index, 0))
        begun = time.monotonic()
        try:
            said = rendezvous.rendezvous(address, of, host, wait)
        except UserError as mistake:
            said = str(mistake)
        told[index] = time.monotonic() - begun, said

    threads = [
        threading.Thread(target=come, args=(i, *(h if isinstance(h, tuple) else (h, of))))
        for i, h in enumerate(hosts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return told


def lines(told):
    return {said for _, said in told.values()}


def test_a_host_that_comes_again_is_no_second_one():
    """Where host 0 was stopped for a while, it hears both at once."""
    came = {}
    with contextlib.ExitStack() as stack:
        ends = [stack.enter_context(each) for _ in range(3) for each in socket.socketpair()]
        for theirs in ends[1::2]:
            theirs.sendall(b"imagebind-jax host 1 of 3\n")
        first, again, second = (rendezvous._LineSocket(ours) for ours in ends[::2])
        assert rendezvous._read_greeting(first, 3, came)
        ends[1].close()
        assert rendezvous._read_greeting(again, 3, came)
        assert came == {1: again}
        with pytest.raises(UserError, match="two processes say that they are host 1"):
            rendezvous._read_greeting(second, 3, came)


@pytest.mark.parametrize("late", [0, 1, 3])
def test_hosts_that_all_come_go_on_together(late, address):
    told = meet(address, 0, 1, 2, 3, after={late: 0.5})
    assert lines(told) == {None}
    others = [seconds for index, (seconds, _) in told.items() if index != late]
    assert min(others) > 0.3 and max(others) < 2.5


def test_the_address_is_free_again_at_once(address):
    for _ in range(5):
        assert lines(meet(address, 0, 1, of=2)) == {None}
        with socket.create_server(rendezvous.parse_address(address)):
            pass


@pytest.mark.goal("G14")
def test_all_that_came_name_those_that_did_not(address, measured):
    told = meet(address, 0, 2, wait=1)
    (line,) = lines(told)
    assert line.startswith(f"2 of 4 hosts came to {address} within 1 s, and not host 1, 3: start")
    waited = max(seconds for seconds, _ in told.values())
    assert waited < 2.5
    measured(f"2 of 4 came: all told after {waited:.1f} s of a wait of 1 s")
    (line,) = lines(meet(address, 0, of=40, wait=1))
    assert "1 of 40 hosts" in line and "host 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...:" in line


@pytest.mark.variants
def test_a_host_that_gives_up_is_missed_again(address):
    told = {}
    first = threading.Thread(target=lambda: told.update(meet(address, 0, wait=2)))
    first.start()
    assert "and not host 1, 3" in meet(address, 2, wait=1)[0][1]
    first.join()
    assert "1 of 4 hosts" in told[0][1] and "and not host 1, 2, 3" in told[0][1]


@pytest.mark.parametrize(
    ("hosts", "words"),
    [
        ((0, 1, 1), "two processes say that they are host 1: each needs a --host of its own"),
        ((0, 1, (2, 8)), "host 2 was started with --hosts 8, host 0 with --hosts 4"),
        ((0, 1, (5, 8)), "host 5 was started with --hosts 8, host 0 with --hosts 4"),
        ((0, 1, 0), "two processes say that they are host 0"),
    ],
)
def test_hosts_that_contradict_each_other_are_all_told(hosts, words, address):
    told = meet(address, *hosts, wait=10, after={2: 0.5})
    (line,) = lines(told)
    assert line.startswith(words)
    assert max(seconds for seconds, _ in told.values()) < 5


JUNK = [
    b"",
    b"GET / HTTP/1.1\r\nHost: there\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\xff\xfe" * 20,
    b"imagebind-jax host 1 of",  # and no more
    b"imagebind-jax host 99999999999 of 4\n",
    b"imagebind-jax host -1 of 4\n",
    b"imagebind-jax host 0x1 of 4\n",
    b"x" * 100_000,
    b"go\nno mistake\nmissing 3 1, 2, 3\n",
]


def test_strangers_change_nothing(address):
    told, made = {}, []
    first = threading.Thread(target=lambda: told.update(meet(address, 0, of=2, wait=20)))
    first.start()
    time.sleep(0.3)
    for junk in JUNK * goals.size(3, 100):
        connection = socket.create_connection(rendezvous.parse_address(address))
        made.append(connection)
        with contextlib.suppress(ConnectionError):
            connection.sendall(junk)
    begun = time.monotonic()
    assert lines(meet(address, 1, of=2, wait=20)) == {None}
    first.join()
    assert told[0][1] is None and time.monotonic() - begun < 10
    for connection in made:
        connection.close()


def test_a_port_that_something_else_has(address):
    with socket.create_server(rendezvous.parse_address(address)):
        (line,) = lines(meet(address, 0, of=2, wait=1))
    _, port = rendezvous.parse_address(address)
    assert line.startswith(f"port {port} cannot be listened at within 1 s (Address already in use)")


@pytest.mark.variants
def test_somebody_else_at_the_coordinators_address(address):
    server = socket.create_server(rendezvous.parse_address(address))

    def answer():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"220 mail.example.com ESMTP\r\n" + b"\0" * 5000)

    threading.Thread(target=answer, daemon=True).start()
    (line,) = lines(meet(address, 1, of=2, wait=1))
    server.close()
    assert line.startswith(f"no coordinator answers at {address} within 1 s (")


def test_nobody_there(address):
    (line,) = lines(meet(address, 1, of=2, wait=1))
    assert line.startswith(f"no coordinator answers at {address} within 1 s (Connection refused)")
