"""How the script about failing processes judges what it saw; the processes take minutes."""

import importlib
import os
import socket
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "experiments" / "benchmarks"
TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1
   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 222 1
   2: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 333 1
"""


@pytest.fixture
def load(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def peer_failures(load):
    return load("peer_failures")


def seen(**changes):
    fields = {
        "statuses": {0: 1, 1: -9},
        "seconds": 4.0,
        "errors": {0: "process 1 is gone", 1: None},
        "tracebacks": 0,
        "sockets": {0: ["127.0.0.1:80"], 1: ["[::1]:81"]},
    }
    return {**fields, **changes}


@pytest.mark.parametrize(
    ("changes", "objection"),
    [
        ({}, None),
        ({"statuses": {0: 0, 1: -9}}, "process 0 ended with 0, not 1"),
        ({"statuses": {0: None, 1: -9}}, "process 0 ended with None, not 1"),
        ({"errors": {0: "something broke", 1: None}}, "process 0 does not say 'process 1'"),
        ({"errors": {0: None, 1: None}}, "process 0 does not say 'process 1'"),
        ({"seconds": 16.0}, "took 16.0 s, not 15 at most"),
        ({"tracebacks": 1}, "a traceback"),
        ({"sockets": {0: [], 1: ["0.0.0.0:80"]}}, "listens at 0.0.0.0:80"),
    ],
)
def test_objections(peer_failures, changes, objection):
    case = peer_failures.Case("killed", (1, -9), 15.0, ("process 1", None))
    expected = [] if objection is None else [objection]
    assert peer_failures.objections(case, seen(**changes)) == expected


def test_every_case_expects_something(peer_failures):
    cases = peer_failures.cases()
    assert len({case.name for case in cases}) == len(cases)
    for case in cases[1:]:
        ends = [case.statuses[index] is not None for index in case.started]
        assert any(ends), case.name
        assert case.within < peer_failures.LIMIT, case.name
        fails = any(case.statuses[index] == 1 for index in case.started)
        assert fails == any(case.says), case.name


def test_the_first_sentence_and_the_last_lines_are_told(peer_failures):
    output = "step 1\rstep 2\n\ndeqjax: error: one.\nmore\ndeqjax: error: two.\n"
    assert peer_failures.error_of(output) == "one."
    assert peer_failures.last_lines(output) == ["more", "deqjax: error: two."]
    assert peer_failures.last_lines("a\rb\r\n") == ["a", "b"]


def test_only_listening_sockets_are_found(load):
    found = load("sockets").listeners(TABLE)
    assert found == [("111", "127.0.0.1:8080"), ("222", "0.0.0.0:22")]


@pytest.mark.parametrize(
    ("text", "address", "loopback"),
    [
        ("0100007F:1F90", "127.0.0.1:8080", True),
        ("00000000:0016", "0.0.0.0:22", False),
        ("00000000000000000000000001000000:0050", "[::1]:80", True),
        ("00000000000000000000000000000000:0050", "[::]:80", False),
        ("0000000000000000FFFF00000100007F:0050", "[::ffff:127.0.0.1]:80", True),
    ],
)
def test_addresses_are_read_backward(load, text, address, loopback):
    sockets = load("sockets")
    assert sockets.address_of(text).replace("7f00:1", "127.0.0.1") == address
    assert sockets.is_loopback(sockets.address_of(text)) is loopback


def test_own_listening_socket_is_found(load):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        assert not load("sockets").listening(os.getpid())
        server.listen()
        wanted = f"127.0.0.1:{server.getsockname()[1]}"
        assert load("sockets").listening(os.getpid()) == {wanted}


def test_a_process_that_is_gone_listens_nowhere(load):
    assert load("sockets").listening(2**22 + 1) == set()


def test_a_free_port_can_be_listened_at(peer_failures):
    with socket.socket() as server:
        server.bind(("127.0.0.1", peer_failures.free_port()))
