import math
from collections import Counter

import numpy as np
import pytest

from deqjax.data import Windows, bits_per_byte, fit_bigram

TEXT = np.frombuffer(b"the cat sat on the mat; the dog sat on the cat.\n" * 3, np.uint8)


def test_probabilities_are_the_smoothed_counts():
    pairs = Counter(zip(TEXT[:-1].tolist(), TEXT[1:].tolist(), strict=True))
    firsts, seconds = Counter(TEXT[:-1].tolist()), Counter(TEXT[1:].tolist())
    total, k = len(TEXT) - 1, 3.0
    expected = [
        [(pairs[a, b] + k * (seconds[b] + 1) / (total + 256)) / (firsts[a] + k) for b in range(256)]
        for a in range(256)
    ]
    np.testing.assert_allclose(np.exp2(fit_bigram(TEXT, concentration=3.0)), expected, rtol=1e-12)


@pytest.mark.parametrize("tokens", [TEXT, TEXT[:2], np.zeros(50, np.uint8)])
def test_rows_sum_to_one(tokens):
    np.testing.assert_allclose(np.exp2(fit_bigram(tokens)).sum(axis=1), 1.0, rtol=1e-12)


def test_no_byte_is_impossible():
    assert np.isfinite(fit_bigram(TEXT)).all()


def test_the_concentration_is_the_best_one_for_the_last_tenth():
    # The last tenth breaks the rule of the others, so the best concentration depends on the cut.
    letters = np.frombuffer(b"abcdefgh", np.uint8)
    surprise = np.random.default_rng(0).choice(letters, 200)
    tokens = np.concatenate([np.resize(letters, 1800), surprise])
    chosen = fit_bigram(tokens)
    powers = [2.0**power for power in range(-6, 15)]
    held_out = [
        bits_per_byte(fit_bigram(tokens[:1800], concentration=k), tokens[None, 1800:])
        for k in powers
    ]
    best = powers[int(np.argmin(held_out))]
    np.testing.assert_array_equal(chosen, fit_bigram(tokens, concentration=best))


def test_bits_are_the_mean_over_the_predicted_bytes():
    model, windows = fit_bigram(TEXT), Windows(TEXT, 7).view
    terms = [-model[row[j], row[j + 1]] for row in windows for j in range(7)]
    assert bits_per_byte(model, windows) == pytest.approx(math.fsum(terms) / len(terms), rel=1e-12)


def test_a_uniform_model_needs_eight_bits():
    assert bits_per_byte(np.full((256, 256), -8.0), Windows(TEXT, 5).view) == 8.0


def test_windows_of_int32_and_of_uint8_score_alike():
    model, windows = fit_bigram(TEXT), Windows(TEXT, 7)
    assert bits_per_byte(model, windows[np.arange(len(windows))]) == bits_per_byte(
        model, windows.view
    )


@pytest.mark.parametrize("wrong", [TEXT[:1], TEXT.astype(np.int32), TEXT.reshape(2, -1)])
def test_tokens_that_are_no_byte_vector_are_refused(wrong):
    with pytest.raises(ValueError, match="tokens must be a vector of at least 2 uint8"):
        fit_bigram(wrong)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_a_concentration_that_is_no_positive_number_is_refused(wrong):
    with pytest.raises(ValueError, match="concentration must be positive and finite"):
        fit_bigram(TEXT, concentration=wrong)


@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (5,)])
def test_windows_without_a_predicted_byte_are_refused(shape):
    with pytest.raises(ValueError, match="windows must be"):
        bits_per_byte(fit_bigram(TEXT), np.zeros(shape, np.uint8))
