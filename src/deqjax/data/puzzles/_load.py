"""Puzzles by their name: generated, or read from published files, on first use."""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from deqjax.data._prepare import manual_folder, prepared
from deqjax.data._read import SPLITS, read_texts
from deqjax.data.pipeline import DataError
from deqjax.data.puzzles._generate import Splits, generate
from deqjax.data.puzzles._kind import PuzzleKind
from deqjax.data.puzzles._progress import progress
from deqjax.data.puzzles._published import PUBLISHED, read_published
from deqjax.data.puzzles._puzzle_set import PuzzleSet, dataset
from deqjax.data.puzzles._request import grades_of, kind_of, wanted_puzzles


def load_puzzles(
    name: str,
    *,
    size: int | None = None,
    count: int | None = None,
    seed: int = 0,
    difficulty: str = "mixed",
    augment: bool = True,
    directory: str | os.PathLike[str] | None = None,
    manual_directory: str | os.PathLike[str] | None = None,
) -> PuzzleSet:
    """Puzzles by their name, made on first use.

    - "sudoku4", "sudoku6", "sudoku9": Sudoku of 4 x 4 cells (boxes of 2 x 2), 6 x 6 (2 x 3) and
      9 x 9 (3 x 3), each with one solution. Tokens: 1 a blank, 2 the digit 1, and so on. Difficulty
      says how many clues are left: "easy" 8, 18, 40; "medium" 6, 13, 30; "hard" so few that none
      of them could be left out (4 to 6, about 10, about 24).
    - "mazes": size x size cells, an odd number (15 unless told otherwise), with one shortest way.
      Tokens: 1 a wall, 2 free, 3 the start, 4 the goal, 5 the way, in the targets alone. Difficulty
      says how many steps the way takes: "easy" fewer than the size, "medium" than twice the size,
      "hard" as many or more. In a third to a half of the mazes some ways lead around.
    - "prefix_sums": strings of size bits (32 unless told otherwise). Tokens: 1 the bit 0, 2 the bit
      1. The target of a bit is the parity of all bits up to it. There is no difficulty.
    - "sudoku_extreme", "maze_hard": the published Sudoku-Extreme (9 x 9) and Maze-Hard (30 x 30,
      tokens as above), from their files train.csv and test.csv in `manual_directory`, or in its
      folder sudoku-extreme or maze-30x30-hard-1k. Training and validation puzzles are drawn from
      the former; all of the latter are for testing. Without size and difficulty. Once they are
      prepared, the files are not read again.

    No two puzzles of a set are equal, and no symmetry makes a held-out puzzle of a training one:
    neither turning and reflecting mazes nor, of Sudoku, exchanging digits, lines of a band, bands
    and, where boxes are square, rows and columns. (Of published test puzzles nothing is known.)

    The same arguments give the same puzzles everywhere. They are kept in `directory`; 10,000
    Sudoku of 9 x 9 cells take a minute or two the first time.

    Args:
        name: one of these.
        size: of mazes and prefix sums; None for Sudoku.
        count: training puzzles; None is 10,000, but 1000 of "sudoku_extreme" and 900 of
            "maze_hard". A tenth as many are for validation and, where they are made, for testing.
        seed: of all that is drawn; at least 0.
        difficulty: one of those, or "mixed", equally many of each.
        augment: whether training puzzles are changed by a random one of those symmetries each time
            that they come.
        directory: the folder of all prepared data sets; None is TFDS's own (the environment
            variable TFDS_DATA_DIR, else ~/tensorflow_datasets).
        manual_directory: where published files lie; None is TFDS's own place for them,
            downloads/manual in the folder of all prepared data sets.

    Raises:
        DataError: there are no such puzzles, an argument is out of its range, there are not so many
            different puzzles, published files are missing or damaged, or prepared data are.
    """
    kind = kind_of(name, size)
    grades = grades_of(name, kind, difficulty)
    wanted = wanted_puzzles(name, kind, grades, count)
    if not 0 <= seed < 2**32:
        raise DataError(f"seed must lie in 0 to {2**32 - 1}, got {seed}")
    recipe = f"{name}_{kind.width}_{difficulty}_count_{wanted['train']}_seed_{seed}"
    make: Callable[[], Splits]
    if name in PUBLISHED:
        manual = manual_folder(directory, manual_directory)
        make = functools.partial(read_published, name, kind, wanted, seed, manual)
    elif manual_directory is not None:
        raise DataError(
            f"{name!r} takes no manual_directory, got {str(manual_directory)!r}: leave it out, or "
            f"choose one of {', '.join(PUBLISHED)}"
        )
    else:
        make = functools.partial(_generated, name, kind, grades, wanted, seed)
    from deqjax.data.puzzles._builder import Puzzles

    builder = prepared(Puzzles, directory=directory, recipe=recipe, make=make)
    arrays = _read(builder, kind)
    symmetry = kind.symmetry if augment else None
    return PuzzleSet(
        name=name,
        symbols=kind.symbols,
        height=kind.height,
        width=kind.width,
        train=dataset(*arrays["train"], symmetry, seed),
        validation=dataset(*arrays["validation"], None, seed),
        test=dataset(*arrays["test"], None, seed),
        identity=f"{recipe} {builder.version}, augment {symmetry is not None}",
        _arrays=arrays,
    )


def _generated(
    name: str, kind: PuzzleKind, grades: list[str], wanted: dict[str, int], seed: int
) -> Splits:
    with progress(f"Making {name}", sum(wanted.values())) as report:
        return generate(name, kind, grades=grades, wanted=wanted, seed=seed, report=report)


def _read(builder: Any, kind: PuzzleKind) -> Splits:
    """All rows, (rows, cells) uint8 and read-only."""
    cells = kind.height * kind.width
    result = {}
    for split in SPLITS:
        inputs, targets = (
            np.frombuffer(b"".join(read_texts(builder, split, feature)), np.uint8)
            for feature in ("inputs", "targets")
        )
        result[split] = inputs.reshape(-1, cells), targets.reshape(-1, cells)
    return result
