"""Rows that can be asked for by number: their order, their shares, their positions."""

import json
from itertools import chain

import grain
import jax
import numpy as np
import pytest

from deqjax.data import DataError
from deqjax.training import BatchOrder
from deqjax.training.batches._rows import rows_of_arrays, rows_of_sequence, stack

ORDER = BatchOrder(4, seed=1)
GIVEN = ORDER._replace(shuffled=False)
ARRAYS = {"x": np.arange(10), "y": np.arange(20.0).reshape(10, 2)}
LIST = [{"x": np.int64(number), "y": ARRAYS["y"][number]} for number in range(10)]


class Source:
    """What TFDS hands out: no list, but a length and rows by number."""

    def __len__(self):
        return len(LIST)

    def __getitem__(self, number):
        return LIST[number]


def changed(row, rng):
    return row | {"x": row["x"] + 100 * rng.integers(1, 10_000)}


def mapped():
    dataset = grain.MapDataset.source(LIST).seed(5).random_map(changed)
    return rows_of_sequence(dataset, dataset)


KINDS = {
    "arrays": lambda: rows_of_arrays(ARRAYS),
    "list": lambda: rows_of_sequence(LIST),
    "source": lambda: rows_of_sequence(Source()),
    "MapDataset": mapped,
}
of_each_kind = pytest.mark.parametrize("kind", KINDS)


def taken(batches, count):
    return [next(batches).rows["x"].tolist() for _ in range(count)]


@pytest.mark.parametrize("kind", ["arrays", "list", "source"])
def test_rows_of_every_kind_make_the_same_batches(kind):
    expected, found = (rows.train(ORDER) for rows in (rows_of_arrays(ARRAYS), KINDS[kind]()))
    for _ in range(3):
        one, other = next(expected), next(found)
        np.testing.assert_array_equal(other.rows["x"], one.rows["x"])
        np.testing.assert_array_equal(other.rows["y"], ARRAYS["y"][one.rows["x"]])
        assert other.counted.tolist() == [True] * 4


def test_an_epoch_has_no_row_twice_and_every_epoch_has_an_order_of_its_own():
    batches = rows_of_arrays(ARRAYS).train(ORDER)
    epochs = [list(chain.from_iterable(taken(batches, 2))) for _ in range(6)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 6
    assert set(chain.from_iterable(epochs)) == set(range(10))  # others are left out each time


def test_rows_come_as_given_if_that_is_asked_for():
    batches = rows_of_arrays(ARRAYS).train(GIVEN)
    assert taken(batches, 3) == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3]]


def test_the_seed_decides_the_order():
    one, same, other = (
        taken(rows_of_arrays(ARRAYS).train(ORDER._replace(seed=seed)), 2) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_random_changes_of_a_dataset_are_drawn_anew_in_every_epoch():
    batches = mapped().train(GIVEN)
    first, _, second = taken(batches, 3)
    assert [number % 100 for number in first] == [number % 100 for number in second] == [0, 1, 2, 3]
    assert not set(first) & set(second)


@of_each_kind
@pytest.mark.parametrize("order", [ORDER, GIVEN], ids=["shuffled", "given"])
def test_the_rows_of_two_processes_interleave_to_the_batch_of_one(kind, order):
    whole, *shares = (
        taken(KINDS[kind]().train(order._replace(process_index=index, process_count=count)), 5)
        for index, count in ((0, 1), (0, 2), (1, 2))
    )
    assert whole == [
        [row for pair in zip(*each, strict=True) for row in pair]
        for each in zip(*shares, strict=True)
    ]


@of_each_kind
def test_a_position_is_restored_exactly_by_any_number_of_processes(kind):
    batches = KINDS[kind]().train(ORDER)
    taken(batches, 3)
    position = json.loads(json.dumps(batches.get_state()))
    expected = taken(batches, 4)
    again = KINDS[kind]().train(ORDER)
    again.set_state(position)
    assert taken(again, 4) == expected
    second = KINDS[kind]().train(ORDER._replace(process_index=1, process_count=2))
    taken(second, 1)
    second.set_state(position)
    assert taken(second, 4) == [each[1::2] for each in expected]
    batches.set_state(position)
    assert taken(batches, 4) == expected


def test_threads_give_the_same_batches():
    expected = taken(rows_of_arrays(ARRAYS).train(ORDER), 5)
    assert taken(rows_of_arrays(ARRAYS).train(ORDER._replace(threads=2)), 5) == expected


def test_a_worker_gives_the_same_batches_and_its_position_can_be_saved():
    expected = taken(mapped().train(ORDER), 5)
    batches = mapped().train(ORDER._replace(workers=1))
    try:
        assert taken(batches, 3) == expected[:3]
        position = batches.get_state()
        assert taken(batches, 2) == expected[3:]
        batches.set_state(position)
        assert taken(batches, 2) == expected[3:]
    finally:
        batches.close()


@of_each_kind
@pytest.mark.parametrize("count", [1, 2])
def test_evaluation_fills_the_last_batch_and_counts_each_row_once(kind, count):
    shares = [
        list(KINDS[kind]().evaluate(ORDER._replace(process_index=index, process_count=count)))
        for index in range(count)
    ]
    counted = []
    for batch in chain.from_iterable(shares):
        assert [len(leaf) for leaf in jax.tree.leaves(batch.rows)] == [4 // count] * 2
        counted += (batch.rows["x"][batch.counted] % 100).tolist()
    assert sorted(counted) == list(range(10))
    assert [len(share) for share in shares] == [3] * count


@pytest.mark.parametrize(
    ("limit", "numbers"),
    [
        (1, [0, 6, 12, 18]),
        (2, [0, 3, 6, 9, 12, 15, 18, 21]),
        (6, list(range(24))),
        (9, list(range(24))),
    ],
)
def test_a_limit_leaves_rows_that_lie_spread_evenly(limit, numbers):
    batches = rows_of_arrays({"x": np.arange(24)}).evaluate(ORDER._replace(limit=limit))
    assert [row for batch in batches for row in batch.rows["x"].tolist()] == numbers


def test_a_batch_larger_than_the_rows_is_refused():
    with pytest.raises(DataError, match="--batch_size 16 is larger than the 10 training rows"):
        rows_of_arrays(ARRAYS).train(ORDER._replace(batch_size=16))


def test_a_batch_that_processes_cannot_share_is_refused():
    order = ORDER._replace(process_count=3)
    for made in (
        rows_of_arrays(ARRAYS).train,
        lambda order: next(rows_of_arrays(ARRAYS).evaluate(order)),
    ):
        with pytest.raises(DataError, match="3 processes cannot share a batch of 4 rows"):
            made(order)


def test_nothing_to_evaluate_is_said():
    with pytest.raises(DataError, match="there are no rows to evaluate"):
        next(rows_of_sequence([]).evaluate(ORDER))


@pytest.mark.parametrize(
    "arrays",
    [{"x": np.ones(3), "y": np.ones((4, 3))}, (np.ones(3), np.float32(1)), np.array(1.0)],
    ids=["unequal", "scalar", "scalar alone"],
)
def test_arrays_without_equally_many_rows_are_refused(arrays):
    with pytest.raises(DataError, match="equally many rows along axis 0, got shapes"):
        rows_of_arrays(arrays)


@pytest.mark.parametrize(
    "rows",
    [[{"x": np.ones(2)}, {"x": np.ones(3)}], [{"x": 1}, {"y": 1}], [{"x": 1}, (1,)]],
    ids=["shapes", "names", "kinds"],
)
def test_rows_that_differ_in_form_are_refused(rows):
    with pytest.raises(DataError, match="differ in form and cannot be stacked"):
        stack(rows)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda rows: rows.repeat(), r"no end, .* leave repeat\(\) out"),
        (lambda rows: rows.filter(lambda row: row["x"] > 2), "row 0 is None; leave rows out"),
    ],
    ids=["repeated", "filtered"],
)
def test_numbers_that_name_no_rows_are_refused(made, sentence):
    dataset = made(grain.MapDataset.source(LIST))
    with pytest.raises(DataError, match=sentence):
        rows_of_sequence(dataset, dataset)


def one_number_changed(row):
    arrays = {name: values.copy() for name, values in ARRAYS.items()}
    arrays["y"][row, 1] += 1e-9
    return arrays


def listed(arrays):
    return [{name: values[number] for name, values in arrays.items()} for number in range(10)]


@pytest.mark.parametrize("row", [0, 4, 9])
def test_one_number_changes_the_fingerprint(row):
    for made in (rows_of_arrays, lambda arrays: rows_of_sequence(listed(arrays))):
        before, same, after = (
            made(arrays).fingerprint(ORDER) for arrays in (ARRAYS, ARRAYS, one_number_changed(row))
        )
        assert before == same
        assert {name for name in before if before[name] != after[name]} == {"content"}


@pytest.mark.parametrize(
    "other",
    [
        {"x": ARRAYS["x"].astype(np.int32), "y": ARRAYS["y"]},
        {"x": ARRAYS["x"], "y": ARRAYS["y"].reshape(10, 1, 2)},
        {"x": ARRAYS["x"], "z": ARRAYS["y"]},
        (ARRAYS["x"], ARRAYS["y"]),
    ],
    ids=["dtype", "shape", "name", "kind"],
)
def test_another_form_of_the_same_numbers_has_another_fingerprint(other):
    assert rows_of_arrays(other).fingerprint(ORDER) != rows_of_arrays(ARRAYS).fingerprint(ORDER)


def test_the_fingerprint_tells_what_decides_the_batches_and_nothing_else():
    rows = rows_of_arrays(ARRAYS)
    before = rows.fingerprint(ORDER)
    assert json.loads(json.dumps(before)) == before
    for name, value in {"batch_size": 2, "seed": 2, "shuffled": False, "workers": 1}.items():
        assert rows.fingerprint(ORDER._replace(**{name: value})) != before
    elsewhere = ORDER._replace(process_index=1, process_count=2, threads=3, limit=1)
    assert rows.fingerprint(elsewhere) == before


def test_they_are_described_by_their_number():
    assert rows_of_arrays({"x": np.zeros(1234)}).describe() == "1,234 rows"
