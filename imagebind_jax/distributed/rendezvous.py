"""Hosts meet at host 0's address before JAX starts there: who came, who is missing, who is a mistake."""

import contextlib
import os
import re
import select
import selectors
import socket
import time
from collections.abc import Iterable, Iterator

from imagebind_jax.errors import UserError

HELLO_PATTERN = re.compile(r"imagebind-jax host (\d{1,7}) of (\d{1,7})")
LONGEST = 1000  # bytes of a line
HELLO_TIMEOUT = 5.0  # seconds in which a stranger must say who it is
MAX_UNIDENTIFIED = 64  # at a time
RETRY_SECONDS = 0.2  # seconds between tries
NAMED = 10  # hosts of which the numbers are said


def rendezvous(address: str, hosts: int, host: int, wait: int) -> None:
    """Returns on every host when all `hosts` have come to `address`, the HOST:PORT of host 0.

    wait: seconds. Raises UserError: on all that came, the same one, where some did not come or two
    contradict each other.
    """
    until = time.monotonic() + wait
    if host == 0:
        _serve(address, hosts, until, wait)
    else:
        _connect(address, hosts, host, until, wait)


def parse_address(address: str) -> tuple[str, int]:
    """(name, port) of HOST:PORT."""
    name, _, port = address.rpartition(":")
    return name.strip("[]"), int(port)


class _LineSocket:
    """A connection of which lines are read: short ones, as they come."""

    def __init__(self, connection: socket.socket):
        self.socket, self.host, self._read = connection, -1, b""
        self.since = time.monotonic()

    def lines(self) -> Iterator[str]:
        """What has come. Raises OSError where the other end is gone, or says too much."""
        got = self.socket.recv(LONGEST)
        self._read += got
        *whole, self._read = self._read.split(b"\n")
        yield from (line.decode("ascii", "replace") for line in whole)
        if not got or len(self._read) > LONGEST:
            raise ConnectionError("closed")

    def open(self) -> bool:
        """Whether the other end is still there: one that gave up may be back before this is seen."""
        try:
            heard = select.poll()
            heard.register(self.socket, select.POLLIN)
            return not heard.poll(0) or bool(self.socket.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def say(self, line: str) -> None:
        with contextlib.suppress(OSError):  # reading from it will tell
            self.socket.sendall(line.encode("ascii", "replace")[:LONGEST] + b"\n")


# ---- host 0


def _serve(address: str, hosts: int, until: float, wait: int) -> None:
    came: dict[int, _LineSocket] = {}
    with _listening(address, hosts, until, wait) as listener, selectors.DefaultSelector() as ready:
        listener.setblocking(False)
        ready.register(listener, selectors.EVENT_READ)
        strangers: list[_LineSocket] = []
        try:
            while len(came) < hosts - 1:
                if time.monotonic() > until:
                    raise UserError(_missing_message(address, hosts, _missing(hosts, came), wait))
                _accept(listener, ready, strangers)
                for key, _ in ready.select(RETRY_SECONDS):
                    if key.data is None:
                        continue  # the listener
                    if _read_greeting(key.data, hosts, came):
                        _broadcast(came, f"missing {_missing(hosts, came)}")
                    else:
                        _drop(key.data, ready, came, strangers)
                late = [s for s in strangers if time.monotonic() - s.since > HELLO_TIMEOUT]
                for line in late:
                    if line.host < 0:
                        _drop(line, ready, came, strangers)
        except UserError as error:
            _broadcast(came, f"no {error}")
            raise
        finally:
            listener.close()  # JAX listens there next
            if len(came) == hosts - 1:
                _broadcast(came, "go")
            for key in list(ready.get_map().values()):
                if key.data is not None:
                    key.data.socket.close()


def _accept(listener: socket.socket, ready: selectors.BaseSelector, strangers: list[_LineSocket]):
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        strangers[:] = [line for line in strangers if line.host < 0]
        if len(strangers) >= MAX_UNIDENTIFIED:
            connection.close()
            continue
        connection.settimeout(HELLO_TIMEOUT)
        line = _LineSocket(connection)
        strangers.append(line)
        ready.register(connection, selectors.EVENT_READ, line)


def _read_greeting(line: _LineSocket, hosts: int, came: dict[int, _LineSocket]) -> bool:
    """Whether the connection is worth keeping. Raises UserError where it contradicts another."""
    try:
        for text in line.lines():
            match = HELLO_PATTERN.fullmatch(text)
            if match is None or line.host >= 0:
                return False
            host, of = map(int, match.groups())
            mistake = ""
            if of != hosts:
                mistake = f"host {host} was started with --hosts {of}, host 0 with --hosts {hosts}"
            elif host == 0 or (host in came and came[host].open()):
                mistake = (
                    f"two processes say that they are host {host}: each needs a --host of its own"
                )
            if mistake:
                line.say(f"no {mistake}")
                raise UserError(mistake)
            line.host, came[host] = host, line
    except OSError:
        return False
    return True


def _drop(
    line: _LineSocket, ready: selectors.BaseSelector, came: dict[int, _LineSocket], strangers: list
):
    ready.unregister(line.socket)
    line.socket.close()
    if line in strangers:
        strangers.remove(line)
    if came.get(line.host) is line:
        del came[line.host]


def _broadcast(came: dict[int, _LineSocket], text: str) -> None:
    for line in came.values():
        line.say(text)


@contextlib.contextmanager
def _listening(address: str, hosts: int, until: float, wait: int) -> Iterator[socket.socket]:
    """At the port, as soon as it is free. Raises UserError."""
    _, port = parse_address(os.environ.get("JAX_COORDINATOR_BIND_ADDRESS") or address)
    asked = 0.0
    while True:
        try:
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6 if both else socket.AF_INET
            made = socket.create_server(("", port), family=family, dualstack_ipv6=both, backlog=128)
            break
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
        if time.monotonic() - asked > HELLO_TIMEOUT:  # another host 0 would say so
            asked = time.monotonic()
            with contextlib.suppress(OSError):
                _ask(("127.0.0.1", port), hosts, 0, min(until, asked + 1) - 1, [""])
        if time.monotonic() > until:
            raise UserError(
                f"port {port} cannot be listened at within {wait} s ({why}): end what uses it, or "
                "give --coordinator another port on all hosts"
            )
        time.sleep(RETRY_SECONDS)
    with made:
        yield made


# ---- the others


def _connect(address: str, hosts: int, host: int, until: float, wait: int) -> None:
    why, told = "", [""]
    while time.monotonic() < until:
        told = [""]
        try:
            if _ask(parse_address(address), hosts, host, until, told):
                return
        except OSError as error:
            why = error.strerror or str(error)
        time.sleep(RETRY_SECONDS)
    if told[-1]:
        raise UserError(_missing_message(address, hosts, told[-1], wait))
    raise UserError(
        f"no coordinator answers at {address} within {wait} s ({why}): start the same command "
        "with --host 0 on that machine, or allow more with --wait"
    )


def _ask(where: tuple[str, int], hosts: int, host: int, until: float, told: list[str]) -> bool:
    """Whether all came in time. What is said of the missing goes to `told`. Raises UserError, OSError."""
    now = time.monotonic()
    with socket.create_connection(
        where, timeout=max(0.1, min(until - now, HELLO_TIMEOUT))
    ) as connection:
        line = _LineSocket(connection)
        line.say(f"imagebind-jax host {host} of {hosts}")
        while True:
            # A little longer than host 0, whose words are the same for all.
            left = until + 1 - time.monotonic()
            connection.settimeout(max(0.1, left if told[-1] else min(left, HELLO_TIMEOUT)))
            try:
                for text in line.lines():
                    word, _, rest = text.partition(" ")
                    if word == "go":
                        return True
                    if word == "no":
                        raise UserError(rest)
                    if word == "missing":
                        told.append(rest)
            except TimeoutError:
                if not told[-1]:
                    raise
            if time.monotonic() > until + 1:
                return False


# ---- what is said


def _missing(hosts: int, came: Iterable[int]) -> str:
    """How many, and which."""
    left = sorted(set(range(1, hosts)) - set(came))
    named = ", ".join(map(str, left[:NAMED]))
    return f"{len(left)} {named}{', ...' if len(left) > NAMED else ''}"


def _missing_message(address: str, hosts: int, missing: str, wait: int) -> str:
    count, _, named = missing.partition(" ")
    return (
        f"{hosts - int(count)} of {hosts} hosts came to {address} within {wait} s, and not host "
        f"{named}: start the same command there, with its own --host, or allow more with --wait"
    )
