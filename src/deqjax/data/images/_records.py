"""Images of a data set that TFDS has prepared, read without TensorFlow."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqjax.data._damaged import damaged, metadata_errors
from deqjax.data.images._decode import DamagedImageError, decode
from deqjax.data.images._images import ImageExample
from deqjax.data.images._resize import at_resolution, scaled_labels
from deqjax.data.pipeline import DataError


class Fields(NamedTuple):
    """Where an example has its image and its label, and what the label means."""

    image: str
    label: str
    encoded_label: bool  # the label is an image as well
    read_label: Callable[[Any], NDArray[np.int32]]
    channels: int = 3  # of the image


def read_class(number: int) -> NDArray[np.int32]:
    """The number of a class as an array of shape ().

    Raises:
        DataError: the label is withheld, which TFDS writes as -1.
    """
    if number < 0:
        raise DataError("its label is withheld: choose another split")
    return np.asarray(number, np.int32)


class RecordedImages:
    """The examples of a prepared split, decoded one at a time when they are asked for."""

    def __init__(
        self, builder: Any, split: str, fields: Fields, *, resolution: int | None = None
    ) -> None:
        """Opens a split.

        Args:
            builder: from `open_prepared`.
            split: TFDS's name of the split, possibly with a part of it in brackets.
            fields: where an example has its image and its label.
            resolution: the shorter side of every image, scaled to it; None leaves images alone.

        Raises:
            DataError: the data set was prepared without that split or without the fields, or the
                files that describe it are damaged.
        """
        import tensorflow_datasets as tfds

        base = split.partition("[")[0]
        if base not in builder.info.splits:
            raise DataError(
                f"the data set in {str(builder.data_dir)!r} has no split {base!r}: delete that "
                "folder, and prepare it again from all of its files"
            )
        if not builder.info.splits[split].num_examples:
            raise DataError(
                f"the data set in {str(builder.data_dir)!r} has too few examples for the part "
                f"{split!r}: delete that folder, and prepare it again from all of its files"
            )
        for name in (fields.image, fields.label):
            if name not in builder.info.features:
                raise damaged(builder.data_dir, f"no feature {name!r}", "prepare it again")
        skip = tfds.decode.SkipDecoding()
        encoded = (fields.image, fields.label) if fields.encoded_label else (fields.image,)
        try:
            self.records = builder.as_data_source(split, decoders=dict.fromkeys(encoded, skip))
        except metadata_errors() as error:
            raise damaged(builder.data_dir, error, "prepare it again") from error
        self.split = split
        self.folder = str(builder.data_dir)
        self.fields = fields
        self.resolution = resolution

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> ImageExample:
        record = self._read(index)
        with self._naming(index):
            image = decode(record[self.fields.image], self.fields.channels)
            label = self.fields.read_label(record[self.fields.label])
        image = at_resolution(image, self.resolution)
        if label.ndim and self.resolution is not None:
            label = scaled_labels(label, image.shape[:2])
        return ImageExample(image, label)

    def label(self, index: int) -> NDArray[np.int32]:
        """The label of an example, whose image stays undecoded unless the label is one."""
        if self.fields.encoded_label:
            return self[index].label
        record = self._read(index)
        with self._naming(index):
            return self.fields.read_label(record[self.fields.label])

    def __repr__(self) -> str:
        return f"RecordedImages({self.split} of {self.folder})"

    def _read(self, index: int) -> Any:
        try:
            record = self.records[index]
        except RuntimeError as error:  # what array_record raises for a file it cannot read
            raise self._damaged(error) from error
        # A file cut at the end of a block reads without an error, as examples without an image.
        if record[self.fields.image] is None:
            raise self._damaged("examples are empty")
        return record

    @contextlib.contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Says of an error where its example is."""
        try:
            yield
        except DamagedImageError as error:
            raise self._damaged(error) from error
        except DataError as error:
            raise DataError(
                f"number {index} of {self.split!r} in {self.folder!r}: {error}"
            ) from error

    def _damaged(self, reason: object) -> DataError:
        return damaged(self.folder, reason, "prepare it again")
