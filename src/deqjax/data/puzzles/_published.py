"""Puzzles that others have published, from the CSV files that they come in."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from deqjax.data.pipeline import DataError
from deqjax.data.puzzles._check import check_solution
from deqjax.data.puzzles._csv_files import Chunk, chunks, damaged_line, joined
from deqjax.data.puzzles._generate import Dealer, Splits
from deqjax.data.puzzles._kind import PuzzleKind


class Published(NamedTuple):
    """Files that hold puzzles.

    Attributes:
        source: their name on the Hugging Face hub.
        folder: that they are looked for in.
        size: of both files.
        symbols: what stands for the tokens from 1; several may stand for one.
        train: how many training puzzles are taken, unless told otherwise.
    """

    source: str
    folder: str
    size: str
    symbols: tuple[str, ...]
    train: int


PUBLISHED = {
    "sudoku_extreme": Published(
        "sapientinc/sudoku-extreme", "sudoku-extreme", "800 MB", (".0", *"123456789"), 1000
    ),
    # 1000 puzzles are for training, of which a part is held out
    "maze_hard": Published(
        "sapientinc/maze-30x30-hard-1k",
        "maze-30x30-hard-1k",
        "4 MB",
        ("#", " ", "S", "G", "o"),
        900,
    ),
}
"""The published puzzles by their name."""


def read_published(
    name: str, kind: PuzzleKind, wanted: dict[str, int], seed: int, manual: Path
) -> Splits:
    """The published puzzles: some of the training file, validation of it too, all of the test file.

    No symmetry makes a validation puzzle of a training one.

    Args:
        name: of `PUBLISHED`.
        kind: of the puzzles.
        wanted: puzzles of "train" and "validation".
        seed: of the choice.
        manual: the folder with the files, or with a folder of their own.

    Raises:
        DataError: a file is missing or damaged, or has too few puzzles.
    """
    published = PUBLISHED[name]
    train, test = _find(name, published, manual)
    chosen = _choose(train, name, published, kind, wanted, seed)
    dealer = Dealer(kind.signature)
    lacking = dict(wanted)
    dealer.deal(chosen.inputs, chosen.targets, lacking, wanted)
    if missing := sum(lacking.values()):
        raise DataError(
            f"{str(train)!r} has {sum(wanted.values()) - missing} puzzles that differ, fewer than "
            f"the {sum(wanted.values())} for training and validation: choose a smaller count"
        )
    tested = joined(list(chunks(test, published.symbols, kind.height * kind.width)))
    _check(test, name, tested)
    random = np.random.RandomState(seed)
    return {**dealer.splits(random), "test": (tested.inputs, tested.targets)}


def _find(name: str, published: Published, manual: Path) -> tuple[Path, Path]:
    for folder in (manual / published.folder, manual):
        files = folder / "train.csv", folder / "test.csv"
        if all(file.is_file() for file in files):
            return files
    raise DataError(
        f"the files of {name!r} are missing: download train.csv and test.csv ({published.size}) of "
        f"the data set {published.source} from the Hugging Face hub into "
        f"{str(manual / published.folder)!r}"
    )


def _choose(
    file: Path,
    name: str,
    published: Published,
    kind: PuzzleKind,
    wanted: dict[str, int],
    seed: int,
) -> Chunk:
    """So many puzzles at random, and some more, because a few may be like others."""
    random = np.random.RandomState(seed)
    count = sum(wanted.values()) * 5 // 4 + 16
    some: list[Chunk] = []
    places = np.empty(0)
    for chunk in chunks(file, published.symbols, kind.height * kind.width):
        places = np.concatenate([places, random.random_sample(len(chunk.lines))])
        first = np.argsort(places)[:count]
        some, places = [joined([*some, chunk]).taken(first)], places[first]
    (kept,) = some
    _check(file, name, kept)
    return kept


def _check(file: Path, name: str, chunk: Chunk) -> None:
    wrong = np.flatnonzero(~check_solution(name, chunk.inputs, chunk.targets))
    if len(wrong):
        raise damaged_line(file, chunk.lines[wrong].min(), "its answer does not solve its question")
