import itertools

import grain
import numpy as np
import orbax.checkpoint as ocp
import pytest

from deqjax.data.images._augmentation import Augmentation
from deqjax.data.images._image_batches import image_evaluation_batches, image_train_batches
from image_samples import classification, segmentation

# 23 images: 5 batches an epoch, 3 images left out. Labels are an image's number % 4.
IMAGES = classification(23)
PLAIN = {"batch_size": 4, "augmentation": Augmentation()}
AUGMENTED = {"batch_size": 4, "augmentation": Augmentation("crop_flip", padding=2)}
KINDS = [
    (IMAGES, Augmentation("crop_flip", padding=2)),
    (IMAGES, Augmentation("resized_crop", size=4, shorter_side=5)),
    (segmentation(23), Augmentation("joint_scale_crop", crop=(8, 10))),
]


def take(batches, count):
    chosen = list(itertools.islice(batches, count))
    return [np.stack(leaves) for leaves in zip(*chosen, strict=True)]


def train(count, images=IMAGES, **options):
    return take(image_train_batches(images, **{**PLAIN, "seed": 0, **options}), count)


def numbers(images):
    """The images' numbers in `IMAGES`, whose statistics change nothing."""
    return images[..., 0, 0, 0].astype(int)


def assert_same(first, second):
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other, strict=True)


# Training


def test_a_batch_holds_images_with_their_labels():
    images, labels = train(5)
    np.testing.assert_array_equal(labels, numbers(images) % 4)
    expected = IMAGES.train.images[numbers(images)].astype(np.float32)
    np.testing.assert_array_equal(images, expected, strict=True)


def test_types_and_shapes_of_classification():
    batch = next(image_train_batches(IMAGES, seed=0, **AUGMENTED))
    assert (batch.images.shape, batch.images.dtype) == ((4, 6, 5, 3), np.float32)
    assert (batch.labels.shape, batch.labels.dtype) == ((4,), np.int32)


def test_types_and_shapes_of_segmentation():
    augmentation = Augmentation("joint_scale_crop", crop=(8, 10))
    batch = next(
        image_train_batches(segmentation(), batch_size=2, seed=0, augmentation=augmentation)
    )
    assert (batch.images.shape, batch.images.dtype) == ((2, 8, 10, 3), np.float32)
    assert (batch.labels.shape, batch.labels.dtype) == ((2, 8, 10), np.int32)


def test_images_are_normalized():
    scenes = segmentation()
    batch = next(image_train_batches(scenes, batch_size=7, seed=0, augmentation=Augmentation()))
    pixels = np.sort(scenes.train.images.reshape(-1))
    np.testing.assert_allclose(np.sort(batch.images.reshape(-1)), (pixels - 100.0) / 50, atol=1e-6)


def test_no_image_comes_twice_in_an_epoch():
    epochs = numbers(train(15)[0]).reshape(3, 20)
    assert [len(set(epoch)) for epoch in epochs.tolist()] == [20, 20, 20]


def test_epochs_are_shuffled_anew_and_leave_out_other_images():
    epochs = numbers(train(15)[0]).reshape(3, 20)
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3
    assert len({frozenset(epoch) for epoch in epochs.tolist()}) == 3


def test_an_image_is_augmented_differently_in_every_epoch():
    one = classification(1)
    images, _ = train(50, one, **{**AUGMENTED, "batch_size": 1})
    assert len({image.tobytes() for image in images}) > 20


def test_images_of_one_batch_are_augmented_differently():
    same = classification(23)
    same.train.images[:] = same.train.images[0]
    images, _ = train(1, same, **{**AUGMENTED, "batch_size": 20})
    assert len({image.tobytes() for image in images[0]}) > 10


@pytest.mark.parametrize(("images", "augmentation"), KINDS)
def test_the_same_seed_gives_the_same_batches(images, augmentation):
    first, second, other = (
        train(7, images, seed=seed, augmentation=augmentation) for seed in (1, 1, 2)
    )
    assert_same(first, second)
    assert not np.array_equal(first[0], other[0])


@pytest.mark.parametrize(("images", "augmentation"), KINDS)
@pytest.mark.parametrize("done", [0, 3, 5, 13])  # before the first, amid, between and amid epochs
def test_a_state_resumes_at_the_very_next_batch(images, augmentation, done):
    options = {"batch_size": 4, "seed": 5, "augmentation": augmentation}
    batches = image_train_batches(images, **options)
    list(itertools.islice(batches, done))
    state, expected = batches.get_state(), take(batches, 6)
    resumed = image_train_batches(images, **options)
    next(resumed)  # a position of its own, which the restored one replaces
    resumed.set_state(state)
    assert_same(take(resumed, 6), expected)


def test_an_orbax_checkpoint_resumes_at_the_very_next_batch(tmp_path):
    batches = image_train_batches(IMAGES, seed=0, **AUGMENTED)
    take(batches, 7)
    with ocp.CheckpointManager(tmp_path) as manager:
        save = grain.checkpoint.CheckpointSave(batches)
        manager.save(7, args=ocp.args.Composite(data=save))
    expected = take(batches, 6)
    resumed = image_train_batches(IMAGES, seed=0, **AUGMENTED)
    with ocp.CheckpointManager(tmp_path) as manager:
        restore = grain.checkpoint.CheckpointRestore(resumed)
        manager.restore(7, args=ocp.args.Composite(data=restore))
    assert_same(take(resumed, 6), expected)


def test_threads_change_no_batch():
    assert_same(train(12, **AUGMENTED, threads=3), train(12, **AUGMENTED))


def test_a_position_holds_for_any_number_of_threads():
    batches = image_train_batches(IMAGES, seed=0, **AUGMENTED, threads=2)
    take(batches, 7)
    resumed = image_train_batches(IMAGES, seed=0, **AUGMENTED)
    resumed.set_state(batches.get_state())
    assert_same(take(resumed, 5), take(batches, 5))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 24}, "batch_size 24 is larger than the 23 training images of 'numbered'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"process_index": 2, "process_count": 2}, "process_index must lie in 0 to .* got 2 of 2"),
        ({"process_count": 3}, "3 processes cannot share a batch of 4 rows evenly"),
        ({"threads": -1}, "threads must be at least 0, got -1"),
        ({"workers": -2}, "workers must be at least 0, got -2"),
        ({"augmentation": Augmentation("joint_scale_crop")}, "is not made for classification"),
    ],
)
def test_arguments_that_cannot_train_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        image_train_batches(IMAGES, **{**PLAIN, "seed": 0, **change})


# Evaluation


def evaluate(images=IMAGES, **options):
    return take(image_evaluation_batches(images, "test", **{"batch_size": 4, **options}), 1000)


@pytest.mark.parametrize("batch_size", [1, 4, 22, 23, 24, 50])
def test_every_image_is_counted_exactly_once_and_in_order(batch_size):
    images, labels, counted = evaluate(batch_size=batch_size)
    np.testing.assert_array_equal(numbers(images)[counted], np.arange(23))
    np.testing.assert_array_equal(labels[counted], np.arange(23) % 4)


def test_only_the_last_batch_is_padded():
    images, labels, counted = evaluate()
    np.testing.assert_array_equal(counted.sum(axis=1), [4, 4, 4, 4, 4, 3])
    assert (images[~counted].any(), labels[~counted].any()) == (False, False)


def test_padding_of_scenes_is_ignored_everywhere():
    images, labels, counted = evaluate(segmentation(7))
    assert not images[~counted].any()
    np.testing.assert_array_equal(labels[~counted], np.full((1, 12, 16), 255))


def test_evaluated_images_are_normalized():
    scenes = segmentation(4)
    images, labels, _ = evaluate(scenes)
    np.testing.assert_allclose(images[0], (scenes.test.images - 100.0) / 50, atol=1e-6)
    np.testing.assert_array_equal(labels[0], scenes.test.labels)


def test_types_of_evaluation():
    batch = next(image_evaluation_batches(IMAGES, "validation", batch_size=4))
    assert [leaf.dtype for leaf in batch] == [np.float32, np.int32, np.bool_]


def test_evaluation_cuts_out_the_middle():
    augmentation = Augmentation("resized_crop", size=4, shorter_side=5)
    assert evaluate(augmentation=augmentation)[0].shape == (6, 4, 4, 4, 3)


def test_a_limited_evaluation_is_spread_over_the_split():
    images, _, counted = evaluate(limit=2)
    np.testing.assert_array_equal(numbers(images), [[0, 2, 5, 8], [11, 14, 17, 20]])
    assert counted.all()


@pytest.mark.parametrize("limit", [6, 7, 100])
def test_a_limit_beyond_the_split_changes_nothing(limit):
    assert_same(evaluate(limit=limit), evaluate())


def test_threads_change_no_evaluation():
    assert_same(evaluate(threads=3), evaluate())


@pytest.mark.parametrize(
    ("split", "change", "sentence"),
    [
        ("val", {}, "no split 'val': choose one of train, validation, test"),
        ("test", {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ("test", {"limit": 0}, "limit must be at least 1 batch, or None for all; got 0"),
    ],
)
def test_arguments_that_cannot_evaluate_are_refused(split, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        image_evaluation_batches(IMAGES, split, **{"batch_size": 4, **change})
