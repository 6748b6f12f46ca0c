"""Drawing a token: the distribution after temperature, top-k and top-p."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.models._sampling import draw, kept

VOCABULARY, DRAWS = 12, 20_000


def log_probabilities(seed=0):
    return np.asarray(
        jax.nn.log_softmax(2 * jax.random.normal(jax.random.key(seed), VOCABULARY)), np.float64
    )


@jax.jit
def draw_many(logarithms, key, *options):
    keys = jax.random.split(key, DRAWS)
    return jax.vmap(lambda key: draw(logarithms, key, *options))(keys)


def drawn(logarithms, temperature=1.0, top_k=0, top_p=1.0, seed=0):
    options = (jnp.float32(temperature), jnp.int32(top_k), jnp.float32(top_p))
    return np.asarray(
        draw_many(jnp.asarray(logarithms, jnp.float32), jax.random.key(seed), *options)
    )


def expected(logarithms, temperature=1.0, top_k=0, top_p=1.0):
    """The definition, token by token from the most likely one, in float64."""
    probabilities = np.exp(logarithms / temperature)
    order = sorted(range(VOCABULARY), key=lambda token: (-probabilities[token], token))
    order = order[: top_k or VOCABULARY]
    total, sum_so_far, result = sum(probabilities[order]), 0.0, np.zeros(VOCABULARY)
    for token in order:
        if sum_so_far < top_p:
            result[token] = probabilities[token]
        sum_so_far += probabilities[token] / total
    return result / result.sum()


OPTIONS = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0},
    {"top_k": 3},
    {"top_k": VOCABULARY + 5},
    {"top_p": 0.7},
    {"top_p": 1e-6},
    {"temperature": 1.5, "top_k": 6, "top_p": 0.8},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_tokens_are_drawn_from_the_filtered_distribution(options):
    wanted = expected(log_probabilities(), **options)
    counts = np.bincount(drawn(log_probabilities(), **options), minlength=VOCABULARY)
    assert not counts[wanted == 0].any()
    # 5 standard deviations of a count
    np.testing.assert_array_less(
        np.abs(counts - DRAWS * wanted), 5 * np.sqrt(DRAWS * wanted * (1 - wanted)) + 1e-6
    )


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("options", [{"top_k": 4}, {"top_p": 0.9}, {"top_k": 5, "top_p": 0.6}])
def test_what_is_kept_is_what_the_definition_keeps(options, seed):
    logarithms = log_probabilities(seed)
    given = {"top_k": 0, "top_p": 1.0} | options
    found = kept(jnp.asarray(logarithms, jnp.float32), given["top_k"], given["top_p"])
    np.testing.assert_array_equal(found, expected(logarithms, **options) > 0)


def test_temperature_zero_takes_the_most_likely_token():
    assert set(drawn(log_probabilities(), temperature=0.0)) == {np.argmax(log_probabilities())}


def test_a_temperature_near_zero_takes_the_most_likely_token():
    assert set(drawn(log_probabilities(), temperature=1e-30)) == {np.argmax(log_probabilities())}


def test_the_most_likely_token_alone_is_left_by_top_k_1():
    assert set(drawn(log_probabilities(), top_k=1)) == {np.argmax(log_probabilities())}


def test_of_equally_likely_tokens_the_lower_ones_are_kept():
    found = kept(jnp.zeros(VOCABULARY), top_k=3, top_p=1.0)
    np.testing.assert_array_equal(found, np.arange(VOCABULARY) < 3)


def test_top_p_1_keeps_tokens_too_rare_for_a_sum_in_float32():
    rare = jnp.asarray([0.0] + [-40.0] * (VOCABULARY - 1))
    assert kept(rare, top_k=0, top_p=1.0).all()
