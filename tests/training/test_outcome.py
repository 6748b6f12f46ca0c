"""Printed, an outcome says how the run ended."""

import signal
from pathlib import Path

import pytest

from deqjax.training import Outcome
from deqjax.training._workdir import Workdir

SCORES = {"loss": 1.25, "bits_per_byte": 2.5, "gradient_norm": 3.0}


def outcome(**changes):
    ended = Outcome(Workdir(Path("runs/one")), 500, 12345, SCORES, 61.2, None)
    return ended._replace(**changes)


def test_a_finished_run_names_its_scores_and_its_folder():
    assert repr(outcome()) == (
        "Outcome(run: finished at step 500 after 61 s; parameters: 12,345; loss: 1.25; "
        "bits_per_byte: 2.5; folder: runs/one)"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stopped_by": signal.SIGTERM, "metrics": None}, "stopped by SIGTERM at step 500"),
        ({"rescued": Path("saved/here")}, "last state rescued to: saved/here"),
    ],
    ids=["stopped", "rescued"],
)
def test_what_went_otherwise_is_said(changes, words):
    assert words in repr(outcome(**changes))
    assert words.split(": ")[-1] in outcome(**changes)._repr_html_()
