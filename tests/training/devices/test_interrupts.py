import signal

import pytest

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
