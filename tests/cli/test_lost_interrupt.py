"""Ctrl-C in what the garbage collector calls ends a command like any other."""

import gc
import sys
import time

import pytest

from deqjax.cli._lost_interrupt import no_interrupt_is_lost


def test_an_interrupt_that_python_drops_comes_again(capsys):
    def interrupted(phase, info):
        gc.callbacks.remove(interrupted)
        raise KeyboardInterrupt

    def work():
        gc.callbacks.append(interrupted)
        gc.collect()
        for _ in range(500):
            time.sleep(0.01)

    before = sys.unraisablehook
    with no_interrupt_is_lost(), pytest.raises(KeyboardInterrupt):
        work()
    assert sys.unraisablehook is before
    assert capsys.readouterr().err == ""


def test_other_exceptions_are_told_as_ever(monkeypatch):
    def failing(phase, info):
        gc.callbacks.remove(failing)
        raise ValueError("told")

    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    with no_interrupt_is_lost():
        gc.callbacks.append(failing)
        gc.collect()
    assert "told" in str(told[0].exc_value)
