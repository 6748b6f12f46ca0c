import signal

import pytest

from deqjax.training import GuardConfig
from deqjax.training.devices._interrupts import StopRequest


@pytest.fixture
def seen():
    """What a handler of the user's own for SIGTERM has got."""
    found = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: found.append(number))
    yield found
    signal.signal(signal.SIGTERM, before)


def test_the_first_signal_is_remembered():
    with StopRequest() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.signal == signal.SIGINT


def test_the_users_handler_is_called_as_well(seen):
    with StopRequest() as request:
        signal.raise_signal(signal.SIGTERM)
        assert request.signal == signal.SIGTERM
    assert seen == [signal.SIGTERM]


def test_the_users_handler_is_restored(seen):
    with StopRequest():
        pass
    signal.raise_signal(signal.SIGTERM)
    assert seen == [signal.SIGTERM]


def test_second_ctrl_c_acts_at_once():
    with StopRequest():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_second_sigterm_waits_for_the_first():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with StopRequest() as request:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            assert request.signal == signal.SIGTERM
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGUSR1])
def test_signals_of_a_system_that_ends_processes_ask_to_stop(number):
    before = signal.signal(number, signal.SIG_DFL)  # under nohup, SIGHUP is ignored
    try:
        with StopRequest(GuardConfig().signals) as request:
            signal.raise_signal(number)
            assert request.signal == number
    finally:
        signal.signal(number, before)


def test_what_the_parent_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(GuardConfig().signals) as request:
            signal.raise_signal(signal.SIGHUP)
            assert request.signal is None
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_which_signals_is_an_option():
    before = signal.getsignal(signal.SIGUSR1)
    with StopRequest(["SIGUSR2", "SIGNONE"]) as request:
        assert signal.getsignal(signal.SIGUSR1) == before
        signal.raise_signal(signal.SIGUSR2)
        assert request.signal == signal.SIGUSR2


def test_another_signal_after_ctrl_c_is_no_second_ctrl_c():
    with StopRequest(GuardConfig().signals) as request:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGHUP)
        assert request.signal == signal.SIGINT
