"""The TFDS builder of puzzles, whatever they come from."""

from collections.abc import Callable, Iterator
from typing import Any

import tensorflow_datasets as tfds

from deqjax.data.puzzles._generate import Splits

# Tokens are below 128, so that rows of them are ASCII to TFDS; an example is some 100 kB.
_BYTES_IN_EXAMPLE = 2**17


class Puzzles(tfds.core.GeneratorBasedBuilder):
    """Puzzles and their solutions, many in each example: their tokens as bytes, row after row."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012  TFDS reads a plain class attribute

    def __init__(self, *, recipe: str, make: Callable[[], Splits], data_dir: Any = None) -> None:
        """Names the data set.

        Args:
            recipe: names all that the puzzles depend on; part of a folder's name.
            make: gives them.
            data_dir: the folder of all prepared data sets.
        """
        self._make = make
        self._config = tfds.core.BuilderConfig(name=recipe, description="Puzzles with solutions.")
        super().__init__(data_dir=data_dir, config=self._config)

    def get_builder_config(self, name: str, version: Any = None) -> Any:
        """The one configuration of these puzzles: TFDS warns of one that it finds in no list."""
        del version
        return self._config if name == self._config.name else None

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Puzzles that have one solution each, and their solutions.",
            features=tfds.features.FeaturesDict(
                {"inputs": tfds.features.Text(), "targets": tfds.features.Text()}
            ),
            disable_shuffling=True,  # examples stay in their order
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing to download
        return {split: self._generate_examples(*arrays) for split, arrays in self._make().items()}

    def _generate_examples(
        self, inputs: Any, targets: Any
    ) -> Iterator[tuple[int, dict[str, bytes]]]:
        rows = max(1, _BYTES_IN_EXAMPLE // inputs.shape[1])
        for start in range(0, len(inputs), rows):
            part = slice(start, start + rows)
            yield start, {"inputs": inputs[part].tobytes(), "targets": targets[part].tobytes()}
