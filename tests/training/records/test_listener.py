import pytest

from deqjax.training._workdir import Workdir
from deqjax.training.records import Listener, Records, as_listener, read_metrics


def deaf(calls):
    def say(sentence):
        calls.append(sentence)
        raise BrokenPipeError(32, "Broken pipe")

    return say


def test_one_that_fails_is_not_spoken_to_again():
    calls = []
    listener = Listener(deaf(calls))
    listener("one")
    listener("two")
    assert calls == ["one"]
    assert listener.failure.errno == 32


def test_other_errors_are_the_users():
    def say(sentence):
        raise ValueError(sentence)

    with pytest.raises(ValueError, match="one"):
        Listener(say)("one")


def test_a_name_that_the_terminal_cannot_say_is_spelt():
    heard = []

    def say(sentence):
        sentence.encode("ascii")
        heard.append(sentence)

    Listener(say)("run in é")
    assert heard == [r"run in \xe9"]


def test_a_listener_stays_the_same():
    listener = Listener(print)
    assert as_listener(listener) is listener


def test_the_records_note_the_failure_once(tmp_path, capsys):
    calls = []
    workdir = Workdir(tmp_path)
    with Records(workdir, first=True, steps=9, resumed=None, say=deaf(calls)) as records:
        records.event(1, "something")
        for step in (1, 2):
            records.show(step, {})
            records.event(step, "something else")
    found = [(record["step"], record["event"]) for record in read_metrics(workdir.metrics)]
    assert calls == ["step 1: something"]
    assert [step for step, event in found if "cannot be written (Broken pipe)" in event] == [1]
    assert len(found) == 4


def test_a_failure_before_the_first_step_is_noted_too(tmp_path):
    listener = Listener(deaf([]))
    listener("begins")
    workdir = Workdir(tmp_path)
    with Records(workdir, first=True, steps=9, resumed=None, say=listener):
        pass
    [record] = read_metrics(workdir.metrics)
    assert "cannot be written (Broken pipe)" in record["event"]
