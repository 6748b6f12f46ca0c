"""A text that is edited after the training: what a token stands for stays what it was."""

import dataclasses
import shutil

import pytest

from deqjax import cli, training
from deqjax.data import DataError
from deqjax.training import CheckpointError
from deqjax.training._stored_config import stored_config
from tiny import tiny_config, with_parts

TEXT = "bcd efg hij\n" * 300


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_directory):
    """A run of one step, the text it was trained on, and what it says of it."""
    folder = tmp_path_factory.mktemp("changed")
    (folder / "text.txt").write_text(TEXT)
    config = with_parts(
        tiny_config(data_directory, steps=1),
        # nothing here depends on the model: the one that compiles fastest
        task__network__kind="transformer_xl",
        task__network__depth=1,
        task__text__corpus="text_characters",
        task__text__file=str(folder / "text.txt"),
        evaluation__radius_batches=0,
        penalty__weight=0.0,
    )
    training.train(config, folder / "run", say=lambda line: None)
    return folder


@pytest.fixture
def place(trained):
    """The same, the text put back afterwards."""
    yield trained
    (trained / "text.txt").write_text(TEXT)


def generated(place, capsys):
    assert cli.main(["generate", str(place / "run"), "bcd", "--count", "12"]) == 0
    return capsys.readouterr().out


def resumed(place, tmp_path):
    shutil.copytree(place / "run", tmp_path / "run")
    config = dataclasses.replace(stored_config(place / "run"), steps=2)
    return training.train(config, tmp_path / "run", resume=True, say=lambda line: None)


@pytest.mark.parametrize("text", ["a" + TEXT, "short", None], ids=["new", "other", "gone"])
def test_generation_does_not_need_the_text(place, text, capsys):
    before = generated(place, capsys)
    if text is None:
        (place / "text.txt").unlink()
    else:
        (place / "text.txt").write_text(text)
    assert generated(place, capsys) == before


def test_symbols_that_the_run_knows_keep_their_numbers(place):
    """Without "b", counted anew every number would be another."""
    (place / "text.txt").write_text(TEXT.replace("b", ""))
    assert training.evaluate_run(place / "run")["scored"] == 64
    corpus = training.load_run(place / "run").task.corpus
    assert corpus.vocabulary.decode(corpus.train[:7].tolist()) == "cd efg "
    assert corpus.vocabulary.size == 11


def test_scores_of_a_text_with_new_symbols_are_refused(place, capsys):
    (place / "text.txt").write_text("a" + TEXT)
    assert cli.main(["evaluate", str(place / "run")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "the text has changed since its vocabulary was counted" in line
    assert "no character 'a' (U+0061)" in line


def test_scores_of_a_text_that_is_gone_name_it(place, capsys):
    (place / "text.txt").unlink()
    assert cli.main(["evaluate", str(place / "run")]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert str(place / "text.txt") in line


def test_a_run_does_not_go_on_with_another_text(place, tmp_path):
    (place / "text.txt").write_text("e" + TEXT)
    with pytest.raises(CheckpointError, match=r'trained on other data \(tokens: "\w+" -> "\w+"\)'):
        resumed(place, tmp_path)


def test_a_run_does_not_go_on_with_symbols_that_it_does_not_know(place, tmp_path):
    (place / "text.txt").write_text("a" + TEXT)
    with pytest.raises(DataError, match="the text has changed since its vocabulary was counted"):
        resumed(place, tmp_path)


def test_it_goes_on_with_its_own(place, tmp_path):
    ended = resumed(place, tmp_path)
    assert ended.step == 2
    assert ended.task.prompt == "b"
