"""Batches of normalized images, for training and for evaluation."""

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqjax.data.images._augmentation import (
    Augmentation,
    evaluation_transform,
    normalize,
    training_transform,
)
from deqjax.data.images._evaluation_rows import EvaluationRows, ImageEvaluationBatch, Padding
from deqjax.data.images._images import ImageExample, ImageSet, Subset
from deqjax.data.pipeline import DataError, check_shares, prefetched

if TYPE_CHECKING:
    import grain


class ImageBatch(NamedTuple):
    """Images to train on.

    Attributes:
        images: (rows, height, width, channels) float32, normalized.
        labels: (rows,) int32, or (rows, height, width): the class of every pixel.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int32]


def image_train_batches(
    images: ImageSet,
    *,
    batch_size: int,
    seed: int,
    augmentation: Augmentation,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 0,
    workers: int = 0,
) -> "grain.DatasetIterator[ImageBatch]":
    """Endless shuffled batches of the training split, augmented and normalized.

    Every epoch has its own order and its own augmentation, drawn from `seed` and the position; the
    images that fill no whole batch are left out, other ones in each epoch. The rows of a batch are
    dealt out to the processes in turn, and step k sees the same images, augmented alike, however
    many processes share them. The iterator's state is the position: `get_state` and `set_state`,
    or `grain.checkpoint.CheckpointSave` in an Orbax checkpoint, resume at the very next batch. It
    counts whole batches and survives JSON: every process has the same, and any other number of
    processes may continue from it.

    Threads and workers prepare batches ahead, and change none. A position saved with one number
    of workers cannot be read with another; with another number of threads it can. Workers are
    processes of their own, for when the interpreter's lock holds threads back: a script that uses
    them needs the `if __name__ == "__main__":` of `multiprocessing`. They end with the program,
    even a killed one, or before that by the iterator's `close()`.

    Args:
        images: from `load_images`.
        batch_size: images in a batch, over all processes together.
        seed: of order and augmentation; at least 0.
        augmentation: how images are changed.
        process_index: which process this is.
        process_count: how many processes share each batch.
        threads: threads of this process (and of each worker) that prepare batches, each a whole
            one, up to two ahead; 0 prepares a batch when it is asked for.
        workers: processes that prepare batches, up to two ahead each; 0 is this process alone.

    Returns:
        An iterator over `ImageBatch` with batch_size // process_count rows.

    Raises:
        DataError: there are fewer images than a batch, the processes cannot share a batch evenly,
            the augmentation does not suit the data set, or a number is out of its range; later,
            from the iterator, an image is damaged or a worker was killed.
    """
    check_shares(batch_size, process_index, process_count)
    count = len(images.train)
    if batch_size > count:
        raise DataError(
            f"batch_size {batch_size} is larger than the {count} training images of "
            f"{images.name!r}: choose a smaller batch_size"
        )
    if seed < 0:
        raise DataError(f"seed must be at least 0, got {seed}")
    transform = training_transform(images, augmentation)
    import grain

    batches = (
        grain.MapDataset.source(images.train)
        .seed(seed)
        .shuffle()[: count // batch_size * batch_size]
        # before the rows are dealt out: an image's draws do not depend on who sees it
        .random_map(transform)[process_index::process_count]
        .batch(batch_size // process_count, drop_remainder=True)
        .map(partial(_normalized, mean=images.mean, std=images.std))
        .repeat()
    )
    iterator: grain.DatasetIterator[ImageBatch] = prefetched(batches, threads, workers)
    return iterator


def image_evaluation_batches(
    images: ImageSet,
    split: str,
    *,
    batch_size: int,
    augmentation: Augmentation | None = None,
    limit: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 0,
    workers: int = 0,
) -> "grain.DatasetIterator[ImageEvaluationBatch]":
    """One pass over a split in its order, every image once and unchanged but for its size.

    The rows of a batch are dealt out to the processes as in training. All have equally many
    batches, each reads only its own images, and the last batch may be all padding for some.

    Args:
        images: from `load_images`.
        split: "train", "validation" or "test".
        batch_size: rows in a batch, over all processes together; the last one is padded with rows
            that are not counted.
        augmentation: that of training: "resized_crop" says what is cut out of the middle of each
            image; others change nothing here. None is "none".
        limit: at most so many batches. Their images are spread evenly over the whole split.
        process_index: which process this is.
        process_count: how many processes share each batch.
        threads: as in training.
        workers: as in training.

    Returns:
        An iterator over `ImageEvaluationBatch` with batch_size // process_count rows.

    Raises:
        DataError: there is no such split, the processes cannot share a batch evenly, the
            augmentation does not suit the data set, images of different sizes are shared, or a
            number is out of its range; later, from the iterator, as in training.
    """
    check_shares(batch_size, process_index, process_count)
    source = images.split(split)
    if limit is not None:
        if limit < 1:
            raise DataError(f"limit must be at least 1 batch, or None for all; got {limit}")
        kept = limit * batch_size
        if kept < len(source):
            source = Subset(source, np.arange(kept) * len(source) // kept)
    augmentation = augmentation or Augmentation()
    transform = evaluation_transform(images, augmentation)
    size = augmentation.evaluation_size(images.shape[:2])
    if None in size and process_count > 1:
        raise DataError(
            f"the images of {images.name!r} differ in size, so {process_count} processes cannot "
            "share their evaluation: evaluate them in one process, in batches of one"
        )
    import grain

    batches = EvaluationRows(
        source,
        transform,
        partial(normalize, mean=images.mean, std=images.std),
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
        padding=Padding(
            (*size, images.shape[2]),
            size if images.task == "segmentation" else (),
            images.ignore_label or 0,
        ),
    )
    iterator: grain.DatasetIterator[ImageEvaluationBatch] = prefetched(
        grain.MapDataset.source(batches), threads, workers
    )
    return iterator


def _normalized(
    batch: ImageExample, mean: NDArray[np.float32], std: NDArray[np.float32]
) -> ImageBatch:
    return ImageBatch(normalize(batch.image, mean, std), batch.label)
