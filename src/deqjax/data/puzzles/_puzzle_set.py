"""Puzzles ready to be trained on."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deqjax.data._read import SPLITS
from deqjax.data.pipeline import DataError
from deqjax.data.puzzles._kind import Rows, Symmetry

Row = dict[str, NDArray[np.int32]]


@dataclasses.dataclass(frozen=True)
class PuzzleSet:
    """The splits of puzzles of one kind, as rows {"inputs": (N,), "targets": (N,)} int32.

    Attributes:
        name: of the puzzles.
        symbols: what stands for the tokens from 1 in print, a character each.
        height: rows of cells, 1 for a sequence; N is height times width.
        width: cells of a row.
        train: a Grain ``MapDataset``; where puzzles are augmented, a row is another one each time
            that it comes.
        validation: likewise, never augmented.
        test: likewise, never augmented.
        identity: names all that the rows depend on.
    """

    name: str
    symbols: str
    height: int
    width: int
    train: Any
    validation: Any
    test: Any
    identity: str
    _arrays: Mapping[str, tuple[Rows, Rows]] = dataclasses.field(repr=False)

    @property
    def tokens(self) -> int:
        """How many there are, with 0 for padding: the size of a vocabulary."""
        return len(self.symbols) + 1

    def text(self, row: ArrayLike) -> str:
        """A puzzle or an answer as it is printed, a line for each row of cells.

        Args:
            row: (N,) tokens; what is none of a puzzle's becomes a question mark.

        Raises:
            DataError: it has not N cells.
        """
        tokens = np.asarray(row)
        if tokens.shape != (self.height * self.width,):
            raise DataError(
                f"{self.name!r} has {self.height * self.width} cells, got tokens of shape "
                f"{tokens.shape}: give one row"
            )
        known = dict(enumerate(self.symbols, 1))
        lines = tokens.reshape(self.height, self.width).tolist()
        return "\n".join("".join(known.get(token, "?") for token in line) for line in lines)

    def arrays(self, split: str) -> dict[str, NDArray[np.int32]]:
        """All rows of a split without augmentation: "inputs" and "targets", (rows, N) int32.

        Raises:
            DataError: there is no such split.
        """
        if split not in SPLITS:
            raise DataError(f"there is no split {split!r}: choose one of {', '.join(SPLITS)}")
        inputs, targets = self._arrays[split]
        return {"inputs": inputs.astype(np.int32), "targets": targets.astype(np.int32)}


def dataset(inputs: Rows, targets: Rows, symmetry: Symmetry | None, seed: int) -> Any:
    """A Grain dataset of rows, changed at random by a symmetry if there is one."""
    import grain

    rows = grain.MapDataset.source(PuzzleRows(inputs, targets)).seed(seed)
    if symmetry is None:
        return rows
    return rows.random_map(functools.partial(changed, symmetry=symmetry))


class PuzzleRows:
    """Rows by number, for Grain."""

    def __init__(self, inputs: Rows, targets: Rows) -> None:
        self._inputs, self._targets = inputs, targets

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> Row:
        return {
            "inputs": self._inputs[index].astype(np.int32),
            "targets": self._targets[index].astype(np.int32),
        }

    def __repr__(self) -> str:
        return f"PuzzleRows({len(self)})"


def changed(row: Row, generator: np.random.Generator, *, symmetry: Symmetry) -> Row:
    """A puzzle and its solution, both after the same random symmetry."""
    cells, tokens = symmetry(generator)
    table = tokens.astype(np.int32)
    return {name: table[values[cells]] for name, values in row.items()}
