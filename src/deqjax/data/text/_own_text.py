"""Reads a text of one's own: a file in UTF-8, several, or a folder of them."""

import codecs
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from deqjax.data._paths import expanded
from deqjax.data.pipeline import DataError

Source: TypeAlias = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A file, a folder, or several of them."""

# More than can be prepared in any shares; what is no regular file may be endless.
_MOST_BYTES = 3 * 10**9
_MOST_BYTES_OF_A_PIPE = 10**9
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(source: Source) -> str:
    """The text of a file, or of several that follow each other, each newline as it is on disk.

    Several are one text, as what is cut into splits and windows is one: a file that does not end
    with a newline gets one, so that no word runs into the next file, and nothing else is put
    between them. A byte order mark is left out.

    Args:
        source: a file; a folder, whose files are taken in the order of their paths, those in its
            folders too, without hidden ones; or several of these in the order given.

    Raises:
        DataError: a file cannot be read, is no UTF-8 or has no end, or there is no text.
    """
    given = [source] if isinstance(source, str | os.PathLike) else list(source)
    files = [file for each in given for file in _files(expanded(each, "a text file"))]
    texts = []
    for file in files:
        text = _decoded(file)
        if not text:
            raise DataError(f"the text file {str(file)!r} is empty: give a file with text")
        texts.append(text)
    if not texts:
        raise DataError(f"there is no text file in {given!r}: give a file with text")
    ended = [text if text.endswith(("\n", "\r")) else f"{text}\n" for text in texts[:-1]]
    return "".join([*ended, texts[-1]])


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = sorted(_below(path), key=lambda file: file.relative_to(path).as_posix())
    if not found:
        raise DataError(f"there is no text file in the folder {str(path)!r}: put some into it")
    return found


def _below(folder: Path) -> Iterator[Path]:
    """The files in a folder and in its folders; hidden ones and empty files are passed over."""
    try:
        for path in folder.iterdir():
            if path.name.startswith("."):
                continue
            if not path.is_dir():
                if not path.is_file() or path.stat().st_size:
                    yield path
            elif path.is_symlink():
                raise DataError(
                    f"{str(path)!r} is a link to another folder: put the folder itself there"
                )
            else:
                yield from _below(path)
    except OSError as error:
        raise DataError(
            f"the folder {str(folder)!r} cannot be read ({error.strerror}): make it readable"
        ) from error


def _decoded(path: Path) -> str:
    try:
        content = _content(path)
    except OSError as error:
        raise DataError(
            f"the text file {str(path)!r} cannot be read ({error.strerror}): give the path of a "
            "UTF-8 text file"
        ) from error
    if content.startswith(_UTF_16):
        raise DataError(f"the text file {str(path)!r} is UTF-16: convert it to UTF-8 first")
    try:
        return content.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError as error:
        # as it is on disk, with the mark
        offset = error.start + len(content) - len(error.object)
        raise DataError(
            f"the text file {str(path)!r} is no UTF-8 (byte {content[offset]:#04x} at "
            f"offset {offset}): convert it to UTF-8 first"
        ) from error


def _content(path: Path) -> bytes:
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise DataError(
            f"{str(path)!r} is a device or a socket, which may have no end: give a file with text"
        )
    most = _MOST_BYTES if stat.S_ISREG(mode) else _MOST_BYTES_OF_A_PIPE
    if path.stat().st_size <= most:
        with open(path, "rb") as stream:
            content = stream.read(most + 1)
        if len(content) <= most:
            return content
    raise DataError(
        f"the text file {str(path)!r} has more than the {most} bytes that are read: give a shorter "
        "one"
    )
