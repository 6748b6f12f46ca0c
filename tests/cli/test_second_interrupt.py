"""Ctrl-C twice: the process ends at once, and says so, wherever it is."""

import signal
import subprocess
import sys

import pytest

from deqjax.cli._second_interrupt import second_interrupt_ends
from deqjax.training.devices._interrupts import StopRequest

_BEGINNING = """
import ctypes, os, signal, sys, threading, time
from deqjax.cli import main
from deqjax.cli._second_interrupt import second_interrupt_ends
from deqjax.training.devices import StopRequest
def interrupt(): os.kill(os.getpid(), signal.SIGINT)
def later(*seconds):
    for each in seconds: threading.Timer(each, interrupt).start()
"""
# in there no handler of Python's runs, as while XLA compiles
_SLEEPS = "ctypes.CDLL(None).usleep.argtypes = [ctypes.c_uint]\n    "
_SLEEPS += "for _ in range(2): ctypes.CDLL(None).nanosleep((ctypes.c_long * 2)(30, 0), None)"


def ended(body, state):
    """What a process with this body of `second_interrupt_ends` prints as its end."""
    code = f"{_BEGINNING}\nwith second_interrupt_ends(){state}:\n    {body}\nprint('went on')"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("interrupt(); interrupt(); time.sleep(30)", id="in Python"),
        pytest.param(f"later(0.2, 0.4)\n    {_SLEEPS}", id="while compiled code runs"),
        pytest.param(
            "interrupt()\n"
            "    try: interrupt(); time.sleep(30)\n"
            "    except BaseException: print('an exception')",
            id="no exception",
        ),
    ],
)
def test_a_run_that_was_asked_to_stop_ends_at_the_second(body):
    done = ended(body, ", StopRequest()")
    assert (done.returncode, done.stdout) == (130, "")
    [line] = done.stderr.strip().splitlines()
    assert line.startswith("deqjax: interrupted twice: ended at once, without saving")


def test_what_cleans_up_after_the_first_ends_at_the_second():
    body = "try: interrupt(); time.sleep(30)\n    except KeyboardInterrupt: interrupt(); "
    done = ended(f"{body}time.sleep(30)", "")
    assert (done.returncode, done.stdout) == (130, "")
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_first_is_left_to_a_run():
    with second_interrupt_ends(), StopRequest() as request:
        signal.raise_signal(signal.SIGINT)
        assert request.signal == signal.SIGINT


def test_the_first_is_an_exception_elsewhere():
    with pytest.raises(KeyboardInterrupt), second_interrupt_ends():
        signal.raise_signal(signal.SIGINT)


def test_everything_is_as_before_afterwards():
    before = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    with second_interrupt_ends():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert (signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)) == before


def test_what_the_parent_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with second_interrupt_ends():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
