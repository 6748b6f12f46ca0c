import itertools

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from deqjax.data import stream_batches, stream_evaluation_batches

# 231 tokens in 4 rows of 57: 5 segments of 10 an epoch, 6 predictions a row and 3 tokens left over.
SIZES = {"length": 10, "batch_size": 4}
BATCHES = 5


def take(batches, count):
    chosen = list(itertools.islice(batches, count))
    return [np.stack(leaves) for leaves in zip(*chosen, strict=True)]


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


# Training


def test_a_batch_holds_the_columns_of_contiguous_rows(tokens):
    batch = next(stream_batches(tokens, **SIZES))
    expected = [tokens[57 * row : 57 * row + 11] for row in range(4)]
    np.testing.assert_array_equal(batch.tokens, np.array(expected, np.int32), strict=True)


def test_every_row_continues_itself_in_the_next_batch(tokens):
    batches, _ = take(stream_batches(tokens, **SIZES), BATCHES)
    np.testing.assert_array_equal(batches[1:, :, 0], batches[:-1, :, -1])


def test_an_epoch_predicts_every_token_of_whole_segments_once(tokens):
    batches, _ = take(stream_batches(tokens, **SIZES), BATCHES)
    targets = np.concatenate(list(batches[:, :, 1:]), axis=1)
    np.testing.assert_array_equal(targets, tokens[: 4 * 57].reshape(4, 57)[:, 1:51])


def test_only_the_first_batch_of_an_epoch_is_fresh(tokens):
    _, fresh = take(stream_batches(tokens, **SIZES), 2 * BATCHES + 1)
    expected = [step % BATCHES == 0 for step in range(2 * BATCHES + 1)]
    np.testing.assert_array_equal(fresh, np.repeat(expected, 4).reshape(-1, 4), strict=True)


def test_the_second_epoch_is_the_first_again(tokens):
    batches, _ = take(stream_batches(tokens, **SIZES), 2 * BATCHES)
    np.testing.assert_array_equal(batches[BATCHES:], batches[:BATCHES])


def test_rows_of_a_process_continue_themselves(tokens):
    shared = stream_batches(tokens, **SIZES, process_index=1, process_count=2)
    batches, _ = take(shared, BATCHES)
    np.testing.assert_array_equal(batches[1:, :, 0], batches[:-1, :, -1])


@pytest.mark.parametrize("done", range(2 * BATCHES + 2))
def test_a_state_resumes_at_the_very_next_batch(tokens, done):
    batches = stream_batches(tokens, **SIZES)
    list(itertools.islice(batches, done))
    state, expected = batches.get_state(), take(batches, BATCHES + 1)
    resumed = stream_batches(tokens, **SIZES)
    resumed.set_state(state)
    assert_same(take(resumed, BATCHES + 1), expected)


def test_an_orbax_checkpoint_resumes_at_the_very_next_batch(tokens, tmp_path):
    batches = stream_batches(tokens, **SIZES)
    take(batches, 7)
    with ocp.CheckpointManager(tmp_path) as manager:
        save = grain.checkpoint.CheckpointSave(batches)
        manager.save(7, args=ocp.args.Composite(data=save))
    expected = take(batches, 6)
    resumed = stream_batches(tokens, **SIZES)
    with ocp.CheckpointManager(tmp_path) as manager:
        restore = grain.checkpoint.CheckpointRestore(resumed)
        manager.restore(7, args=ocp.args.Composite(data=restore))
    assert_same(take(resumed, 6), expected)


def test_tokens_of_another_type_give_the_same_batches(tokens):
    wide = stream_batches(tokens.astype(np.int64), **SIZES)
    assert_same(take(wide, 6), take(stream_batches(tokens, **SIZES), 6))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"length": 57}, "231 tokens, but 4 rows need 58 each for segments of length 57"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 24}, "231 tokens, but 24 rows need 11 each"),
        ({"process_index": 2, "process_count": 2}, "process_index must lie in 0 to .* got 2 of 2"),
        ({"process_count": 3}, "3 processes cannot share a batch of 4 rows evenly"),
    ],
)
def test_arguments_that_cannot_train_are_refused(tokens, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        stream_batches(tokens, **{**SIZES, **change})


# Evaluation


@pytest.mark.parametrize("length", [1, 7, 8, 10, 55, 56, 57, 100])  # 56 predictions a row
def test_every_token_after_the_first_of_a_row_is_scored_once(tokens, length):
    batches = list(stream_evaluation_batches(tokens, length=length, batch_size=4))
    targets = np.concatenate([batch.tokens[:, 1:] for batch in batches], axis=1)
    scored = np.concatenate([batch.scored for batch in batches], axis=1)
    np.testing.assert_array_equal(
        targets[scored].reshape(4, 56), tokens[: 4 * 57].reshape(4, 57)[:, 1:]
    )


def test_no_batch_is_padding_alone(tokens):
    counts = [len(list(stream_evaluation_batches(tokens, length=n, batch_size=4))) for n in (8, 7)]
    assert counts == [7, 8]


def test_what_is_not_scored_is_zero(tokens):
    last = list(stream_evaluation_batches(tokens + 1, **SIZES))[-1]
    assert (last.scored.sum(), last.tokens[:, 1:][~last.scored].any()) == (24, False)


def test_rows_continue_themselves_in_evaluation_too(tokens):
    batches, _, fresh = take(stream_evaluation_batches(tokens, **SIZES), 6)
    np.testing.assert_array_equal(batches[1:, :, 0], batches[:-1, :, -1])
    np.testing.assert_array_equal(fresh.all(axis=1), [True, *[False] * 5])


def test_evaluation_batches_have_fixed_shapes_and_types(tokens):
    described = {
        tuple((leaf.shape, str(leaf.dtype)) for leaf in batch)
        for batch in stream_evaluation_batches(tokens, **SIZES)
    }
    assert described == {(((4, 11), "int32"), ((4, 10), "bool"), ((4,), "bool"))}


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (5, 5), (6, 6), (100, 6)])
def test_a_limit_keeps_the_first_batches(tokens, limit, count):
    limited = take(stream_evaluation_batches(tokens, **SIZES, limit=limit), 1000)
    assert_same(limited, take(stream_evaluation_batches(tokens, **SIZES), count))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"batch_size": 116}, "231 tokens, but 116 rows need 2 each"),
        ({"limit": 0}, "limit must be at least 1 batch, or None for all; got 0"),
    ],
)
def test_arguments_that_cannot_evaluate_are_refused(tokens, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        stream_evaluation_batches(tokens, **{**SIZES, **change})
