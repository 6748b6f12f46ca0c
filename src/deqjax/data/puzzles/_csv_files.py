"""Puzzles from CSV files, which name the columns question and answer in their first line."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqjax.data.pipeline import DataError
from deqjax.data.puzzles._kind import Rows

_READ_AT_ONCE = 2**16


class Chunk(NamedTuple):
    """Some puzzles of a file.

    Attributes:
        inputs: (puzzles, cells).
        targets: (puzzles, cells).
        lines: (puzzles,), where they stand, from 1.
    """

    inputs: Rows
    targets: Rows
    lines: NDArray[np.int64]

    def taken(self, rows: NDArray[np.intp]) -> "Chunk":
        """Those of these numbers."""
        return Chunk(self.inputs[rows], self.targets[rows], self.lines[rows])


def joined(parts: list[Chunk]) -> Chunk:
    """The puzzles of several chunks, at least one."""
    return Chunk(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def chunks(file: Path, symbols: tuple[str, ...], cells: int) -> Iterator[Chunk]:
    """The puzzles of a file, many at a time; at least one.

    Args:
        file: to read.
        symbols: what stands for the tokens from 1; each character of one does.
        cells: of a puzzle.

    Raises:
        DataError: the file cannot be read, or a line is damaged, which it names.
    """
    table = np.zeros(256, np.uint8)
    for token, characters in enumerate(symbols, 1):
        table[list(characters.encode())] = token
    texts: tuple[list[str], list[str]] = ([], [])
    lines: list[int] = []
    line = 1
    for line, question, answer in _rows(file):
        for text, kept in zip((question, answer), texts, strict=True):
            if len(text) != cells:
                raise damaged_line(file, line, f"a puzzle of {len(text)} cells, not {cells}")
            kept.append(text)
        lines.append(line)
        if len(lines) == _READ_AT_ONCE:
            yield _encoded(file, texts, lines, table)
            texts, lines = ([], []), []
    if line == 1:
        raise damaged_line(file, 2, "there is no puzzle")
    if lines:
        yield _encoded(file, texts, lines, table)


def _encoded(
    file: Path, texts: tuple[list[str], list[str]], lines: list[int], table: NDArray[np.uint8]
) -> Chunk:
    numbers = np.array(lines)
    # what is no ASCII becomes a question mark, which stands for no token either
    codes = [
        np.frombuffer("".join(part).encode("ascii", "replace"), np.uint8).reshape(len(lines), -1)
        for part in texts
    ]
    inputs, targets = table[codes[0]], table[codes[1]]
    unknown = np.flatnonzero(~(inputs.all(axis=1) & targets.all(axis=1)))
    if len(unknown):
        raise damaged_line(file, numbers[unknown[0]], "there are symbols that no puzzle has")
    return Chunk(inputs, targets, numbers)


def _rows(file: Path) -> Iterator[tuple[int, str, str]]:
    """The line, the question and the answer of every puzzle."""
    # what is no text becomes a symbol that no puzzle has
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        reader = csv.reader(stream)
        try:
            header = next(reader, [])
            if not {"question", "answer"} <= set(header):
                raise damaged_line(file, 1, "it does not name the columns question and answer")
            question, answer = header.index("question"), header.index("answer")
            for row in filter(None, reader):
                if len(row) != len(header):
                    what = f"there are {len(row)} columns, not {len(header)}"
                    raise damaged_line(file, reader.line_num, what)
                yield reader.line_num, row[question], row[answer]
        except csv.Error as error:
            raise damaged_line(file, reader.line_num, str(error)) from error
        except OSError as error:
            raise DataError(f"{str(file)!r} cannot be read ({error.strerror})") from error


def damaged_line(file: Path, line: int, what: str) -> DataError:
    """The error that names a line, what is wrong with it and the way out."""
    return DataError(f"line {line} of {str(file)!r} is damaged ({what}): download the file again")
