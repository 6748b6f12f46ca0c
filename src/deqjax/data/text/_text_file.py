"""The TFDS builder of a corpus of one's own: a text file, cut into splits in its order."""

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds

from deqjax.data._read import SPLITS
from deqjax.data.pipeline import DataError

Fractions = tuple[float, float, float]

# A character has at most 4 bytes of UTF-8, so an example stays under a megabyte.
_CHARACTERS_IN_EXAMPLE = 2**18 - 2**8
# TFDS sorts a split in memory up to 1000 MiB; beyond that it asks for TensorFlow's files.
_BYTES_IN_SPLIT = 10**9


def split_text(text: str, fractions: Fractions) -> dict[str, str]:
    """The splits of a text, cut in its order; those with fraction 0 do not exist.

    Args:
        text: the whole text.
        fractions: shares of the characters for training, validation and test; their sum is 1.

    Raises:
        DataError: the fractions are none, or the text is too short for them.
    """
    if (
        len(fractions) != len(SPLITS)
        or not all(0 <= fraction <= 1 for fraction in fractions)
        or not math.isclose(math.fsum(fractions), 1)
        or fractions[0] == 0
    ):
        raise DataError(
            "fractions must be the shares of train, validation and test, the first of them "
            f"positive, with the sum 1: got {fractions}"
        )
    # Rounded down like int(0.9 * n), the cut of the common character benchmarks; the end is exact.
    ends = [int(len(text) * min(1.0, math.fsum(fractions[: i + 1]))) for i in range(len(SPLITS))]
    ends = [len(text) if not any(fractions[i + 1 :]) else end for i, end in enumerate(ends)]
    splits = {
        split: text[start:end]
        for split, fraction, start, end in zip(SPLITS, fractions, [0, *ends], ends, strict=False)
        if fraction > 0
    }
    for split, part in splits.items():
        if not part:
            raise DataError(
                f"a text of {len(text)} characters leaves none for the {split} split of fractions "
                f"{fractions}: give a longer text or a fraction of 0"
            )
    return splits


class TextFile(tfds.core.GeneratorBasedBuilder):
    """A text, in examples of less than a megabyte that follow each other.

    The configuration is named after the text and its fractions: an edited file is another data
    set. The builder takes the text and not its file's path, which could hold another text by the
    time that the data are written under the first one's name.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  TFDS reads a plain class attribute

    def __init__(self, *, text: str, fractions: Fractions, data_dir: Any = None) -> None:
        """Names the data set.

        Args:
            text: the whole text.
            fractions: as for `split_text`.
            data_dir: the folder of all prepared data sets.

        Raises:
            DataError: see `split_text`.
        """
        self._splits = split_text(text, fractions)
        digest = hashlib.sha256(json.dumps([float(f) for f in fractions]).encode())
        digest.update(text.encode())
        self._config = tfds.core.BuilderConfig(
            name=f"sha256_{digest.hexdigest()[:16]}",
            description=f"{len(text)} characters in shares of {fractions}.",
        )
        super().__init__(data_dir=data_dir, config=self._config)

    def get_builder_config(self, name: str, version: Any = None) -> Any:
        """The one configuration of this text: TFDS warns of one that it finds in no list."""
        del version
        return self._config if name == self._config.name else None

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description="A text file, cut into splits in its order.",
            features=tfds.features.FeaturesDict({"text": tfds.features.Text()}),
            disable_shuffling=True,  # examples stay in the order of the text
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing to download
        for split, text in self._splits.items():
            if (size := len(text.encode())) > _BYTES_IN_SPLIT:
                raise DataError(
                    f"the {split} split has {size} bytes, but at most {_BYTES_IN_SPLIT} can be "
                    "prepared: give a shorter text"
                )
        return {split: self._generate_examples(text) for split, text in self._splits.items()}

    def _generate_examples(self, text: str) -> Iterator[tuple[int, dict[str, bytes]]]:
        for start in range(0, len(text), _CHARACTERS_IN_EXAMPLE):
            yield start, {"text": text[start : start + _CHARACTERS_IN_EXAMPLE].encode()}
