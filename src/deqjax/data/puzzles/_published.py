"""Puzzles that others have published, from the CSV files that they come in."""

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqjax.data._prepare import data_root
from deqjax.data.pipeline import DataError
from deqjax.data.puzzles._check import check_solution
from deqjax.data.puzzles._generate import Dealer, Splits
from deqjax.data.puzzles._kind import PuzzleKind, Rows

_READ_AT_ONCE = 2**16


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


class _Chunk(NamedTuple):
    """Some puzzles of a file; lines count from 1."""

    inputs: Rows
    targets: Rows
    lines: NDArray[np.int64]

    def taken(self, rows: NDArray[np.intp]) -> "_Chunk":
        return _Chunk(self.inputs[rows], self.targets[rows], self.lines[rows])


def manual_folder(
    directory: str | os.PathLike[str] | None, manual_directory: str | os.PathLike[str] | None
) -> Path:
    """Where downloaded files lie; TFDS's own place for them where none is given."""
    return Path(data_root(manual_directory or Path(data_root(directory), "downloads", "manual")))


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
    tested = _joined(list(_chunks(test, published, kind)))
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
) -> _Chunk:
    """So many puzzles at random, and some more, because a few may be like others."""
    random = np.random.RandomState(seed)
    count = sum(wanted.values()) * 5 // 4 + 16
    some: list[_Chunk] = []
    places = np.empty(0)
    for chunk in _chunks(file, published, kind):
        places = np.concatenate([places, random.random_sample(len(chunk.lines))])
        first = np.argsort(places)[:count]
        some, places = [_joined([*some, chunk]).taken(first)], places[first]
    (kept,) = some
    _check(file, name, kept)
    return kept


def _check(file: Path, name: str, chunk: _Chunk) -> None:
    wrong = np.flatnonzero(~check_solution(name, chunk.inputs, chunk.targets))
    if len(wrong):
        raise _damaged(file, chunk.lines[wrong].min(), "its answer does not solve its question")


def _joined(chunks: list[_Chunk]) -> _Chunk:
    return _Chunk(*(np.concatenate(parts) for parts in zip(*chunks, strict=True)))


def _chunks(file: Path, published: Published, kind: PuzzleKind) -> Iterator[_Chunk]:
    """The puzzles of a file, many at a time; at least one."""
    table = np.zeros(256, np.uint8)
    for token, symbols in enumerate(published.symbols, 1):
        table[list(symbols.encode())] = token
    cells = kind.height * kind.width
    texts: tuple[list[str], list[str]] = ([], [])
    lines: list[int] = []
    line = 1
    for line, question, answer in _rows(file):
        for text, kept in zip((question, answer), texts, strict=True):
            if len(text) != cells:
                raise _damaged(file, line, f"a puzzle of {len(text)} cells, not {cells}")
            kept.append(text)
        lines.append(line)
        if len(lines) == _READ_AT_ONCE:
            yield _encoded(file, texts, lines, table)
            texts, lines = ([], []), []
    if line == 1:
        raise _damaged(file, 2, "there is no puzzle")
    if lines:
        yield _encoded(file, texts, lines, table)


def _encoded(
    file: Path, texts: tuple[list[str], list[str]], lines: list[int], table: NDArray[np.uint8]
) -> _Chunk:
    numbers = np.array(lines)
    # what is no ASCII becomes a question mark, which stands for no token either
    codes = [
        np.frombuffer("".join(part).encode("ascii", "replace"), np.uint8).reshape(len(lines), -1)
        for part in texts
    ]
    inputs, targets = table[codes[0]], table[codes[1]]
    unknown = np.flatnonzero(~(inputs.all(axis=1) & targets.all(axis=1)))
    if len(unknown):
        raise _damaged(file, numbers[unknown[0]], "there are symbols that no puzzle has")
    return _Chunk(inputs, targets, numbers)


def _rows(file: Path) -> Iterator[tuple[int, str, str]]:
    """The line, the question and the answer of every puzzle."""
    with file.open(encoding="utf-8", newline="") as stream:
        reader = csv.reader(stream)
        try:
            header = next(reader, [])
            if not {"question", "answer"} <= set(header):
                raise _damaged(file, 1, "it does not name the columns question and answer")
            question, answer = header.index("question"), header.index("answer")
            for row in reader:
                if len(row) != len(header):
                    what = f"there are {len(row)} columns, not {len(header)}"
                    raise _damaged(file, reader.line_num, what)
                yield reader.line_num, row[question], row[answer]
        except (csv.Error, UnicodeDecodeError) as error:
            raise _damaged(file, reader.line_num + 1, str(error)) from error
        except OSError as error:
            raise DataError(f"{str(file)!r} cannot be read ({error.strerror})") from error


def _damaged(file: Path, line: int, what: str) -> DataError:
    return DataError(f"line {line} of {str(file)!r} is damaged ({what}): download the file again")
