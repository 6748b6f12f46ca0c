"""Text from a language model: greedy and sampled, and what is refused."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deqjax.models import (
    DEQTransformerLM,
    ExplicitTransformerLM,
    SolverSettings,
    TransformerShape,
    generate,
)
from deqjax.models._generate import _next_byte

LENGTH = 4
KEY = jax.random.key(0)


def shape(vocabulary=256):
    return TransformerShape(vocabulary, LENGTH, width=8, heads=2, hidden=8)


@pytest.fixture(scope="module")
def model():
    model = ExplicitTransformerLM(shape(), depth=1, rngs=nnx.Rngs(0))
    model.eval()
    return model


@nnx.jit
def last_logits(model, window):
    return model(window).logits[0, -1]


def most_likely(model, text):
    """The byte after a text, from its last bytes without any padding."""
    return int(jnp.argmax(last_logits(model, jnp.asarray([list(text[-LENGTH:])]))))


def text_of(model, prompt=b"ab", count=8, key=KEY, **options):
    return bytes(generate(model, prompt, count, key=key, **options))


def assert_greedy(model, prompt, continuation):
    for index in range(len(continuation)):
        assert continuation[index] == most_likely(model, prompt + continuation[:index])


@pytest.mark.parametrize("prompt", [b"a", b"abcd", b"a text longer than the window"])
def test_temperature_zero_takes_the_most_likely_byte(model, prompt):
    """From shorter than the window, which is padded, to longer, of which the end is seen."""
    continuation = text_of(model, prompt, temperature=0.0)
    assert len(continuation) == 8
    assert_greedy(model, prompt, continuation)


def test_temperature_zero_does_not_depend_on_the_key(model):
    assert text_of(model, temperature=0.0) == text_of(model, temperature=0.0, key=jax.random.key(9))


def test_an_equilibrium_model_generates_the_same_way():
    settings = SolverSettings(max_steps=40, tol=1e-6, history=2)
    model = DEQTransformerLM(shape(), settings, rngs=nnx.Rngs(0))
    model.eval()
    assert_greedy(model, b"abc", text_of(model, b"abc", 3, temperature=0.0))


def test_same_key_same_text(model):
    assert text_of(model) == text_of(model)


def test_another_key_another_text(model):
    assert text_of(model) != text_of(model, key=jax.random.key(1))


def test_each_byte_is_drawn_with_a_key_of_its_own():
    """A model that ignores its input draws the same byte for ever only if the key stands still."""
    model = ExplicitTransformerLM(shape(), depth=1, rngs=nnx.Rngs(0))
    model.readout.kernel[...] = jnp.zeros_like(model.readout.kernel[...])
    assert len(set(text_of(model, count=10))) > 5


def test_a_low_temperature_approaches_the_most_likely_byte(model):
    assert text_of(model, temperature=1e-4) == text_of(model, temperature=0.0)


def test_only_bytes_are_generated_by_a_larger_vocabulary():
    model = ExplicitTransformerLM(shape(300), depth=1, rngs=nnx.Rngs(0))
    model.readout.bias[...] = jnp.where(jnp.arange(300) < 256, -50.0, 50.0)
    assert len(text_of(model, temperature=0.0)) == len(text_of(model)) == 8


def test_bytes_arrive_one_by_one(model):
    stream = generate(model, b"ab", 10**9, key=KEY)
    np.testing.assert_array_equal(list(itertools.islice(stream, 3)), list(text_of(model, count=3)))


def test_another_call_compiles_nothing(model):
    text_of(model, count=1)
    compiled = _next_byte._cache_size()
    text_of(model, b"another prompt", 2, temperature=0.5)
    assert _next_byte._cache_size() == compiled


def test_zero_bytes(model):
    assert text_of(model, count=0) == b""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": b""}, "the prompt is empty: give at least one character"),
        ({"temperature": -0.5}, "temperature must be zero or positive, got -0.5"),
        ({"temperature": float("nan")}, "temperature must be zero or positive, got nan"),
        ({"count": -1}, "must not be negative, got -1"),
    ],
)
def test_what_cannot_be_continued_is_refused_at_the_call(model, change, message):
    arguments = {"prompt": b"ab", "count": 1, "temperature": 1.0} | change
    with pytest.raises(ValueError, match=message):
        generate(model, **arguments, key=KEY)


def test_a_prompt_outside_the_vocabulary_is_refused():
    model = ExplicitTransformerLM(shape(100), depth=1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="holds the byte 100, but the model's vocabulary has 100"):
        generate(model, b"ad", 1, key=KEY)
