import numpy as np
import pytest

from deqjax.data import ByteWindows


def test_every_byte_but_the_first_is_predicted_once(tokens):
    windows = ByteWindows(tokens, 10)
    targets = np.concatenate([windows[i][1:] for i in range(len(windows))])
    np.testing.assert_array_equal(targets, tokens[1:])


def test_every_target_follows_its_input(tokens):
    windows = ByteWindows(tokens, 10)
    np.testing.assert_array_equal(windows.view[:, 1:] - windows.view[:, :-1], 1)


@pytest.mark.parametrize(("size", "count"), [(11, 1), (20, 1), (21, 2), (30, 2), (31, 3)])
def test_an_incomplete_window_at_the_end_is_left_out(tokens, size, count):
    assert len(ByteWindows(tokens[:size], 10)) == count


def test_windows_are_int32(tokens):
    window = ByteWindows(tokens, 10)[3]
    assert (window.dtype, window.shape) == (np.int32, (11,))


def test_all_windows_share_the_memory_of_the_tokens(tokens):
    assert np.shares_memory(ByteWindows(tokens, 10).view, tokens)


def test_a_length_below_one_is_refused(tokens):
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        ByteWindows(tokens, 0)


def test_a_corpus_shorter_than_a_window_is_refused(tokens):
    with pytest.raises(ValueError, match="10 bytes, but one window of length 10 needs 11"):
        ByteWindows(tokens[:10], 10)


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros(16, np.int32)])
def test_tokens_that_are_no_byte_vector_are_refused(wrong):
    with pytest.raises(ValueError, match="tokens must be a vector of uint8, got"):
        ByteWindows(wrong, 2)
