"""Puzzles by their name: generated, or read from published files, on first use."""

import functools
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from deqjax.data._prepare import prepared
from deqjax.data._read import SPLITS, read_texts
from deqjax.data.pipeline import DataError
from deqjax.data.puzzles._generate import Splits, generate
from deqjax.data.puzzles._kind import PuzzleKind
from deqjax.data.puzzles._maze_kind import LEAST_SIDE, maze_kind
from deqjax.data.puzzles._names import base_name
from deqjax.data.puzzles._prefix_kind import prefix_kind
from deqjax.data.puzzles._progress import progress
from deqjax.data.puzzles._published import PUBLISHED, manual_folder, read_published
from deqjax.data.puzzles._puzzle_set import PuzzleSet, dataset
from deqjax.data.puzzles._sudoku_kind import sudoku_kind

_COUNT = 10_000
_SIZES = {"mazes": 15, "prefix_sums": 32}
_LARGEST = {"mazes": 255, "prefix_sums": 65_536}
_PUBLISHED_SIDE = 30
_LEAST = {"mazes": LEAST_SIDE, "prefix_sums": 1}
# TFDS sorts a split in memory up to 1000 MiB; beyond that it asks for TensorFlow's files.
_BYTES = 10**9


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
      "hard" more. In a third to a half of the mazes some ways lead around.
    - "prefix_sums": strings of size bits (32 unless told otherwise). Tokens: 1 the bit 0, 2 the bit
      1. The target of a bit is the parity of all bits up to it. There is no difficulty.

    - "sudoku_extreme", "maze_hard": the published Sudoku-Extreme (9 x 9) and Maze-Hard (30 x 30,
      tokens as above), from their files train.csv and test.csv in `manual_directory`, or in its
      folder sudoku-extreme or maze-30x30-hard-1k. Training and validation puzzles are drawn from
      the former; all of the latter are for testing. Without size and difficulty.

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
    base = base_name(name)
    kind = _kind(name, base, size)
    grades = _grades(name, kind, difficulty)
    wanted = _wanted(name, kind, grades, count)
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
        tokens=kind.tokens,
        height=kind.height,
        width=kind.width,
        train=dataset(*arrays["train"], symmetry, seed),
        validation=dataset(*arrays["validation"], None, seed),
        test=dataset(*arrays["test"], None, seed),
        identity=f"{recipe} {builder.version}, augment {symmetry is not None}",
        _arrays=arrays,
    )


def _kind(name: str, base: str, size: int | None) -> PuzzleKind:
    if base not in _SIZES or name in PUBLISHED:
        if size is not None:
            raise DataError(f"{name!r} takes no size, got {size}: leave it out")
        return maze_kind(_PUBLISHED_SIDE) if base == "mazes" else sudoku_kind(int(base[-1]))
    chosen = _SIZES[base] if size is None else size
    low, high = _LEAST[base], _LARGEST[base]
    if not low <= chosen <= high or (base == "mazes" and chosen % 2 == 0):
        what = "an odd number in" if base == "mazes" else "in"
        raise DataError(f"the size of {name!r} must be {what} {low} to {high}, got {chosen}")
    return maze_kind(chosen) if base == "mazes" else prefix_kind(chosen)


def _grades(name: str, kind: PuzzleKind, difficulty: str) -> list[str]:
    if difficulty == "mixed":
        return list(kind.grades)
    if name in PUBLISHED:
        raise DataError(f"{name!r} takes no difficulty, got {difficulty!r}: leave it out")
    if difficulty not in kind.grades:
        known = ", ".join(dict.fromkeys([*kind.grades, "mixed"]))
        raise DataError(f"{name!r} has no difficulty {difficulty!r}: choose one of {known}")
    return [difficulty]


def _wanted(name: str, kind: PuzzleKind, grades: list[str], count: int | None) -> dict[str, int]:
    if count is None:
        count = PUBLISHED[name].train if name in PUBLISHED else _COUNT
    if count < 1:
        raise DataError(f"count must be at least 1, got {count}")
    held_out = max(1, count // 10)
    wanted = {"train": count, "validation": held_out}
    if name in PUBLISHED:  # whose test file is taken whole
        return wanted
    wanted["test"] = held_out
    total = sum(wanted.values())
    for grade in grades:
        exist = kind.grades[grade]
        if exist is not None and total / len(grades) > exist / 2:
            raise DataError(
                f"count {count} and {2 * held_out} puzzles held out are more than half of the "
                f"{exist} that {name!r} has of the difficulty {grade!r}: choose a smaller count"
            )
    if count * kind.height * kind.width > _BYTES:
        raise DataError(
            f"count {count} of {kind.height * kind.width} cells are more than the {_BYTES} bytes "
            "that can be prepared: choose a smaller count"
        )
    return wanted


def _generated(
    name: str, kind: PuzzleKind, grades: list[str], wanted: dict[str, int], seed: int
) -> Splits:
    with progress(f"Making {name}", sum(wanted.values())) as report:
        return generate(name, kind, grades=grades, wanted=wanted, seed=seed, report=report)


def _read(builder: Any, kind: PuzzleKind) -> Splits:
    cells = kind.height * kind.width
    result = {}
    for split in SPLITS:
        inputs, targets = (
            np.frombuffer(b"".join(read_texts(builder, split, feature)), np.uint8)
            for feature in ("inputs", "targets")
        )
        result[split] = inputs.reshape(-1, cells), targets.reshape(-1, cells)
    return result
