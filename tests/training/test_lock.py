"""One run, one owner: on this machine, on others, after a crash, and at the same moment."""

import dataclasses
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from deqjax.training import _lock
from deqjax.training._lock import InUseError, Lock, is_locked, sees_lock
from deqjax.training._owner import Owner
from deqjax.training._workdir import WorkdirError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Signs of life that come, and count, within fractions of a second."""
    monkeypatch.setattr(_lock, "BEAT", 0.05)
    monkeypatch.setattr(_lock, "SILENCE", 0.4)
    monkeypatch.setattr(_lock, "_POLL", 0.01)


@pytest.fixture
def process():
    """A process that lives."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as found:
        yield found
        found.kill()


def owner_in(process):
    """What a process on this machine writes in its lock."""
    this = Owner.this()
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    started = int(stat.rpartition(")")[2].split()[19])
    return dataclasses.replace(this, process=process.pid, started=started, token="other")


def elsewhere():
    """What a process on another machine writes in its lock."""
    return dataclasses.replace(Owner.this(), host="node7", process=4242, kernel="?", token="other")


def leave(folder, owner, number=1, age=0.0):
    """Leave a lock behind that was touched for the last time some seconds ago."""
    (folder / "lock").mkdir(parents=True, exist_ok=True)
    place = folder / "lock" / str(number)
    place.write_bytes(owner if isinstance(owner, bytes) else owner.written())
    os.utime(place, (time.time() - age,) * 2)
    return place


def acquired(folder, say=lambda line: None):
    lock = Lock(folder, say)
    lock.acquire()
    return lock


def refused(folder, *words):
    with pytest.raises(InUseError, match=".*".join(map(re.escape, words))):
        acquired(folder)


def locks(folder):
    return sorted(place.name for place in (folder / "lock").iterdir())


def test_a_folder_is_locked_until_it_is_released(tmp_path):
    lock = acquired(tmp_path / "run")
    assert is_locked(tmp_path / "run")
    refused(tmp_path / "run", "run is in use by process", f"{os.getpid()} on ", "another --workdir")
    lock.release()
    assert list((tmp_path / "run").iterdir()) == []
    acquired(tmp_path / "run").release()


def test_a_process_that_lives_is_named(tmp_path, process):
    owner = owner_in(process)
    leave(tmp_path, owner, age=1000)  # suspended, perhaps
    refused(tmp_path, f"is in use by process {process.pid} on {owner.host} (since {owner.since})")


@pytest.mark.parametrize("reaped", [True, False])
def test_a_process_that_was_killed_blocks_nobody(tmp_path, process, reaped):
    leave(tmp_path, owner_in(process))
    process.kill()
    if reaped:
        process.wait()
    else:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    started = time.monotonic()
    acquired(tmp_path).release()
    assert time.monotonic() - started < _lock.SILENCE  # looked up, not waited for


def test_the_number_of_a_process_may_be_used_again(tmp_path, process):
    leave(tmp_path, dataclasses.replace(owner_in(process), started=7))
    acquired(tmp_path).release()


def test_a_sign_of_life_from_another_machine_is_waited_for(tmp_path):
    place, said = leave(tmp_path, elsewhere()), []
    threading.Timer(0.1, os.utime, [place]).start()
    with pytest.raises(InUseError, match=r"in use by process 4242 on node7 \(since "):
        acquired(tmp_path, said.append)
    assert re.search(r"was in use by process 4242 on node7 .*: waiting up to .* sign of", said[0])


@pytest.mark.parametrize("age", [0.0, 1000.0])
@pytest.mark.parametrize("content", [elsewhere(), b"", b'{"host": "no', b"[" * 100_000, b"{}"])
def test_silence_from_another_machine_is_an_end(tmp_path, age, content):
    leave(tmp_path, content, age=age)
    started = time.monotonic()
    acquired(tmp_path).release()
    waited = time.monotonic() - started
    # not at once, however long it was silent: it may just have come back with its file system
    assert waited > 2 * _lock.BEAT
    assert age or waited > _lock.SILENCE


def test_an_owner_gives_signs_of_life(tmp_path):
    lock = acquired(tmp_path)
    place = tmp_path / "lock" / "1"
    os.utime(place, (0, 0))
    until = time.monotonic() + 5
    while place.stat().st_mtime == 0:
        assert time.monotonic() < until
        time.sleep(0.01)
    lock.release()


def test_of_many_that_take_a_lock_over_at_the_same_moment_one_has_it(tmp_path):
    leave(tmp_path, dataclasses.replace(Owner.this(), process=2**22 + 1))  # too large to live
    together, found = threading.Barrier(6), []

    def take():
        together.wait()
        try:
            found.append(acquired(tmp_path))
        except InUseError:
            found.append(None)

    threads = [threading.Thread(target=take) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lock,) = [each for each in found if each is not None]
    assert len(found) == 6
    assert locks(tmp_path) == ["2"]
    lock.release()


def test_who_was_taken_for_dead_ends(tmp_path):
    lock = acquired(tmp_path)
    lock.check()
    leave(tmp_path, elsewhere(), number=2)
    time.sleep(_lock.SILENCE)  # suspended: not even its thread has looked, as far as it knows
    with pytest.raises(WorkdirError, match="was taken over by process 4242 on node7"):
        lock.check()
    lock.release()
    assert (tmp_path / "lock" / "2").exists()


def test_a_lock_that_was_deleted_comes_back(tmp_path):
    lock = acquired(tmp_path)
    (tmp_path / "lock" / "1").unlink()
    until = time.monotonic() + 5
    while not sees_lock(tmp_path, lock.token):
        assert time.monotonic() < until
        time.sleep(0.01)
    lock.check()
    lock.release()


def test_other_processes_see_the_same_folder(tmp_path):
    lock = acquired(tmp_path / "run")
    assert sees_lock(tmp_path / "run", lock.token)
    leave(tmp_path / "same name elsewhere", elsewhere())
    assert not sees_lock(tmp_path / "same name elsewhere", lock.token)
    assert not sees_lock(tmp_path / "absent", lock.token)
    lock.release()
