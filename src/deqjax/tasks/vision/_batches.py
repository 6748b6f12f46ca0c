"""Images as batches."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from deqjax import data
from deqjax.data import Augmentation, ImageSet
from deqjax.training import Batch, BatchOrder, Pipeline, Position


class LabelledImages(NamedTuple):
    """Rows of images.

    Attributes:
        images: (rows, height, width, channels) float32, normalized.
        labels: (rows,) int32, or (rows, height, width) for every pixel.
    """

    images: Any
    labels: Any


class ImageRows(Pipeline):
    """One split of an image set; training images are augmented.

    Args:
        images: the set.
        split: of it.
        augmentation: how training images are changed.
    """

    def __init__(self, images: ImageSet, split: str, augmentation: Augmentation) -> None:
        self._images, self._split, self._augmentation = images, split, augmentation

    def describe(self) -> str:
        """The number of images."""
        return f"{len(getattr(self._images, self._split)):,} images"

    def fingerprint(self, order: BatchOrder) -> Mapping[str, Any]:
        """What the training batches depend on, as JSON values."""
        return data.image_fingerprint(
            self._images,
            batch_size=order.batch_size,
            seed=order.seed,
            augmentation=self._augmentation,
            workers=order.workers,
        )

    def train(self, order: BatchOrder) -> Position:
        """Endless shuffled batches.

        Raises:
            DataError: they shall come as given, or are too few.
        """
        if not order.shuffled:
            raise data.DataError("images are trained on in random order; leave --order shuffled")
        return _Batches(
            data.image_train_batches(
                self._images, seed=order.seed, workers=order.workers, **self._share(order)
            )
        )

    def evaluate(self, order: BatchOrder) -> Iterator[Batch]:
        """One pass over the split; what fills up the last batch does not count."""
        for found in data.image_evaluation_batches(
            self._images, self._split, limit=order.limit, **self._share(order)
        ):
            yield Batch(LabelledImages(found.images, found.labels), found.counted)

    def _share(self, order: BatchOrder) -> dict[str, Any]:
        return {
            "batch_size": order.batch_size,
            "augmentation": self._augmentation,
            "process_index": order.process_index,
            "process_count": order.process_count,
            "threads": order.threads,
        }


class _Batches:
    """Grain's iterator over images, as batches of the engine."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def __next__(self) -> Batch:
        found = next(self._found)
        return Batch(LabelledImages(found.images, found.labels), np.ones(len(found.labels), bool))

    def get_state(self) -> Any:
        return self._found.get_state()

    def set_state(self, state: Any) -> None:
        self._found.set_state(state)

    def close(self) -> None:
        close = getattr(self._found, "close", None)
        if close is not None:
            close()
