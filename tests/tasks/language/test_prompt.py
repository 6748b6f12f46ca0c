"""A text to try a trained model with is one that its vocabulary knows."""

import shlex
from pathlib import Path

import pytest

from deqjax.cli._tables import print_outcome
from deqjax.data import Vocabulary
from deqjax.tasks.language import LanguageTask, Text
from deqjax.tasks.language._prompt import usual_prompt
from deqjax.training import Outcome, RunConfig, Workdir

RUSSIAN = "- Война и мир, том 1.\n- Мир и мир.\n"


@pytest.mark.parametrize(
    ("vocabulary", "prompt"),
    [
        (Vocabulary.of_bytes(), "the "),
        (Vocabulary.of_characters("then the end"), "the "),
        (Vocabulary.of_characters(RUSSIAN), "а"),
        (Vocabulary.of_characters("戦争と平和、 -"), "と"),
        (Vocabulary.of_characters("3-1 = 2\n"), "1"),
        (Vocabulary.of_characters("\n-"), "\n"),
        (Vocabulary.of_characters("-"), None),
        (Vocabulary.of_words("to the end"), "the "),
        (Vocabulary.of_words(RUSSIAN), "и"),
        (Vocabulary.of_words(RUSSIAN, limit=4), "и"),
    ],
    ids=[
        "bytes",
        "english",
        "russian",
        "japanese",
        "digits",
        "a_newline",
        "nothing",
        "words",
        "russian_words",
        "unknown_words",
    ],
)
def test_a_prompt_is_known(vocabulary, prompt):
    assert usual_prompt(vocabulary) == prompt
    if prompt is not None:
        assert vocabulary.encode(prompt).size
        assert vocabulary.decode(vocabulary.encode(prompt)).strip() == prompt.strip()


def test_the_hint_after_a_training_is_of_its_text(tmp_path, capsys):
    (tmp_path / "text.txt").write_text(RUSSIAN * 9)
    text = Text("text_characters", file=str(tmp_path / "text.txt"), directory=str(tmp_path))
    config = RunConfig("war", task=LanguageTask(text=text))
    opened = config.task.opened(None)
    outcome = Outcome(Workdir(Path("runs/a b")), 7, 1, {"loss": 1.0}, 1.0, None, task=opened)
    print_outcome(outcome, config, [])
    command = capsys.readouterr().out.strip().splitlines()[-1]
    assert shlex.split(command) == ["try:", "deqjax", "generate", "runs/a b", "а"]
    opened.vocabulary.encode(shlex.split(command)[-1])
