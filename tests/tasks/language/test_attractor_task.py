"""The task of attractor language models: what goes together, how fast the head learns, runs."""

import dataclasses
import fnmatch

import jax
import pytest
from flax import nnx

from deqjax import training
from deqjax.data import Vocabulary
from deqjax.models import AttractorLM, AttractorShape
from deqjax.tasks.language import (
    AttractorNetwork,
    AttractorTask,
    LanguageTask,
    Text,
    generate_text,
)
from deqjax.training import ConfigError
from tiny import tiny_config, with_parts

SHAPE = AttractorShape(length=8, width=8, heads=2, hidden=16, prelude_layers=1)
TASK = AttractorTask(network=AttractorNetwork(SHAPE))
SIZED = with_parts(TASK, network__shape__vocabulary=9)


def built_by(task):
    return nnx.eval_shape(lambda: task.model(nnx.Rngs(0)))


def names_of(task):
    state = nnx.state(built_by(task), nnx.Param)
    return [".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)]


def test_the_vocabulary_is_counted():
    vocabulary = Vocabulary.of_characters("abc")
    opened = TASK.opened({"vocabulary": vocabulary.to_dict()})
    assert opened.network.shape == dataclasses.replace(SHAPE, vocabulary=3)
    assert isinstance(built_by(opened), AttractorLM)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network__shape__heads": 3}, "--task.network.shape: width 8 must be a multiple"),
        ({"text__corpus": "text_bytes"}, "--task.text.corpus text_bytes needs a text file"),
        ({"network__solver__adjoint": "shine"}, "--task.network.solver.adjoint: .* 'broyden'"),
    ],
)
def test_what_does_not_go_together_is_named(changes, sentence):
    TASK.check()
    with pytest.raises(ConfigError, match=sentence):
        with_parts(TASK, **changes).check()


@pytest.mark.parametrize("options", [{}, {"gated": True, "bias": True, "tie_embeddings": False}])
def test_every_rule_divides_something(options):
    task = with_parts(SIZED, network__shape=dataclasses.replace(SIZED.network.shape, **options))
    names = names_of(task)
    for pattern in task.sharding():
        assert fnmatch.filter(names, pattern), pattern


def test_the_head_alone_has_a_rate_of_its_own():
    named = [name for name in names_of(SIZED) if fnmatch.fnmatchcase(name, "deq.*")]
    assert len(named) == len([name for name in names_of(SIZED) if "prelude" in name]) + 2
    assert dataclasses.replace(SIZED, head_rate=0.5).rates() == {"deq.*": 0.5}
    assert with_parts(SIZED, network__shape__head_layers=0, head_rate=0.5).rates() == {}


def test_the_network_is_adopted_and_no_other():
    model = built_by(SIZED)
    assert TASK.adopt(model) == SIZED
    computed = {"network__shape__dtype": "bfloat16", "network__shape__recompute": True}
    assert with_parts(TASK, **computed).adopt(model) == with_parts(SIZED, **computed)
    with pytest.raises(ConfigError, match=r"an AttractorTask trains attractor .* not a Dropout"):
        TASK.adopt(nnx.Dropout(0.5))
    with pytest.raises(ConfigError, match=r"a LanguageTask trains .* not a AttractorLM"):
        LanguageTask().adopt(model)


def test_rows_can_be_made_up():
    made = SIZED.example(3)
    assert made.tokens.shape == (3, 9)
    loss = jax.eval_shape(lambda: SIZED.loss(SIZED.model(nnx.Rngs(0)), made))
    assert loss.losses.shape == (3, 8)
    assert TASK.example(3) is None
    assert SIZED.memory(None, 3) is None
    assert SIZED.throughput(3) == ("tokens", 24)


def test_a_run_continues_a_text(data_directory, tmp_path):
    """Its training step is tested with the recipes."""
    task = dataclasses.replace(TASK, text=Text(directory=str(data_directory)))
    config = tiny_config(data_directory, task=task)
    shape = dataclasses.replace(SHAPE, vocabulary=256)
    model = AttractorLM(shape, rngs=nnx.Rngs(0))
    run = training.adopt_model(model, config, tmp_path / "run").path
    generated = generate_text(run, "the ", count=2)
    assert "".join(generated)
    # as published, six evaluations at least
    assert min(generated.steps) >= 5
    assert training.load_run(run).config.task.network.shape == shape
