"""What is printed of a save that has failed already."""

import asyncio
import functools
import gc
import logging
import sys
import threading
import types

import pytest

from deqjax.training.checkpoints import CheckpointError, Checkpoints, Failures
from deqjax.training.checkpoints._quiet import Silence


@pytest.fixture
def printed(monkeypatch):
    """What nobody could catch, and was printed."""
    found = []
    monkeypatch.setattr(sys, "unraisablehook", lambda each: found.append(each.exc_value))
    return found


@pytest.fixture
def silence():
    quiet = Silence()
    quiet.begin()
    yield quiet
    quiet.end()


def unraisable(action):
    """What the interpreter does with an error of something that C++ has called."""
    try:
        action()
    except Exception as error:
        trace = error.__traceback__.tb_next  # without this function's own frame
        sys.unraisablehook(types.SimpleNamespace(exc_value=error, exc_traceback=trace))


def closed_loop():
    loop = asyncio.new_event_loop()
    loop.close()
    return loop


def test_a_late_answer_to_a_closed_loop_is_dropped(printed, silence):
    unraisable(functools.partial(closed_loop().call_soon_threadsafe, print))
    assert printed == []


def test_other_errors_are_printed(printed, silence):
    unraisable(lambda: closed_loop().call_soon_threadsafe(print))
    unraisable(functools.partial(closed_loop().call_soon, print))
    unraisable(lambda: 1 / 0)
    assert [type(error) for error in printed] == [RuntimeError, RuntimeError, ZeroDivisionError]


def abandoned(error):
    """A future that failed, and that nobody asks why."""
    loop = asyncio.new_event_loop()
    future = loop.create_future()
    future.set_exception(error)
    future.myself = [future]  # only the garbage collector will find it
    loop.close()


def test_writes_that_fail_beside_the_first_are_not_told_of(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("asyncio"), "filters", [])
    quiet = Silence()
    quiet.begin()
    abandoned(ValueError("RESOURCE_EXHAUSTED: disk full [tensorstore_spec='{}']"))
    abandoned(OSError(28, "No space left on device", "packages/orbax/checkpoint/path.py"))
    quiet.end(failed=True)
    gc.collect()
    assert caplog.records == []
    abandoned(ValueError("of somebody else"))
    gc.collect()
    assert len(caplog.records) == 1


def test_a_hook_of_somebody_else_in_between_stays(printed, monkeypatch):
    one, two = Silence(), Silence()
    one.begin()
    inner = sys.unraisablehook

    def outer(each):
        inner(each)

    monkeypatch.setattr(sys, "unraisablehook", outer)
    one.end()
    assert sys.unraisablehook is outer
    two.begin()
    unraisable(lambda: 1 / 0)
    two.end()
    assert len(printed) == 1
    assert sys.unraisablehook is outer


def test_the_hook_is_put_back_after_the_last(printed):
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    before, filters = sys.unraisablehook, [[*logger.filters] for logger in loggers]
    one, two = Silence(), Silence()
    one.begin()
    two.begin()
    one.end()
    assert sys.unraisablehook is not before
    two.end()
    assert sys.unraisablehook is before
    assert [logger.filters for logger in loggers] == filters


def test_a_folder_that_became_a_file_raises_at_once_and_leaves_no_threads(tmp_path, caplog):
    """Where Orbax made folders in the background its threads waited for them for minutes."""
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        folder.rmdir()
        folder.write_text("")
        with pytest.raises(CheckpointError, match="Step 1 could not be saved"):
            checkpoints.save(1, {}, None, {})
        assert not [each for each in threading.enumerate() if "orbax" in type(each).__module__]
        folder.unlink()
    assert caplog.records == []


def full_disk(*_, **__):
    raise OSError(28, "No space left on device")


def test_what_is_left_of_a_failed_save_does_not_disturb_the_end(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints.manager, "save", full_disk)
    with pytest.raises(CheckpointError, match="Step 1 could not be saved"):
        checkpoints.save(1, {}, None, {})
    calls = [full_disk, checkpoints.manager.close]

    def close():
        calls.pop(0)()

    monkeypatch.setattr(checkpoints.manager, "close", close)
    checkpoints.close()
    assert calls == []


def test_a_failure_at_the_end_that_nobody_was_told_of_is_one(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints.manager, "close", full_disk)
    with pytest.raises(CheckpointError, match=r"could not be saved .*No space left on device"):
        checkpoints.close()


def test_a_reason_is_told_of_once_until_a_save_succeeds():
    failures = Failures()
    full = [CheckpointError(f"Step {step} could not be saved (disk full).") for step in (5, 10)]
    assert failures.is_new(full[0], None)
    assert not failures.is_new(full[1], None)
    assert failures.is_new(CheckpointError("Step 10 could not be saved (read-only)."), None)
    assert not failures.are_over(None)
    assert failures.are_over(15)
    assert not failures.are_over(15)
    assert failures.is_new(full[0], 15)


def test_going_back_to_an_older_step_is_no_success():
    failures = Failures()
    assert failures.is_new(CheckpointError("full"), 4)
    assert not failures.are_over(2)
