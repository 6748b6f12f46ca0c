"""Text of a run: the prompt as it is read, the pieces, and what is refused before anything runs."""

import pytest
from flax import nnx

from deqjax import training
from deqjax.models import TransformerXL
from deqjax.tasks.language import generate_text
from tiny import tiny_config, with_parts

WORDS = "to be or not to be , that is the question\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory, data_directory):
    """Of words: an explicit model that nobody has trained."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "text.txt").write_text(WORDS * 40)
    config = with_parts(
        tiny_config(data_directory),
        task__network__kind="transformer_xl",
        task__network__depth=1,
        task__text__corpus="text_words",
        task__text__file=str(folder / "text.txt"),
    )
    task = config.task.opened(None)
    model = TransformerXL(task.network.shape, 1, rngs=nnx.Rngs(0))
    return training.adopt_model(model, config, folder / "run").path


def test_a_prompt_is_shown_as_the_model_reads_it(run):
    text = generate_text(run, "to   be  whatever", count=1)
    assert text.prompt == "to be <unk>"


def test_pieces_are_words_of_the_vocabulary(run):
    text = generate_text(run, "to be", count=6)
    written = "".join(text)
    assert len(text.prompt.split()) == 2
    assert set(written.split()) <= {*WORDS.split(), "<unk>"}
    # the end of a line is a token too
    assert len(written.split()) + written.count("\n") == 6
    # and an explicit model solves nothing
    assert text.steps == []
    assert text.steps_without_warm_start() == []


def test_its_pace_is_told_after_the_first_token(run):
    text = generate_text(run, "to be", count=3)
    assert text.tokens_a_second is None
    assert "".join(text)
    assert text.tokens_a_second > 0
    assert text.tokens_a_second_without_cache() > 0
    single = generate_text(run, "to be", count=1)
    assert "".join(single)
    assert single.tokens_a_second is None


def test_it_is_generated_once(run):
    text = generate_text(run, "to be", count=2)
    assert "".join(text)
    assert "".join(text) == ""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"count": -1}, "tokens to generate must not be negative, got -1"),
        ({"temperature": -1.0}, "temperature .*-1"),
        ({"top_p": 2.0}, "top_p .*2"),
        ({"prompt": ""}, "prompt"),
    ],
    ids=["seed", "count", "temperature", "top_p", "prompt"],
)
def test_what_makes_no_sense_is_refused(run, options, sentence):
    with pytest.raises(training.ConfigError, match=sentence):
        generate_text(run, **({"prompt": "to be", "count": 1} | options))
