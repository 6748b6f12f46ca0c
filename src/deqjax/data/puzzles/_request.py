"""What is asked for, checked before any work is done."""

from deqjax.data.pipeline import DataError
from deqjax.data.puzzles._kind import PuzzleKind
from deqjax.data.puzzles._maze_kind import LEAST_SIDE, maze_kind
from deqjax.data.puzzles._names import base_name
from deqjax.data.puzzles._prefix_kind import prefix_kind
from deqjax.data.puzzles._published import PUBLISHED
from deqjax.data.puzzles._sudoku_kind import sudoku_kind

_COUNT = 10_000  # training puzzles, unless told otherwise
_SIZES = {"mazes": (LEAST_SIDE, 15, 255), "prefix_sums": (1, 32, 65_536)}
"""The least size, the one unless told otherwise, and the largest."""
_PUBLISHED_SIDE = 30
# TFDS sorts a split in memory up to 1000 MiB; beyond that it asks for TensorFlow's files.
_BYTES = 10**9


def kind_of(name: str, size: int | None) -> PuzzleKind:
    """What there is to know of the puzzles of that name and size.

    Raises:
        DataError: there are none.
    """
    base = base_name(name)
    if base not in _SIZES or name in PUBLISHED:
        if size is not None:
            raise DataError(f"{name!r} takes no size, got {size}: leave it out")
        return maze_kind(_PUBLISHED_SIDE) if base == "mazes" else sudoku_kind(int(base[-1]))
    low, usual, high = _SIZES[base]
    chosen = usual if size is None else size
    if not low <= chosen <= high or (base == "mazes" and chosen % 2 == 0):
        what = "an odd number in" if base == "mazes" else "in"
        raise DataError(f"the size of {name!r} must be {what} {low} to {high}, got {chosen}")
    return maze_kind(chosen) if base == "mazes" else prefix_kind(chosen)


def grades_of(name: str, kind: PuzzleKind, difficulty: str) -> list[str]:
    """The grades that puzzles are drawn from.

    Raises:
        DataError: the puzzles have no such difficulty.
    """
    if difficulty == "mixed":
        return list(kind.grades)
    if name in PUBLISHED:
        raise DataError(f"{name!r} takes no difficulty, got {difficulty!r}: leave it out")
    if difficulty not in kind.grades:
        known = ", ".join(dict.fromkeys([*kind.grades, "mixed"]))
        raise DataError(f"{name!r} has no difficulty {difficulty!r}: choose one of {known}")
    return [difficulty]


def wanted_puzzles(
    name: str, kind: PuzzleKind, grades: list[str], count: int | None
) -> dict[str, int]:
    """How many puzzles each split is to have; without "test" of published ones, taken as it is.

    Raises:
        DataError: there are not so many, or they are more than can be kept.
    """
    if count is None:
        count = PUBLISHED[name].train if name in PUBLISHED else _COUNT
    if count < 1:
        raise DataError(f"count must be at least 1, got {count}")
    held_out = max(1, count // 10)
    wanted = {"train": count, "validation": held_out}
    if name in PUBLISHED:
        return wanted
    wanted["test"] = held_out
    total = sum(wanted.values())
    for grade in grades:
        exist = kind.grades[grade]
        if exist is not None and 2 * total > exist * len(grades):
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
