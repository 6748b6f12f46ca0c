"""What a run's metrics say of its task, and what of its solves."""

import pytest

from deqjax._scores import class_scores, scores, throughput, words_of_score

RECORD = {
    "loss": 1.0,
    "forward_steps": 3.0,
    "spectral_radius_max": 1.0,
    "f1": 0.5,
    "f1/cat": 0.25,
    "top1": 0.5,
    "scored": 64.0,
    "tolerance": 1e-3,
    "steps_per_second": 3.0,
    "graphs_per_second": 9.0,
    "host_memory_gib": 1.0,
}


def test_scores_are_what_the_engine_does_not_measure():
    assert scores(RECORD) == ["f1", "top1"]
    assert class_scores(RECORD) == ["f1/cat"]
    assert scores([]) == class_scores([]) == []


def test_what_is_given_in_bits_is_not_given_in_nats():
    names = ["loss", "bits_per_byte", "bigram_loss", "bigram_bits_per_byte", "other_loss"]
    assert scores(names) == ["bits_per_byte", "bigram_bits_per_byte", "other_loss"]
    assert scores(names, loss="bits_per_byte") == ["bigram_bits_per_byte", "other_loss"]


@pytest.mark.parametrize(
    ("names", "found"),
    [(RECORD, "graphs_per_second"), (["steps_per_second"], None), ([], None)],
)
def test_throughput_is_what_a_task_counts(names, found):
    assert throughput(names) == found


def test_unknown_scores_are_called_by_their_names():
    assert words_of_score("my_score") == ("my score", ".4g")
    assert words_of_score("top1") == ("accuracy", ".2%")
