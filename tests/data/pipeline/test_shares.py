"""How several processes share the batches of one, for all kinds of batches alike."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from deqjax.data import (
    Augmentation,
    evaluation_batches,
    image_evaluation_batches,
    image_train_batches,
    stream_batches,
    stream_evaluation_batches,
    train_batches,
)
from image_samples import classification, numbered, segmentation

BATCH = 4
# One of the processes, and how many there are.
SHARES = [(index, count) for count in (1, 2, 4) for index in range(count)]


def tokens(windows):
    """So many windows of 10 tokens, told apart by their first one."""
    return np.arange(10 * windows + 1, dtype=np.uint8)


def shuffled_windows(examples=23, **options):
    return train_batches(tokens(examples), length=10, batch_size=BATCH, seed=3, **options)


def streamed_segments(examples=23, **options):
    return stream_batches(tokens(examples), length=10, batch_size=BATCH, **options)


def augmented_images(examples=23, **options):
    chosen = {"seed": 3, "augmentation": Augmentation("crop_flip", padding=1), **options}
    return image_train_batches(classification(examples), batch_size=BATCH, **chosen)


def images_by_threads(**options):
    return augmented_images(threads=2, **options)


def plain_images(examples=23, **options):
    return augmented_images(examples, augmentation=Augmentation(), **options)


TRAINING = [shuffled_windows, streamed_segments, augmented_images, images_by_threads]


def leaves(batch):
    return batch if isinstance(batch, tuple) else (batch,)


def take(batches, count):
    """The leaves of batches, each (batches, rows, ...)."""
    chosen = [leaves(batch) for batch in itertools.islice(batches, count)]
    return [np.stack(column) for column in zip(*chosen, strict=True)]


def dealt_out(parts):
    """The whole batches: row r is row r // count of process r % count."""
    joined = []
    for columns in zip(*parts, strict=True):
        (steps, rows, *rest) = columns[0].shape
        joined.append(np.stack(columns, axis=2).reshape(steps, rows * len(columns), *rest))
    return joined


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


# Training


@pytest.mark.parametrize("make", TRAINING)
@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_each_batch_of_the_single_process(make, count):
    parts = [take(make(process_index=i, process_count=count), 12) for i in range(count)]
    assert_same(dealt_out(parts), take(make(), 12))


@pytest.mark.parametrize("make", TRAINING)
@pytest.mark.parametrize("done", [0, 1, 5, 7])
def test_the_position_is_the_same_everywhere(make, done):
    states = []
    for index, count in SHARES:
        batches = make(process_index=index, process_count=count)
        list(itertools.islice(batches, done))
        states.append(batches.get_state())
    assert states == [states[0]] * len(SHARES)


@pytest.mark.parametrize("make", TRAINING)
def test_the_position_is_another_after_every_batch(make):
    batches = make()
    states = []
    for _ in range(7):
        states.append(json.dumps(batches.get_state()))
        next(batches)
    assert len(set(states)) == 7


@pytest.mark.parametrize("make", TRAINING)
@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 1), (1, 2), (4, 2)])
@pytest.mark.parametrize("done", [0, 2, 6])
def test_any_number_of_processes_continues_from_a_position(make, before, after, done):
    saved = make(process_index=before - 1, process_count=before)
    list(itertools.islice(saved, done))
    state = json.dumps(saved.get_state())
    parts = []
    for index in range(after):
        resumed = make(process_index=index, process_count=after)
        resumed.set_state(json.loads(state))
        parts.append(take(resumed, 6))
    whole = make()
    list(itertools.islice(whole, done))
    assert_same(dealt_out(parts), take(whole, 6))


@pytest.mark.parametrize("make", [shuffled_windows, plain_images])
@pytest.mark.parametrize("examples", [4, 19, 20, 21, 23])
def test_an_epoch_over_two_and_then_one_process_sees_nothing_twice(make, examples):
    steps = examples // BATCH
    parts = [make(examples, process_index=i, process_count=2) for i in range(2)]
    first = dealt_out([take(part, 1) for part in parts])
    resumed = make(examples)
    resumed.set_state(parts[1].get_state())
    rest = take(resumed, steps - 1)
    rows = np.concatenate([first[0], *([rest[0]] if rest else [])])
    numbers = rows.reshape(steps * BATCH, -1)[:, 0]
    assert len(set(numbers.tolist())) == steps * BATCH


@pytest.mark.parametrize("examples", [8, 9, 11, 23])
def test_a_stream_over_two_and_then_one_process_predicts_nothing_twice(examples):
    parts = [streamed_segments(examples, process_index=i, process_count=2) for i in range(2)]
    first, _ = dealt_out([take(part, 1) for part in parts])
    resumed = streamed_segments(examples)
    resumed.set_state(parts[0].get_state())
    columns = (10 * examples + 1) // BATCH
    rest = [batch.tokens for batch in itertools.islice(resumed, (columns - 1) // 10 - 1)]
    targets = np.concatenate([first[0], *rest], axis=1) if rest else first[0]
    found = [np.unique(row).size for row in targets]
    assert found == [(columns - 1) // 10 * 10 + 1] * BATCH


@pytest.mark.parametrize("make", [shuffled_windows, streamed_segments, augmented_images])
@pytest.mark.parametrize("examples", [20, 21, 22])
def test_odd_sizes_give_every_process_epochs_of_the_same_length(make, examples):
    parts = [take(make(examples, process_index=i, process_count=4), 11) for i in range(4)]
    assert_same(dealt_out(parts), take(make(examples), 11))


# Evaluation


def windows_in_order(**options):
    return evaluation_batches(tokens(23), length=10, batch_size=BATCH, **options)


def segments_in_order(**options):
    return stream_evaluation_batches(tokens(23), length=10, batch_size=BATCH, **options)


def images_in_order(examples=23, **options):
    return image_evaluation_batches(classification(examples), "test", batch_size=BATCH, **options)


def scenes_in_order(examples=5, **options):
    return image_evaluation_batches(segmentation(examples), "test", batch_size=BATCH, **options)


EVALUATION = [windows_in_order, segments_in_order, images_in_order, scenes_in_order]


@pytest.mark.parametrize("make", EVALUATION)
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("limit", [None, 2])
def test_processes_share_an_evaluation_of_the_single_process(make, count, limit):
    parts = [
        take(make(process_index=i, process_count=count, limit=limit), 100) for i in range(count)
    ]
    assert_same(dealt_out(parts), take(make(limit=limit), 100))


@pytest.mark.parametrize("make", [images_in_order, scenes_in_order])
@pytest.mark.parametrize("examples", [1, 2, 4, 5, 7, 8, 9])
@pytest.mark.parametrize("count", [2, 4])
def test_all_processes_evaluate_equally_many_batches(make, examples, count):
    lengths = [
        len(list(make(examples, process_index=i, process_count=count))) for i in range(count)
    ]
    assert lengths == [-(-examples // BATCH)] * count


@pytest.mark.parametrize("examples", [1, 4, 5, 7])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_image_counts_once_over_all_processes(examples, count):
    counted = []
    for index in range(count):
        for batch in images_in_order(examples, process_index=index, process_count=count):
            counted += batch.images[batch.counted][:, 0, 0, 0].astype(int).tolist()
    assert sorted(counted) == list(range(examples))


def test_a_batch_of_padding_alone_looks_like_the_others():
    first, last = scenes_in_order(process_index=3, process_count=4)
    described = [[(leaf.shape, leaf.dtype) for leaf in batch] for batch in (first, last)]
    assert described[0] == described[1]
    assert (last.images.any(), set(last.labels.flat), last.counted.any()) == (False, {255}, False)


class Watched:
    """A source that remembers which of its images were asked for."""

    def __init__(self, source):
        self.source, self.seen = source, []

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.seen.append(index)
        return self.source[index]


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_decodes_its_own_images_only(index):
    images = dataclasses.replace(classification(7), test=Watched(numbered(7)))
    list(
        image_evaluation_batches(
            images, "test", batch_size=BATCH, process_index=index, process_count=2
        )
    )
    assert images.test.seen == list(range(index, 7, 2))


@pytest.mark.parametrize("make", [*TRAINING[:3], *EVALUATION])
@pytest.mark.parametrize(
    ("share", "sentence"),
    [
        (
            (0, 3),
            "3 processes cannot share a batch of 4 rows evenly: choose a batch_size that is a",
        ),
        ((2, 2), "process_index must lie in 0 to process_count - 1, got 2 of 2"),
        ((0, 0), "process_index must lie in 0 to process_count - 1, got 0 of 0"),
    ],
)
def test_shares_that_cannot_be_dealt_out_are_refused(make, share, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(process_index=share[0], process_count=share[1])


def scenes_of_different_sizes(**options):
    scenes = dataclasses.replace(segmentation(2), shape=(None, None, 3))
    return image_evaluation_batches(
        scenes, "test", augmentation=Augmentation("joint_scale_crop"), **options
    )


def test_scenes_of_different_sizes_are_not_shared():
    with pytest.raises(ValueError, match="of 'streets' differ in size, so 2 processes cannot sha"):
        scenes_of_different_sizes(batch_size=2, process_count=2)


def test_scenes_of_different_sizes_are_evaluated_one_by_one():
    shapes = [batch.images.shape for batch in scenes_of_different_sizes(batch_size=1)]
    assert shapes == [(1, 12, 16, 3)] * 2
