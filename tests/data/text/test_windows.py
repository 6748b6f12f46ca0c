import numpy as np
import pytest

from deqjax.data import Windows


def test_every_byte_but_the_first_is_predicted_once(tokens):
    windows = Windows(tokens, 10)
    targets = np.concatenate([windows[i][1:] for i in range(len(windows))])
    np.testing.assert_array_equal(targets, tokens[1:])


def test_every_target_follows_its_input(tokens):
    windows = Windows(tokens, 10)
    np.testing.assert_array_equal(windows.view[:, 1:] - windows.view[:, :-1], 1)


@pytest.mark.parametrize(("size", "count"), [(11, 1), (20, 1), (21, 2), (30, 2), (31, 3)])
def test_an_incomplete_window_at_the_end_is_left_out(tokens, size, count):
    assert len(Windows(tokens[:size], 10)) == count


def test_windows_are_int32(tokens):
    window = Windows(tokens, 10)[3]
    assert (window.dtype, window.shape) == (np.int32, (11,))


def test_all_windows_share_the_memory_of_the_tokens(tokens):
    assert np.shares_memory(Windows(tokens, 10).view, tokens)


def test_a_length_below_one_is_refused(tokens):
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        Windows(tokens, 0)


def test_a_corpus_shorter_than_a_window_is_refused(tokens):
    with pytest.raises(ValueError, match="10 tokens, but one window of length 10 needs 11"):
        Windows(tokens[:10], 10)


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4), np.uint8), np.zeros(16, np.float32), np.zeros(16, bool)]
)
def test_tokens_that_are_no_vector_of_integers_are_refused(wrong):
    with pytest.raises(ValueError, match="tokens must be a vector of integers, got"):
        Windows(wrong, 2)


@pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.uint64])
def test_a_token_beyond_int32_is_refused(dtype):
    with pytest.raises(ValueError, match="token 2147483648 does not fit into int32"):
        Windows(np.array([0, 2**31, 1], dtype), 2)


def test_the_largest_int32_is_a_token():
    assert Windows(np.array([0, 2**31 - 1], np.int64), 1)[0].tolist() == [0, 2**31 - 1]
