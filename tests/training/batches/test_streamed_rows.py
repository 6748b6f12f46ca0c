"""Rows that come one after the other: whoever asks for them sees the same ones."""

import json
from itertools import chain

import grain
import pytest

from deqjax.data import DataError
from deqjax.training import BatchOrder
from deqjax.training.batches._streamed_rows import StreamedRows

ORDER = BatchOrder(4, seed=1, shuffled=False)


def stream(count=10, last=None):
    rows = [{"x": number} for number in range(count)]
    if last is not None:
        rows[-1]["x"] = last
    return StreamedRows(grain.MapDataset.source(rows).to_iter_dataset())


def taken(batches, count):
    return [next(batches).rows["x"].tolist() for _ in range(count)]


def share(index):
    return ORDER._replace(process_index=index, process_count=2)


def test_rows_keep_their_order_and_begin_anew():
    batches = stream().train(ORDER)
    assert taken(batches, 3) == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]
    assert next(batches).counted.tolist() == [True] * 4


def test_the_rows_of_two_processes_interleave_to_the_batch_of_one():
    assert [taken(stream().train(share(index)), 2) for index in (0, 1)] == [
        [[0, 2], [4, 6]],
        [[1, 3], [5, 7]],
    ]


@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_position_is_restored_exactly_by_any_number_of_processes(before):
    batches = stream().train(ORDER)
    taken(batches, before)
    position = json.loads(json.dumps(batches.get_state()))
    expected = taken(batches, 4)
    again, second = stream().train(ORDER), stream().train(share(1))
    taken(second, 1)
    for each in (again, second):
        each.set_state(position)
    assert taken(again, 4) == expected
    assert taken(second, 4) == [each[1::2] for each in expected]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shuffled": True}, "come in its own order; shuffle in the dataset and set --order given"),
        ({"workers": 2}, "--workers 2 cannot share a Grain IterDataset"),
        ({"batch_size": 12}, "--batch_size 12 is larger than the 10 training rows"),
        ({"process_count": 3}, "3 processes cannot share a batch of 4 rows"),
    ],
)
def test_what_a_stream_cannot_do_is_said(changes, sentence):
    with pytest.raises(DataError, match=sentence):
        stream().train(ORDER._replace(**changes))


@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_fills_the_last_batch_and_counts_each_row_once(count):
    shares = [
        list(stream().evaluate(ORDER._replace(process_index=index, process_count=count)))
        for index in range(count)
    ]
    assert [len(each) for each in shares] == [3] * count
    batches = list(chain.from_iterable(shares))
    assert {len(batch.rows["x"]) for batch in batches} == {4 // count}
    counted = [row for batch in batches for row in batch.rows["x"][batch.counted].tolist()]
    assert sorted(counted) == list(range(10))


def test_a_limit_leaves_the_first_rows():
    (batch,) = stream().evaluate(ORDER._replace(limit=1))
    assert batch.rows["x"].tolist() == [0, 1, 2, 3]


def test_nothing_to_evaluate_is_said():
    with pytest.raises(DataError, match="there are no rows to evaluate"):
        next(stream(0).evaluate(ORDER))


def test_the_fingerprint_is_that_of_the_first_rows():
    before, same, after = (stream(last=last).fingerprint(ORDER) for last in (None, None, 3))
    assert before == same
    assert {name for name in before if before[name] != after[name]} == {"content"}
    assert stream(64).fingerprint(ORDER) == stream(99).fingerprint(ORDER)
    assert json.loads(json.dumps(before)) == before


def test_their_number_is_not_known():
    assert stream().describe() == "a stream of rows"
