"""Several hosts: how they find each other, and how all of them end."""

import contextlib
import os
import threading
import time
from collections.abc import Iterator

import jax
from jax._src import distributed

from imagebind_jax import errors
from imagebind_jax.distributed import cluster_env, failure_detection, rendezvous
from imagebind_jax.errors import UserError, first_line, one_line
from imagebind_jax.runtime import console

INIT_TIMEOUT = 300  # seconds that hosts wait for each other at the start
HEARTBEAT_TIMEOUT = 30  # seconds without a sign of life after which a host counts as gone
HEARTBEAT_TIMEOUT_VAR = "IMAGEBIND_JAX_SILENCE"  # other seconds
COORDINATOR_ADDRESS_VAR = "JAX_COORDINATOR_ADDRESS"  # read by jax.distributed, too


_failure_detector: failure_detection.FailureDetector | None = None  # where there are several
collective_errors: set[str] = set()  # mistakes that all hosts raised together


def exit_note() -> str:
    """What is to be known of a run that another host ends; a run sets its own in this one's place."""
    return errors.RESTART_HINT


def initialize(
    coordinator: str | None = None,
    hosts: int | None = None,
    host: int | None = None,
    *,
    wait: int = INIT_TIMEOUT,
    preemptible: bool = True,
) -> None:
    """Makes this process host `host` of `hosts`; alone, and not asked for anything else, it does nothing.

    Before the first use of a device. What is not given is found by JAX: on a TPU slice, under SLURM
    or Open MPI, on Kubernetes. coordinator: HOST:PORT of host 0 (default: JAX_COORDINATOR_ADDRESS).
    hosts: processes in all; 1 looks for no others. wait: seconds for all to come; then the process
    ends with one line and exit code 2, as JAX's own way out is a crash. preemptible: SIGTERM, to any
    host, is what `preemption` hears of, and does nothing else. Raises UserError.
    """
    global _failure_detector
    address = coordinator or os.environ.get(COORDINATOR_ADDRESS_VAR)
    _check(address, hosts, host, wait)
    if hosts == 1 or jax.distributed.is_initialized():
        return
    found = cluster_env.in_multi_process_cluster(os.environ)
    given = (address, hosts, host)
    if all(each is None for each in given) and not found:
        return
    if None in given and not found:
        missing = [
            name
            for name, each in zip(("--coordinator", "--hosts", "--host"), given)
            if each is None
        ]
        raise UserError(
            f"several hosts were asked for, and no cluster is found here that says the rest: "
            f"{' and '.join(missing)} must be given, too"
        )
    # CPUs run programs of several devices in threads they share: two at once can wait for each
    # other's exchanges for ever.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    # It swallows SIGTERM: where nothing asks for it, a process would go on until it is killed.
    jax.config.update("jax_enable_preemption_service", preemptible)
    silence = _heartbeat_timeout()
    until = time.monotonic() + wait
    if address is not None and hosts is not None and host is not None:
        rendezvous.rendezvous(address, hosts, host, wait)
        until = time.monotonic() + wait
    with _exit_after_timeout(until, address, hosts, wait):
        try:
            jax.distributed.initialize(
                address, hosts, host,
                # Else SLURM's and Open MPI's numbers would leave a process one GPU of its machine's.
                cluster_detection_method=None if None in given else "deactivate",
                # All of these later than ours, which end in one line.
                initialization_timeout=wait + 60,
                heartbeat_timeout_seconds=2 * silence + 10,
                shutdown_timeout_seconds=2 * silence,
            )  # fmt: skip
        except (ValueError, RuntimeError, KeyError, OSError) as error:
            raise UserError(
                f"the hosts cannot find each other ({first_line(error)}): give --coordinator, "
                "--hosts and --host, or --hosts 1 for this machine alone"
            ) from error
    state = distributed.global_state
    if state.num_processes > 1:
        _failure_detector = failure_detection.FailureDetector(
            state.client, state.process_id, state.num_processes, silence, lambda: exit_note()
        )
        _failure_detector.listen()


def abort_all(line: str, code: int) -> None:
    """Where this is one of several hosts, ends its process at once, and the others with it.

    Each says why in one line. Where they have all raised this line together, or this process is
    alone, nothing is said yet and this returns: the end can be an ordinary one.
    """
    if _failure_detector is not None and one_line(line) not in collective_errors:
        _failure_detector.leave(line, code)


def _heartbeat_timeout() -> int:
    text = os.environ.get(HEARTBEAT_TIMEOUT_VAR, str(HEARTBEAT_TIMEOUT))
    if not text.isdecimal() or int(text) < 2:
        raise UserError(f"{HEARTBEAT_TIMEOUT_VAR}={text}: expected seconds, at least 2")
    return int(text)


def _check(address: str | None, hosts: int | None, host: int | None, wait: int) -> None:
    if hosts is not None and hosts < 1:
        raise UserError(f"--hosts must be at least 1, got {hosts}")
    if host is not None and not 0 <= host < (hosts or host + 1):
        raise UserError(f"--host {host}: hosts are numbered from 0 to {(hosts or 1) - 1}")
    if wait < 1:
        raise UserError(f"--wait must be at least 1 second, got {wait}")
    if address is not None:
        name, _, port = address.rpartition(":")
        if not name or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise UserError(f"--coordinator {address}: expected HOST:PORT, e.g. 10.0.0.1:12345")


@contextlib.contextmanager
def _exit_after_timeout(
    until: float, address: str | None, hosts: int | None, wait: int
) -> Iterator[None]:
    """Ends the process where the block takes longer: nothing else can stop it."""

    def end() -> None:
        proxies = sorted(name for name in os.environ if name.lower().endswith("_proxy"))
        console.print_error(
            f"not all of {hosts or 'the'} hosts came together"
            f"{f' at {address}' if address else ''} within {wait} s: start the same command on each, "
            "with the same --hosts, or allow more with --wait"
            + (f" (a proxy may be in the way: {', '.join(proxies)})" if proxies else "")
        )
        os._exit(2)

    timer = threading.Timer(max(until - time.monotonic(), 1), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


# ---- what hosts do together
