"""Draws puzzles until every split is full, none of them like one of another split."""

import zlib
from collections.abc import Callable, Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from deqjax.data._read import SPLITS
from deqjax.data.pipeline import DataError
from deqjax.data.puzzles._kind import PuzzleKind, Rows

Splits: TypeAlias = dict[str, tuple[Rows, Rows]]
"""Inputs and targets of every split."""
_DRAWN_AT_ONCE = 512
_PATIENCE = 40  # draws without a new puzzle, after which there seem to be none left


class Dealer:
    """Deals puzzles to splits; all that symmetries make of each other come into the same one.

    Args:
        signature: as a `PuzzleKind` has it.
    """

    def __init__(self, signature: Callable[[Rows], NDArray[np.uint64]]) -> None:
        self._signature = signature
        self._split_of: dict[int, str] = {}
        self._seen: set[bytes] = set()
        self.dealt: dict[str, list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]] = {
            split: [] for split in SPLITS
        }

    def deal(
        self, inputs: Rows, targets: Rows, lacking: dict[str, int], wanted: dict[str, int]
    ) -> int:
        """Takes what is new and lacking, and says how many puzzles that were.

        What is like nothing before goes where the largest share is lacking: where there are few
        that differ, each split comes to have some of its own before one is full.

        Args:
            inputs: puzzles.
            targets: their solutions.
            lacking: by split; lowered by what is taken.
            wanted: by split, what was lacking at first.
        """
        taken = 0
        marks = self._signature(inputs).tolist()
        for puzzle, target, mark in zip(inputs, targets, marks, strict=True):
            shares = {split: lacking[split] / max(wanted[split], 1) for split in lacking}
            split = self._split_of.get(mark) or max(shares, key=shares.__getitem__)
            if lacking[split] and puzzle.tobytes() not in self._seen:
                self._split_of[mark] = split
                self._seen.add(puzzle.tobytes())
                self.dealt[split].append((puzzle, target))
                lacking[split] -= 1
                taken += 1
        return taken

    def splits(self, random: np.random.RandomState) -> Splits:
        """What was dealt, in a random order."""
        result = {}
        for split, rows in self.dealt.items():
            if not rows:
                continue
            order = random.permutation(len(rows))
            inputs, targets = (np.stack([rows[row][part] for row in order]) for part in (0, 1))
            result[split] = inputs, targets
        return result


def generate(
    name: str,
    kind: PuzzleKind,
    *,
    grades: Iterable[str],
    wanted: dict[str, int],
    seed: int,
    report: Callable[[int], None],
) -> Splits:
    """So many puzzles of every split, equally many of each grade, all different.

    The numbers come from NumPy's oldest generator: it promises to keep them.

    Args:
        name: of the puzzles, for the sentence.
        kind: of the puzzles.
        grades: to draw from.
        wanted: puzzles by split.
        seed: of all that is drawn.
        report: told how many puzzles came to be, every now and then.

    Raises:
        DataError: no more different ones are found.
    """
    dealer = Dealer(kind.signature)
    chosen = list(grades)
    key = [seed, zlib.crc32(name.encode()), kind.width]
    for number, grade in enumerate(chosen):
        random = np.random.RandomState([*key, zlib.crc32(grade.encode())])
        share = {
            split: total // len(chosen) + (number < total % len(chosen))
            for split, total in wanted.items()
        }
        lacking = dict(share)
        in_vain = 0
        while missing := sum(lacking.values()):
            drawn = kind.draw(grade, min(2 * missing + 8, _DRAWN_AT_ONCE), random)
            taken = dealer.deal(*drawn, lacking, share)
            in_vain = 0 if taken else in_vain + 1
            if in_vain == _PATIENCE:
                raise DataError(
                    f"{missing} of the {sum(wanted.values())} puzzles of {name!r} are not found: "
                    "there are too few different ones; choose a smaller count"
                )
            report(taken)
    return dealer.splits(np.random.RandomState(key))
