"""The task of predicting the next token: what goes together, what it counts, and its scores."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from flax import nnx

from deqjax import data
from deqjax.data import DataError, Vocabulary
from deqjax.models import (
    DEQTransformerLM,
    DEQTrellisNetLM,
    LanguageShape,
    SolverSettings,
    TransformerShape,
    TransformerXL,
)
from deqjax.tasks.language import LanguageNetwork, LanguageTask, Text
from deqjax.tasks.language._batches import Segments
from deqjax.training import BatchOrder, ConfigError
from tiny import with_parts

WRITTEN = "to be or not to be, that is the question\n" * 40
SHAPE = TransformerShape(length=8, width=8, heads=2, hidden=16)
TASK = LanguageTask(network=LanguageNetwork(depth=3, shape=SHAPE))


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Of a text of 18 characters."""
    folder = tmp_path_factory.mktemp("language")
    (folder / "text.txt").write_text(WRITTEN)
    file, directory = str(folder / "text.txt"), str(folder / "datasets")
    return dataclasses.replace(TASK, text=Text("text_characters", file=file, directory=directory))


@pytest.fixture(scope="module")
def opened(task):
    return task.opened(None)


def of(vocabulary):
    return TASK.opened({"vocabulary": vocabulary.to_dict()})


# fields that go together


def test_what_goes_together_passes():
    TASK.check()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"network__shape__heads": 3},
            r"--task\.network\.shape\.width 8 .* multiple of --task\.network\.shape\.heads 3",
        ),
        (
            {"text__corpus": "text_bytes"},
            r"--task\.text\.corpus text_bytes needs a text file: give --task\.text\.file",
        ),
        (
            {"network__solver__adjoint": "reversible"},
            r"--task\.network\.solver\.adjoint: .* needs the method 'reversible', got 'anderson'",
        ),
        (
            {"network__solver__adjoint": "shine"},
            r"--task\.network\.solver\.adjoint: .* needs the method 'broyden', got 'anderson'",
        ),
        (
            {"network__solver": SolverSettings(method="reversible", damping=1.0)},
            r"--task\.network\.solver\.damping: .* needs a damping below 1, got 1",
        ),
    ],
    ids=["heads", "file", "reversible", "shine", "damping"],
)
def test_what_does_not_go_together_is_named(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        with_parts(TASK, **changes).check()


def test_a_network_without_attention_has_any_width():
    with_parts(TASK, network__kind="deq_trellisnet", network__shape__heads=3).check()


def test_what_may_change_when_a_run_goes_on_is_there():
    for name in LanguageTask.resumable:
        part = LanguageTask()
        for field in name.split("."):
            assert field in {each.name for each in dataclasses.fields(part)}, name
            part = getattr(part, field)


# the vocabulary


def test_the_vocabulary_is_counted(task, opened):
    assert opened.vocabulary == Vocabulary.of_characters(WRITTEN)
    assert opened.network.shape.vocabulary == len(set(WRITTEN))
    # the rest is as it was
    assert with_parts(opened.network, shape__vocabulary=None) == task.network
    assert opened.text == task.text


def test_a_larger_vocabulary_stays(task):
    larger = with_parts(task, network__shape__vocabulary=64)
    assert larger.opened(None).network.shape.vocabulary == 64


def test_a_vocabulary_smaller_than_the_corpus_is_refused(task):
    small = with_parts(task, network__shape__vocabulary=5)
    sentence = rf"vocabulary must be at least {len(set(WRITTEN))} for the characters .* got 5"
    with pytest.raises(ConfigError, match=sentence):
        small.opened(None)


def test_a_kept_vocabulary_does_not_need_the_text(opened):
    """Not before its rows are asked for, which name what is missing."""
    kept = json.loads(json.dumps(opened.keeps()))
    gone = with_parts(TASK, text__corpus="text_characters", text__file="absent.txt").opened(kept)
    assert gone.vocabulary == opened.vocabulary
    assert gone.network == opened.network
    with pytest.raises(DataError, match=r"absent\.txt"):
        gone.data("train")


# the network


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("deq_transformer", DEQTransformerLM),
        ("deq_trellisnet", DEQTrellisNetLM),
        ("transformer_xl", TransformerXL),
    ],
)
def test_the_kind_decides_the_network(kind, model):
    shape = dataclasses.replace(SHAPE, vocabulary=7)
    built = built_by(with_parts(TASK, network__kind=kind, network__shape=shape))
    assert type(built) is model
    assert built.shape == shape
    assert LanguageNetwork(kind).solves == (model is not TransformerXL)
    if model is TransformerXL:
        assert len(built.layers) == 3


def built_by(task):
    return nnx.eval_shape(lambda: task.model(nnx.Rngs(0)))


def test_sizes_that_no_network_has_are_named():
    wrong = with_parts(TASK, network__shape__vocabulary=7, network__shape__cutoffs=(9,))
    with pytest.raises(ConfigError, match=r"^--task\.network: .*cutoffs"):
        built_by(wrong)


def test_a_network_has_a_memory_where_its_length_is_given():
    def memory(**changes):
        task = with_parts(of(Vocabulary.of_characters("abc")), **changes)
        return jax.eval_shape(lambda: task.memory(task.model(nnx.Rngs(0)), 4))

    assert memory() is None
    assert memory(network__shape__memory_length=5).states.shape == (4, 5, 8)


def test_losses_are_those_of_each_next_token():
    """The loss of a row does not depend on what counts; weights say that."""
    explicit = LanguageNetwork("transformer_xl", 1, dataclasses.replace(SHAPE, vocabulary=3))
    task = LanguageTask(network=explicit)
    tokens = np.random.default_rng(0).integers(0, 3, (2, 9))
    scored = np.ones((2, 8), bool)
    scored[1, 5:] = False

    @jax.jit
    def both():
        model = task.model(nnx.Rngs(0))
        batch = Segments(tokens, np.ones(2, bool), scored)
        states = model(tokens[:, :-1]).states
        return task.loss(model, batch), model.log_probabilities(states)

    loss, expected = both()
    wanted = -np.take_along_axis(np.asarray(expected), tokens[:, 1:, None], axis=2)[..., 0]
    np.testing.assert_allclose(loss.losses, wanted, rtol=1e-5)
    np.testing.assert_array_equal(loss.weights, scored)
    assert loss.memory is None


def test_tokens_are_what_is_counted_each_second():
    assert TASK.throughput(5) == ("tokens", 40)


def test_a_model_that_was_built_elsewhere_decides_kind_and_sizes():
    explicit = with_parts(
        TASK, network__kind="transformer_xl", network__depth=2, network__shape__vocabulary=9
    )
    assert TASK.adopt(built_by(explicit)) == explicit
    solved = with_parts(explicit, network__kind="deq_transformer")
    # the depth is that of the explicit baseline alone
    assert TASK.adopt(built_by(solved)) == with_parts(solved, network__depth=3)


def test_a_trellisnet_is_adopted_with_the_sizes_that_it_has():
    shape = LanguageShape(vocabulary=9, width=12, length=6)
    model = nnx.eval_shape(lambda: DEQTrellisNetLM(shape, SolverSettings(), rngs=nnx.Rngs(0)))
    network = TASK.adopt(model).network
    assert network.kind == "deq_trellisnet"
    assert (network.shape.vocabulary, network.shape.width, network.shape.length) == (9, 12, 6)
    assert network.shape.heads == SHAPE.heads
    assert network.solver == TASK.network.solver


def test_what_is_no_language_model_is_not_adopted():
    with pytest.raises(
        ConfigError, match=r"a LanguageTask trains DEQ-Transformers.* not a Dropout"
    ):
        TASK.adopt(nnx.Dropout(0.5))


# the data


def test_splits_are_those_of_the_text(opened):
    decode = opened.vocabulary.decode
    train, validation = (opened.data(split).tokens for split in ("train", "validation"))
    assert decode(train.tolist()) + decode(validation.tolist()) == WRITTEN
    assert opened.data("train").describe() == f"{len(train):,} characters of text"


def test_a_text_of_ones_own_has_no_test_split(opened):
    assert opened.data("test") is None


def test_rows_have_the_networks_length(opened):
    assert next(opened.data("train").train(BatchOrder(4))).rows.tokens.shape == (4, 9)


def test_a_memory_needs_the_order_of_the_text(opened):
    rows = with_parts(opened, network__shape__memory_length=4).data("train")
    with pytest.raises(DataError, match=r"memory_length needs --order given"):
        rows.train(BatchOrder(4))
    rows.train(BatchOrder(4, shuffled=False))


# scores


@pytest.mark.parametrize(
    ("vocabulary", "units"),
    [
        (Vocabulary.of_bytes(), {"loss": 2.0, "bits_per_byte": 2 / math.log(2)}),
        (Vocabulary.of_words("to be"), {"loss": 2.0, "perplexity": math.exp(2)}),
        (Vocabulary.of_characters("to be"), {"loss": 2.0}),
    ],
    ids=["bytes", "words", "characters"],
)
def test_a_loss_has_the_units_of_its_tokens(vocabulary, units):
    assert of(vocabulary).in_units(2.0) == pytest.approx(units)


def test_a_hopeless_perplexity_is_a_number():
    assert math.isfinite(of(Vocabulary.of_words("to be")).in_units(1e4)["perplexity"])


@pytest.mark.parametrize("shuffled", [True, False], ids=["shuffled", "given"])
def test_a_bigram_model_stands_beside_the_scores(opened, shuffled):
    """On the very tokens that are scored, one by one here."""
    order = BatchOrder(3, shuffled=shuffled)
    batches = [batch.rows for batch in opened.data("validation").evaluate(order)]
    table = data.fit_bigram(opened.corpus.train)
    bits = [
        -table[row[k], row[k + 1]]
        for each in batches
        for row, scored in zip(each.tokens, each.scored, strict=True)
        for k in range(8)
        if scored[k]
    ]
    expected = {"bigram_loss": pytest.approx(math.log(2) * sum(bits) / len(bits))}
    assert opened.baselines(iter(batches)) == expected


def test_a_bigram_model_needs_few_tokens():
    many = of(Vocabulary.of_characters("".join(map(chr, range(300)))))
    assert many.bigram is None
    assert many.baselines(iter([])) == {}


def test_a_task_built_on_it_stays_what_it_is(task):
    class Halved(LanguageTask):
        def in_units(self, loss):
            return {"loss": loss / 2}

    opened = Halved(task.network, task.text).opened(None)
    assert opened.in_units(3.0) == {"loss": 1.5}
