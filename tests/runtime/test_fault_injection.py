"""Faults on purpose: what IBJ_FAULT asks for, and nothing where it is unset."""

import signal

import pytest

from imagebind_jax.errors import UserError
from imagebind_jax.runtime import fault_injection


def test_unset_nothing_happens(monkeypatch):
    monkeypatch.delenv(fault_injection.ENV_VAR, raising=False)
    assert not fault_injection.requested_faults(*fault_injection.KINDS)
    fault_injection.inject_process_faults(0)


def test_a_fault_strikes_at_its_steps_on_its_host(monkeypatch):
    monkeypatch.setenv(
        fault_injection.ENV_VAR, "kind=raise, step=3, steps=2, host=1; kind=nan_grad,step=7"
    )
    for step in range(6):
        fault_injection.inject_process_faults(step, host=0)
    struck = []
    for step in range(6):
        try:
            fault_injection.inject_process_faults(step, host=1)
        except fault_injection.InjectedError:
            struck.append(step)
    assert struck == [3, 4]
    (fault,) = fault_injection.requested_faults("nan_grad", host=5)
    assert fault.at(7) and not fault.at(8)


def test_a_signal_is_sent(monkeypatch):
    got = []
    before = signal.signal(signal.SIGTERM, lambda *_: got.append(1))
    monkeypatch.setenv(fault_injection.ENV_VAR, "kind=sigterm,step=2")
    try:
        for step in range(4):
            fault_injection.inject_process_faults(step)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [1]


@pytest.mark.parametrize(
    ("text", "words"), [("kind=boil", "kind 'boil' is none of"), ("kind=kill,when=3", "'when=3'")]
)
def test_mistakes_are_named(text, words, monkeypatch):
    monkeypatch.setenv(fault_injection.ENV_VAR, text)
    with pytest.raises(UserError, match=words):
        fault_injection.inject_process_faults(0)
