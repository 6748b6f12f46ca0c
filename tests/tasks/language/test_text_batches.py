"""A text as batches of the engine: what they hold, what of them counts, and who gets which rows."""

import itertools
import json

import numpy as np
import pytest

from deqjax.data import DataError
from deqjax.tasks.language._batches import Segments, TextRows, bigram_nats
from deqjax.training import BatchOrder

LENGTH = 4
TOKENS = np.arange(103, dtype=np.uint8)
SHUFFLED, GIVEN = BatchOrder(4, seed=3), BatchOrder(4, shuffled=False)
ORDERS = pytest.mark.parametrize("order", [SHUFFLED, GIVEN], ids=["shuffled", "given"])


def text(tokens=TOKENS, **changes):
    return TextRows(tokens, **({"length": LENGTH, "kind": "bytes", "ordered": False} | changes))


def taken(order, count):
    batches = text().train(order)
    return [next(batches) for _ in range(count)]


def test_the_size_is_told_in_the_texts_own_units():
    assert text(np.zeros(12345, np.uint8), kind="words").describe() == "12,345 words of text"


@ORDERS
def test_every_row_and_target_of_a_training_batch_counts(order):
    [batch] = taken(order, 1)
    assert isinstance(batch.rows, Segments)
    assert batch.rows.tokens.shape == (4, LENGTH + 1)
    assert batch.rows.tokens.dtype == np.int32
    assert batch.rows.scored.shape == (4, LENGTH)
    assert batch.rows.scored.all()
    assert batch.counted.tolist() == [True] * 4
    # each token of this text is its own place
    np.testing.assert_array_equal(np.diff(batch.rows.tokens, axis=1), 1)


def test_windows_in_random_order_remember_nothing():
    for batch in taken(SHUFFLED, 8):
        assert batch.rows.fresh.all()


def test_segments_as_given_continue_those_before():
    """A row has 25 tokens: six whole segments, and the next epoch begins anew."""
    batches = taken(GIVEN, 8)
    assert [batch.rows.fresh.tolist() for batch in batches[:2]] == [[True] * 4, [False] * 4]
    assert [bool(batch.rows.fresh.any()) for batch in batches] == [True, *[False] * 5, True, False]
    for one, other in itertools.pairwise(batches[:6]):
        np.testing.assert_array_equal(other.rows.tokens[:, 0], one.rows.tokens[:, -1])


@ORDERS
def test_a_position_leads_on_to_the_very_next_batch(order):
    batches = text().train(order)
    for _ in range(3):
        next(batches)
    position = json.loads(json.dumps(batches.get_state()))
    expected = next(batches)
    again = text().train(order)
    again.set_state(position)
    np.testing.assert_array_equal(next(again).rows.tokens, expected.rows.tokens)


@ORDERS
def test_processes_share_each_batch(order):
    for whole, *parts in zip(
        taken(order, 3),
        *(taken(order._replace(process_index=i, process_count=2), 3) for i in range(2)),
        strict=True,
    ):
        for index, part in enumerate(parts):
            for one, other in zip(part.rows, whole.rows, strict=True):
                np.testing.assert_array_equal(one, other[index::2])
            assert part.counted.tolist() == [True, True]


@ORDERS
def test_processes_share_each_batch_of_an_evaluation(order):
    whole = list(text().evaluate(order))
    for index in range(2):
        own = order._replace(process_index=index, process_count=2)
        for part, batch in zip(text().evaluate(own), whole, strict=True):
            np.testing.assert_array_equal(part.rows.tokens, batch.rows.tokens[index::2])
            np.testing.assert_array_equal(part.rows.scored, batch.rows.scored[index::2])


def test_windows_are_evaluated_in_the_order_of_the_text():
    """Of 25 windows, six batches of four are whole."""
    batches = list(text().evaluate(SHUFFLED))
    tokens = np.concatenate([batch.rows.tokens for batch in batches])
    np.testing.assert_array_equal(tokens[:, 0], np.arange(24) * LENGTH)
    assert all(batch.counted.all() and batch.rows.scored.all() for batch in batches)


def test_padding_of_the_last_segment_is_not_scored():
    """A row of 24 tokens has 23 to predict: five segments, and three in the last."""
    *whole, last = text(TOKENS[:99]).evaluate(GIVEN)
    assert len(whole) == 5
    assert all(batch.rows.scored.all() for batch in whole)
    assert last.rows.scored.tolist() == [[True, True, True, False]] * 4
    assert last.counted.tolist() == [True] * 4
    assert last.rows.tokens[:, -1].tolist() == [0] * 4
    assert whole[0].rows.fresh.all()
    assert not last.rows.fresh.any()


@ORDERS
def test_an_evaluation_has_at_most_so_many_batches(order):
    assert len(list(text().evaluate(order._replace(limit=2)))) == 2


@pytest.mark.parametrize(
    ("most", "multiple", "rows"),
    [(8, 1, 8), (64, 1, 20), (64, 8, 16), (64, 32, 32)],
    ids=["asked", "short", "devices", "each"],
)
def test_a_short_text_is_scored_in_fewer_rows(most, multiple, rows):
    """Of 103 tokens, 20 rows have a segment each; no device is without a row."""
    assert text().evaluation_rows(most, multiple) == rows


@ORDERS
def test_the_rows_of_an_evaluation_are_enough_for_a_batch(order):
    short = text(TOKENS[: LENGTH + 1])
    rows = short.evaluation_rows(64, 1)
    assert [len(batch.counted) for batch in short.evaluate(order._replace(batch_size=rows))] == [1]


def test_a_text_without_a_segment_is_too_short_to_score():
    sentence = "a text of 4 words is too short to score in segments of 4"
    with pytest.raises(DataError, match=sentence):
        text(TOKENS[:4], kind="words").evaluation_rows(8, 1)


def test_a_memory_needs_the_order_of_the_text():
    with pytest.raises(DataError, match=r"memory_length needs --order given"):
        text(ordered=True).train(SHUFFLED)
    assert next(text(ordered=True).train(GIVEN)).rows.fresh.all()


@ORDERS
def test_the_fingerprint_names_what_the_batches_depend_on(order):
    other = TOKENS.copy()
    other[50] = 0
    prints = [
        text().fingerprint(order),
        text(other).fingerprint(order),
        text(length=5).fingerprint(order),
        text().fingerprint(order._replace(shuffled=not order.shuffled)),
        text().fingerprint(order._replace(batch_size=8)),
    ]
    assert json.loads(json.dumps(prints)) == prints
    assert len({json.dumps(one) for one in prints}) == len(prints)
    # a position is good for any number of processes, and for any evaluation
    shared = order._replace(process_index=1, process_count=2, limit=3)
    assert text().fingerprint(shared) == prints[0]


def test_the_seed_decides_random_order_alone():
    assert text().fingerprint(SHUFFLED) != text().fingerprint(SHUFFLED._replace(seed=4))
    assert text().fingerprint(GIVEN) == text().fingerprint(GIVEN._replace(seed=4))


def test_a_bigram_model_is_scored_on_what_is_scored():
    """Token b after a costs a + 2 b bits; the last target is padding."""
    table = -(np.arange(3.0)[:, None] + 2 * np.arange(3.0))
    tokens = np.array([[0, 1, 2], [2, 2, 0]])
    scored = np.array([[True, True], [True, False]])
    batches = [Segments(tokens[i : i + 1], None, scored[i : i + 1]) for i in range(2)]
    expected = np.log(2) * (2 + 5 + 6) / 3
    np.testing.assert_allclose(bigram_nats(table, iter(batches)), expected, rtol=1e-12)
