"""Continuing a text position by position: the same as solving the whole text at once."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.models import (
    AttractorLM,
    AttractorShape,
    DEQTransformerLM,
    DEQTrellisNetLM,
    SolverSettings,
    TransformerShape,
    TransformerXL,
)
from deqjax.models import _generate as module
from deqjax.models._generate import generate, reread

LENGTH, MEMORY, VOCABULARY = 4, 3, 11
CAPACITY = MEMORY + LENGTH - 1
KEY = jax.random.key(0)
SETTINGS = SolverSettings(max_steps=60, tol=1e-6, history=2)
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]


def shape(vocabulary=VOCABULARY, **options):
    sizes = {"memory_length": MEMORY, "width": 8, "heads": 2, "hidden": 8, "weight_scale": 0.5}
    return TransformerShape(vocabulary, LENGTH, **(sizes | options))


def evaluated(model):
    model.eval()
    return model


@functools.cache
def build(kind, memory_length=MEMORY):
    sizes = shape(memory_length=memory_length)
    if kind == "explicit":
        return evaluated(TransformerXL(sizes, depth=2, rngs=nnx.Rngs(0)))
    if kind.startswith("attractor"):
        head = 0 if kind == "attractor without head" else 2
        sizes = AttractorShape(
            vocabulary=VOCABULARY,
            padded_vocabulary=VOCABULARY + 2,
            length=CAPACITY + 1,
            width=8,
            heads=2,
            key_heads=1,
            hidden=8,
            prelude_layers=2,
            head_layers=head,
        )
        return evaluated(AttractorLM(sizes, SETTINGS, rngs=nnx.Rngs(0)))
    if kind == "trellisnet":
        return evaluated(DEQTrellisNetLM(sizes, SETTINGS, rngs=nnx.Rngs(0)))
    return evaluated(DEQTransformerLM(sizes, SETTINGS, rngs=nnx.Rngs(0)))


@pytest.fixture(params=["equilibrium", "explicit"])
def model(request):
    return build(request.param)


@pytest.fixture
def equilibrium():
    return build("equilibrium")


@pytest.fixture
def explicit():
    return build("explicit")


def tokens_of(model, prompt=(1, 2), count=8, key=KEY, **options):
    return [drawn.token for drawn in generate(model, prompt, count, key=key, **options)]


@nnx.jit
def whole_text(model, tokens):
    return model.log_probabilities(model(tokens).states)


def log_probabilities(model, text):
    """Of the token after each position, from one solve of the whole text."""
    padded = jnp.asarray([text + [0] * (len(PROMPT) - len(text))], jnp.int32)
    return np.asarray(whole_text(model, padded))[0, : len(text)]


def recorded(monkeypatch):
    """The log-probabilities that tokens are drawn from, in a list that fills as they are drawn."""
    record, draw = [], module._draw

    def recording(graph, parameters, states, *options):
        record.append(nnx.merge(graph, parameters, copy=True).log_probabilities(states)[0, 0])
        return draw(graph, parameters, states, *options)

    monkeypatch.setattr(module, "_draw", recording)
    return record


@pytest.mark.parametrize(
    "kind", ["equilibrium", "explicit", "trellisnet", "attractor", "attractor without head"]
)
def test_position_by_position_is_the_whole_text_at_once(monkeypatch, kind):
    """As long as the first position can still be seen."""
    model = build(kind)
    record, prompt = recorded(monkeypatch), PROMPT[:2]
    continuation = tokens_of(model, prompt, CAPACITY, temperature=0.0)
    found = np.stack(record)[: CAPACITY - 1]
    wanted = log_probabilities(model, prompt + continuation[: CAPACITY - 2])[1:]
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    np.testing.assert_array_equal(continuation[: CAPACITY - 1], wanted.argmax(-1))


@pytest.mark.parametrize("kind", ["explicit", "attractor"])
def test_without_the_cache_the_text_is_the_same(kind):
    """As long as the first position can still be seen, however many tokens are padding."""
    model, prompt = build(kind), PROMPT[:2]
    options = {"count": CAPACITY - 1, "temperature": 0.0}
    assert tokens_of(model, prompt, cache=False, **options) == tokens_of(model, prompt, **options)
    again = list(reread(model, prompt, PROMPT, cache=False))  # and on, with the last that are seen
    assert [each.token for each in again] == PROMPT
    assert (again[0].steps is None) == (kind == "explicit")


@pytest.mark.parametrize("length", [1, LENGTH - 1, LENGTH, LENGTH + 1, 3 * LENGTH + 2])
def test_a_prompt_read_in_segments_is_one_read_token_by_token(monkeypatch, model, length):
    """Also where it is longer than what a position sees."""
    record, prompt = recorded(monkeypatch), PROMPT[:length]
    list(generate(model, prompt, 1, key=KEY))
    list(reread_one_by_one(model, prompt, record))
    np.testing.assert_allclose(record[0], record[1], atol=2e-5)


def reread_one_by_one(model, prompt, record):
    reader = module._reader(model, True, None, None)
    past = reader.nothing
    for token in prompt:
        past, states, _ = reader.read([token], past)
        yield token
    record.append(model.log_probabilities(states)[0, 0])


def test_a_position_sees_as_far_back_as_the_last_of_a_segment():
    """One layer deep: what has left the memory of a single layer is forgotten."""
    model = evaluated(TransformerXL(shape(), depth=1, rngs=nnx.Rngs(0)))

    def after(prompt):
        record = []
        list(reread_one_by_one(model, prompt, record))
        return np.asarray(record[0])

    text = PROMPT[: CAPACITY + 1]
    changed_first = [text[0] + 1, *text[1:]]
    assert np.abs(after(text) - after(changed_first)).max() > 1e-6
    np.testing.assert_array_equal(after([*text, 7]), after([*changed_first, 7]))


def test_generation_goes_on_when_the_memory_is_full(model):
    drawn = list(generate(model, PROMPT, 3 * CAPACITY, key=KEY))
    assert len(drawn) == 3 * CAPACITY
    assert all(0 <= each.token < VOCABULARY for each in drawn)


def test_warm_and_cold_starts_give_the_same_text(equilibrium):
    options = {"count": 12, "temperature": 0.0}
    assert tokens_of(equilibrium, **options) == tokens_of(equilibrium, warm_start=False, **options)


def steps(model, prompt, continuation, **options):
    """Solver steps of the last token of the prompt and of all of the continuation but its last."""
    return [each.steps for each in reread(model, prompt, continuation, **options)]


@functools.cache
def memoryless():
    """Without a memory a token has the same equilibrium wherever it stands."""
    return evaluated(DEQTransformerLM(shape(horizon=1), SETTINGS, rngs=nnx.Rngs(0)))


def test_a_warm_start_begins_where_the_token_last_occurred():
    warm = steps(memoryless(), [5], [6, 7, 5, 7, 1])
    assert min(warm[:3]) > 1 >= max(warm[3:])


def test_an_occurrence_in_a_segment_of_the_prompt_counts():
    prompt = [5, 6, 7, 8, 6]
    assert len(prompt) == LENGTH + 1
    assert steps(memoryless(), prompt, [1])[0] <= 1


def test_an_occurrence_after_the_same_token_is_preferred():
    reader = module._reader(memoryless(), True, None, None)
    past = reader.nothing
    for token in [1, 5, 2, 5, 1]:
        past, _, _ = reader.read([token], past)
    start = module._start(jnp.array([5, 3]), past, reader.warm_start)
    np.testing.assert_array_equal(start[0, 0], past.equilibria[0, -4])
    np.testing.assert_array_equal(start[0, 1], 0)


def test_without_a_warm_start_each_solve_begins_at_zero():
    cold = steps(memoryless(), [5], [5, 5, 5], warm_start=False)
    assert len(set(cold)) == 1 < cold[0]


def test_the_solve_of_each_token_is_reported(equilibrium):
    for each in generate(equilibrium, PROMPT, 4, key=KEY):
        assert 1 < each.steps <= SETTINGS.max_steps
        assert 0 <= each.residual <= SETTINGS.tol


def test_an_explicit_model_solves_nothing(explicit):
    for each in generate(explicit, PROMPT, 4, key=KEY):
        assert (each.steps, each.residual) == (None, None)


def test_a_looser_tolerance_takes_fewer_steps(equilibrium):
    loose = list(generate(equilibrium, PROMPT, 4, key=KEY, tol=0.1, max_steps=60))
    tight = list(reread(equilibrium, PROMPT, [each.token for each in loose]))
    assert sum(each.steps for each in loose) < sum(each.steps for each in tight)


def test_max_steps_limits_a_solve(equilibrium):
    limited = generate(equilibrium, [1], 3, key=KEY, tol=1e-6, max_steps=2)
    assert [each.steps for each in limited] == [2, 2, 2]


def test_rereading_repeats_the_solves(equilibrium):
    drawn = list(generate(equilibrium, PROMPT, 6, key=KEY))
    assert list(reread(equilibrium, PROMPT, [each.token for each in drawn])) == drawn


def test_same_key_same_text(model):
    assert tokens_of(model) == tokens_of(model)


def test_another_key_another_text(model):
    assert tokens_of(model, count=16) != tokens_of(model, count=16, key=jax.random.key(1))


def test_temperature_zero_does_not_depend_on_the_key(model):
    greedy = tokens_of(model, temperature=0.0)
    assert greedy == tokens_of(model, temperature=0.0, key=jax.random.key(9))


@pytest.mark.parametrize("options", [{"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-4}])
def test_what_leaves_one_token_is_greedy(model, options):
    assert tokens_of(model, **options) == tokens_of(model, temperature=0.0)


def test_each_token_is_drawn_with_a_key_of_its_own():
    """A model that ignores its input draws the same token for ever only if the key stands still."""
    model = evaluated(TransformerXL(shape(), depth=1, rngs=nnx.Rngs(0)))
    table = model.embedding.tables[0]
    table[...] = jnp.zeros_like(table[...])
    assert len(set(tokens_of(model, count=10))) > 3


def test_only_tokens_of_a_smaller_vocabulary_are_drawn():
    model = evaluated(TransformerXL(shape(), depth=1, rngs=nnx.Rngs(0)))
    bias = model.softmax.biases[0]
    bias[...] = jnp.where(jnp.arange(VOCABULARY) < 5, -50.0, 50.0)
    assert max(tokens_of(model, vocabulary=5)) < 5 <= min(tokens_of(model))
    assert max(tokens_of(model, vocabulary=5, temperature=0.0)) < 5


def test_tokens_arrive_one_by_one(model):
    stream = generate(model, [1, 2], 10**9, key=KEY)
    first = [each.token for each in itertools.islice(stream, 3)]
    assert first == tokens_of(model, count=3)


@pytest.mark.parametrize("count", [0, 1])
def test_so_many_tokens_as_asked_for(model, count):
    assert len(tokens_of(model, count=count)) == count


def test_any_sequence_of_integers_is_a_prompt(model):
    assert tokens_of(model, np.array([1, 2], np.uint8)) == tokens_of(model, [1, 2])


def test_a_model_without_memory_generates(monkeypatch):
    """Segments of one token and no memory: a position sees itself alone."""
    sizes = TransformerShape(VOCABULARY, 1, width=8, heads=2, hidden=8)
    model = evaluated(TransformerXL(sizes, depth=1, rngs=nnx.Rngs(0)))
    record = recorded(monkeypatch)
    list(generate(model, [7, 2], 1, key=KEY))
    np.testing.assert_allclose(record[0], log_probabilities(model, [2])[-1], atol=1e-5)


def test_another_call_compiles_nothing(model):
    """Neither do another prompt or other options."""

    def compiled():
        return [
            function._cache_size() for function in (module._nothing, module._read, module._draw)
        ]

    tokens_of(model, PROMPT, 1)
    before = compiled()
    tokens_of(model, PROMPT[:7], 9, temperature=0.5, top_k=3, top_p=0.9, warm_start=False)
    assert compiled() == before


def test_another_tolerance_compiles_nothing(equilibrium):
    tokens_of(equilibrium, PROMPT, 1, tol=1e-2, max_steps=9)
    before = module._read._cache_size()
    tokens_of(equilibrium, PROMPT, 1, tol=1e-3, max_steps=7)
    assert module._read._cache_size() == before


def test_the_model_stays_as_it_is(equilibrium):
    tokens_of(equilibrium, PROMPT, 1)
    assert equilibrium.deq.cell.shape == shape()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": []}, "the prompt is empty: give at least one token"),
        ({"prompt": [1, VOCABULARY]}, "holds the token 11, but the model's vocabulary has 11"),
        ({"prompt": [-1]}, "the prompt holds the token -1"),
        ({"temperature": -0.5}, "temperature must be zero or positive, got -0.5"),
        ({"temperature": float("nan")}, "temperature must be zero or positive, got nan"),
        ({"count": -1}, "must not be negative, got -1"),
        ({"top_k": -1}, "top_k must be at least 0, got -1"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0.0"),
        ({"top_p": 1.5}, r"top_p must lie in \(0, 1\], got 1.5"),
        ({"top_p": float("nan")}, r"top_p must lie in \(0, 1\], got nan"),
        ({"vocabulary": 0}, "vocabulary must be at least 1, got 0"),
        ({"tol": -1.0}, "tol must be zero or positive, got -1.0"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_continued_is_refused_at_the_call(equilibrium, change, message):
    with pytest.raises(ValueError, match=message):
        generate(equilibrium, **({"prompt": [1, 2], "count": 1} | change), key=KEY)


@pytest.mark.parametrize("limit", [{"tol": 1e-3}, {"max_steps": 3}])
def test_limits_of_a_solve_are_refused_for_an_explicit_model(explicit, limit):
    with pytest.raises(ValueError, match="an explicit model solves nothing"):
        generate(explicit, [1], 1, key=KEY, **limit)


def test_a_continuation_outside_the_vocabulary_is_refused(explicit):
    with pytest.raises(ValueError, match="the continuation holds the token 11"):
        reread(explicit, [1], [VOCABULARY])
