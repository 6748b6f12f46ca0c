"""The watchdog and the agreement of processes, with a store in this very process."""

import threading
import time

import jax
import pytest

from deqjax.training import CheckpointError
from deqjax.training.devices import _watchdog
from deqjax.training.devices._peers import ClusterOptions, PeerError, Peers, join
from deqjax.training.devices._watchdog import Watchdog


class Ended(BaseException):
    """Stands for the end of a process."""


class Store:
    """What the key-value store of jax.distributed does, among threads."""

    def __init__(self):
        self.values, self.changed = {}, threading.Condition()

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.changed:
            assert allow_overwrite or key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def key_value_dir_get(self, prefix):
        with self.changed:
            return [(key, value) for key, value in self.values.items() if key.startswith(prefix)]

    def blocking_key_value_get(self, key, milliseconds):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, milliseconds / 1000):
                raise jax.errors.JaxRuntimeError("DEADLINE_EXCEEDED: no such key")
            return self.values[key]

    def wait_at_barrier(self, name, milliseconds):
        del name, milliseconds


@pytest.fixture
def ended(monkeypatch):
    """The sentences that processes ended with."""
    found = []

    def end(status):
        assert status == 1
        raise Ended

    monkeypatch.setattr(_watchdog, "say", found.append)
    monkeypatch.setattr(_watchdog.os, "_exit", end)
    monkeypatch.setattr(_watchdog, "_INTERVAL", 0.01)
    monkeypatch.setattr(_watchdog, "_LINGER", 0.0)
    monkeypatch.setattr(_watchdog, "explain_aborts", lambda index, saying: None)
    return found


def watch(store, seconds, *, index=0, heartbeat=60.0, deadline=60.0):
    """A watchdog looks after its two processes for some seconds, in this thread."""
    dog = Watchdog(store, index, 2, heartbeat, deadline)
    timer = threading.Timer(seconds, dog.stop)
    timer.start()
    try:
        dog.run()
    except Ended:
        timer.cancel()


def show(store, index, text):
    store.key_value_set(f"deqjax/alive/{index}", text, allow_overwrite=True)


def test_processes_that_live_and_move_are_left_alone(ended):
    store = Store()
    other = Watchdog(store, 1, 2, 60.0, 60.0)
    other.start()
    watch(store, 0.5, heartbeat=0.4)
    other.stop()
    other.join()
    assert ended == []


def test_a_dead_process_is_named(ended):
    store = Store()
    show(store, 1, "7|3|step 3")
    watch(store, 5, heartbeat=0.2)
    assert ended == ["process 1 gave no sign of life for 0.2 s; process 0 ends too"]


def test_a_process_that_never_came_is_named(ended):
    watch(Store(), 5, heartbeat=0.2)
    assert ended == ["process 1 gave no sign of life for 0.2 s; process 0 ends too"]


@pytest.mark.parametrize("index", [0, 1])
def test_the_one_furthest_behind_is_stuck(ended, index):
    """Both stand still, but process 0 waits at a later place; both say so, the stuck one too."""
    store = Store()
    places = {0: "4|step 4", 1: "3|step 3"}
    enough = threading.Event()

    def beat():
        count = 0
        while not enough.wait(0.01):
            count += 1
            show(store, 1 - index, f"{count}|{places[1 - index]}")

    other = threading.Thread(target=beat)
    other.start()
    dog = Watchdog(store, index, 2, 60.0, 0.3)
    for step in range(1, 5 - index):
        dog.progress(f"step {step}")
    with pytest.raises(Ended):
        dog.run()
    enough.set()
    other.join()
    assert ended == [
        f"process 1 made no progress for 0.3 s, stuck at step 3; process {index} ends too"
    ]


def test_an_error_elsewhere_is_told(ended):
    store = Store()
    store.key_value_set("deqjax/failed/1", "the disk is full")
    watch(store, 5)
    assert ended == ["process 1 ended with an error: the disk is full; process 0 ends too"]


def test_an_error_is_told_to_the_others(ended):
    store = Store()
    dog = Watchdog(store, 1, 2, 60.0, 60.0)
    with pytest.raises(Ended):
        dog.leave(CheckpointError("the disk is full."))
    assert store.values["deqjax/failed/1"] == "the disk is full"
    assert ended == ["the disk is full"]


def test_a_store_that_is_gone_was_in_process_0(ended):
    class Gone(Store):
        def key_value_set(self, *_, **__):
            raise jax.errors.JaxRuntimeError("UNAVAILABLE: socket closed")

    watch(Gone(), 5, index=1)
    assert ended == [
        "process 0, which coordinates the run, is gone (UNAVAILABLE: socket closed); process 1 "
        "ends too"
    ]


def test_a_pause_of_everything_is_nobodys_silence(ended):
    """As when a machine sleeps: for longer than a heartbeat nobody says anything."""
    store = Store()
    dog = Watchdog(store, 0, 2, 0.05, 60.0)
    for beat in range(4):
        show(store, 1, f"{beat}|0|step 1")
        dog._beats += 1
        dog._judge({}, dict(store.key_value_dir_get("deqjax/alive/")))
        time.sleep(0.2)
    assert ended == []


def test_a_store_that_does_not_answer_is_in_a_frozen_process_0(ended, monkeypatch):
    frozen = threading.Event()
    threads = []

    class Frozen(Store):
        def key_value_set(self, *_, **__):
            frozen.wait(2)

    monkeypatch.setattr(threading, "excepthook", lambda found: threads.append(found.exc_type))
    dog = Watchdog(Frozen(), 1, 2, 0.2, 60.0)
    dog.start()
    until = time.monotonic() + 2
    while not ended and time.monotonic() < until:
        time.sleep(0.01)
    dog.stop()
    frozen.set()
    dog.join()
    assert ended == [
        "process 0, which coordinates the run, gave no answer for 0.2 s; process 1 ends too"
    ]


@pytest.fixture
def pair(ended):
    """Two processes of a run."""
    store = Store()
    peers = [Peers(i, 2, store, ClusterOptions()) for i in range(2)]
    yield peers
    for each in peers:
        each.leave()
    assert ended == []


def test_equal_values_are_agreed_on(pair):
    for peers in pair:
        peers.agree("configuration", {"steps": 3, "shape": (1, 2)})


def test_other_values_are_refused_with_the_difference(pair):
    first, second = pair
    first.agree("configuration", {"model": {"width": 8}, "steps": 3})
    with pytest.raises(
        PeerError, match=r"process 1 has another configuration .*\(model.width: 8 -> 9\)"
    ):
        second.agree("configuration", {"model": {"width": 9}, "steps": 3})


def test_all_hear_what_process_0_says(pair):
    assert [peers.hear("a number", 7 - peers.index) for peers in pair] == [7, 7]


def test_waiting_in_vain_is_a_sentence(pair, monkeypatch):
    monkeypatch.setattr(Peers, "_milliseconds", 100)
    with pytest.raises(PeerError, match=r"process 1 waited in vain for the others \(a number\)"):
        pair[1].hear("a number", None)


def test_one_process_agrees_with_itself():
    alone = Peers()
    alone.agree("configuration", {"steps": 3})
    assert alone.hear("a number", 7) == 7
    assert alone.first


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_processes": 2}, "--num-processes 2 needs --coordinator HOST:PORT"),
        ({"coordinator": "host"}, "--coordinator must be HOST:PORT or auto, got 'host'"),
        ({"coordinator": "host:123456"}, "--coordinator must be HOST:PORT or auto, got 'host:123"),
        ({"coordinator": "auto", "join_timeout": 10**30}, "--join-timeout must be from 1 second"),
        ({"coordinator": "host:1"}, "needs --num-processes and --process-id"),
        (
            {"coordinator": "host:1", "num_processes": 2, "process_id": 2},
            "--process-id must lie in 0 to 1, got 2",
        ),
        (
            {"coordinator": "auto", "heartbeat": 0},
            "--heartbeat must be from 1 second",
        ),
    ],
)
def test_options_that_make_no_sense(options, sentence):
    with pytest.raises(PeerError, match=sentence):
        join(ClusterOptions(**options))
