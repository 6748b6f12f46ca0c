"""The corpora by name: prepared on first use, read back as vectors of tokens."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deqjax.data._prepare import manual_folder, prepared
from deqjax.data._read import SPLITS, read_texts
from deqjax.data.pipeline import DataError
from deqjax.data.text._own_text import Source, read_text
from deqjax.data.text._text import load_bytes
from deqjax.data.text._token_cache import Encoded, cached_tokens
from deqjax.data.text._vocabulary import Vocabulary

_TEXT_FILES = ("text_bytes", "text_characters", "text_words", "text_pieces")
_WIKITEXTS = ("wikitext103", "wikitext2")
CORPORA = ("stdlib", *_TEXT_FILES, *_WIKITEXTS)
"""The names that [`deqjax.data.load_corpus`][] knows."""
_FRACTIONS = (0.9, 0.1, 0.0)
_LIMIT_VOCABULARY = {"text_words": 50_000, "text_pieces": 32_768}
_OWNERS = {
    "file": _TEXT_FILES,
    "manual_directory": _WIKITEXTS,
    "fractions": _TEXT_FILES,
    "limit_vocabulary": tuple(_LIMIT_VOCABULARY),
    "tokenizer": ("text_pieces",),
}
# Named after the encoding: raise the number whenever the same text begins to give other tokens.
_TOKEN_FOLDER = "words-1"
_PIECES_FOLDER = "pieces-1"


class Corpus(NamedTuple):
    """The splits of a corpus as tokens.

    Attributes:
        train: (tokens,) of the vocabulary's dtype, possibly read-only.
        validation: likewise; may be empty.
        test: likewise; may be empty.
        vocabulary: what the tokens stand for.
    """

    train: NDArray[Any]
    validation: NDArray[Any]
    test: NDArray[Any]
    vocabulary: Vocabulary


def load_corpus(
    name: str,
    *,
    directory: str | os.PathLike[str] | None = None,
    file: Source | None = None,
    manual_directory: str | os.PathLike[str] | None = None,
    fractions: tuple[float, float, float] | None = None,
    limit_vocabulary: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    vocabulary: Vocabulary | None = None,
) -> Corpus:
    """A corpus by its name, prepared on first use.

    - "stdlib": the running Python's standard library as bytes (`load_bytes`).
    - "text_bytes", "text_characters", "text_words": any UTF-8 text, as bytes, characters or words.
      The vocabulary of characters is that of the whole text; that of words has the most frequent
      ones of the training split, and `<unk>` for the others.
    - "text_pieces": any UTF-8 text as pieces of words, by a tokenizer that is read from a file or
      trained on the training split.
    - "wikitext103", "wikitext2": Wikipedia as words, with the vocabulary of the training split.
      Encoded on first use (WikiText-103: a few minutes), then read from the disk.

    Args:
        name: one of these.
        directory: the folder of all prepared data sets; None is TFDS's own (the environment
            variable TFDS_DATA_DIR, else ~/tensorflow_datasets).
        file: the text of those four: a file; a folder, whose files are taken in the order of
            their paths; or several of these. The files of several are one text, in which each ends
            with a newline.
        manual_directory: where the archive of a WikiText lies; None is TFDS's own place for what
            it does not download, downloads/manual in the folder of all prepared data sets.
        fractions: the shares of train, validation and test in a text file's characters; None is
            (0.9, 0.1, 0.0).
        limit_vocabulary: so many symbols at most in the vocabulary of "text_words" or
            "text_pieces"; None is 50,000 or 32,768.
        tokenizer: a tokenizer.json of the package tokenizers for "text_pieces"; None trains one.
        vocabulary: what tokens stand for, from a run that was trained: the text is encoded with it,
            and what it does not know is refused. None counts one as above.

    Raises:
        DataError: there is no such corpus, an argument is missing or belongs to another corpus, or
            raw or prepared data are missing or damaged.
    """
    _check_arguments(
        name,
        {
            "file": file,
            "manual_directory": manual_directory,
            "fractions": fractions,
            "limit_vocabulary": limit_vocabulary,
            "tokenizer": tokenizer,
        },
    )
    if vocabulary is not None and vocabulary.kind != (kind := _kind(name)):
        raise DataError(
            f"the corpus {name!r} has tokens for {kind}, but the vocabulary given is of "
            f"{vocabulary.kind}: take the one that belongs to it"
        )
    if name in _WIKITEXTS:
        return _wikitext(name, directory, manual_directory, vocabulary)
    if file is not None:
        shares = _FRACTIONS if fractions is None else fractions
        limit = _LIMIT_VOCABULARY.get(name) if limit_vocabulary is None else limit_vocabulary
        if vocabulary is None and tokenizer is not None:
            vocabulary = Vocabulary.from_tokenizer(tokenizer)
        return _own_text(name, directory, file, shares, limit, vocabulary)
    splits = {split: load_bytes(split, directory=directory) for split in SPLITS}
    return Corpus(**splits, vocabulary=Vocabulary.of_bytes())


def _kind(name: str) -> str:
    if name in _WIKITEXTS:
        return "words"
    return name.removeprefix("text_") if name in _TEXT_FILES else "bytes"


def _check_arguments(name: str, given: Mapping[str, Any]) -> None:
    if name not in CORPORA:
        raise DataError(f"there is no corpus {name!r}: choose one of {', '.join(CORPORA)}")
    if name in _TEXT_FILES and given["file"] is None:
        raise DataError(f"the corpus {name!r} needs a file: give a UTF-8 text file with file=")
    for argument, owners in _OWNERS.items():
        value = given[argument]
        if value is not None and name not in owners:
            raise DataError(
                f"the corpus {name!r} takes no {argument}, got {str(value)!r}: leave it out, or "
                f"choose one of {', '.join(owners)}"
            )


def _own_text(
    name: str,
    directory: Any,
    file: Source,
    fractions: Any,
    limit: int | None,
    vocabulary: Vocabulary | None,
) -> Corpus:
    from deqjax.data.text._text_file import TextFile

    text = read_text(file)
    builder = prepared(TextFile, directory=directory, text=text, fractions=tuple(fractions))
    # joined again: where the text is cut into examples, a word may be
    splits = {
        split: "".join(_decoded(builder, split)) if split in builder.info.splits else ""
        for split in SPLITS
    }
    if vocabulary is None:
        match _kind(name):
            case "characters":
                vocabulary = Vocabulary.of_characters(text)
            case "words":
                vocabulary = Vocabulary.of_words(splits["train"], limit)
            case "pieces":
                assert limit is not None  # for the type checker: pieces have a limit
                vocabulary = _trained(Path(builder.data_dir), splits["train"], limit)
            case _:
                vocabulary = Vocabulary.of_bytes()
    counted = vocabulary

    def encoded() -> Encoded:
        return Encoded({split: counted.encode(part) for split, part in splits.items()}, counted)

    if _kind(name) == "pieces":  # which takes minutes for a large text
        folder = f"{_PIECES_FOLDER}-{counted.fingerprint}"
        return _corpus(cached_tokens(Path(builder.data_dir) / folder, encoded))
    try:
        return _corpus(encoded())
    except DataError as error:  # it was not counted here
        raise DataError(f"the text has changed since its vocabulary was counted: {error}") from (
            error
        )


def _trained(place: Path, text: str, limit: int) -> Vocabulary:
    """The pieces of a text, trained once: the file that is kept of them is whole or not there."""
    kept = place / f"{_PIECES_FOLDER}-{limit}.json"
    # not there yet, or damaged: trained again it is the same
    with contextlib.suppress(DataError):
        return Vocabulary.from_tokenizer(kept)
    vocabulary = Vocabulary.of_pieces(text, limit)
    with contextlib.suppress(OSError), tempfile.NamedTemporaryFile(dir=place, delete=False) as new:
        Path(new.name).write_text(vocabulary.symbols[0], encoding="utf-8")
        os.replace(new.name, kept)
    return vocabulary


def _corpus(found: Encoded) -> Corpus:
    return Corpus(**found.splits, vocabulary=found.vocabulary)


def _wikitext(
    name: str, directory: Any, manual_directory: Any, vocabulary: Vocabulary | None
) -> Corpus:
    from deqjax.data.text._wikitext import WikiText

    builder = prepared(
        WikiText,
        directory=directory,
        config=name,
        manual_directory=str(manual_folder(directory, manual_directory)),
    )

    def encode(vocabulary: Vocabulary | None) -> Encoded:
        if vocabulary is None:
            vocabulary = Vocabulary.of_words(_decoded(builder, "train"))
        splits = {
            split: _encode(vocabulary, _with_last_line_ended(_decoded(builder, split)))
            for split in SPLITS
        }
        return Encoded(splits, vocabulary)

    # Inside the data set's own folder: who deletes that one deletes its tokens as well.
    found = cached_tokens(Path(builder.data_dir) / _TOKEN_FOLDER, lambda: encode(None))
    if vocabulary is not None and vocabulary != found.vocabulary:
        found = encode(vocabulary)
    return _corpus(found)


def _decoded(builder: Any, split: str) -> Iterator[str]:
    return (text.decode() for text in read_texts(builder, split))


def _encode(vocabulary: Vocabulary, texts: Iterable[str]) -> NDArray[Any]:
    """The tokens of texts that follow each other; only one text is held as strings at a time."""
    return np.concatenate([vocabulary.encode(text) for text in texts])


def _with_last_line_ended(texts: Iterable[str]) -> Iterator[str]:
    """The same text, with a newline after its last line if it has none: every line has an end."""
    last = "\n"
    for last in texts:
        yield last
    if not last.endswith(("\n", "\r")):
        yield "\n"
