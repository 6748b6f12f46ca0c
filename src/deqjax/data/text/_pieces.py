"""Pieces of words by byte pair encoding, through the package tokenizers.

Sennrich, Haddow & Birch, ACL 2016, arXiv 1508.07909; over bytes, so that every text has tokens,
Radford et al. 2019.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from deqjax._extras import needs
from deqjax.data._paths import expanded
from deqjax.data.pipeline import DataError

# the bytes, each by itself
_LEAST = 256


def train_tokenizer(texts: Iterable[str], size: int) -> str:
    """Merge the most frequent pairs of a text's pieces until there are so many.

    Args:
        texts: the training text, or its pieces.
        size: tokens at most, the 256 bytes among them.

    Returns:
        What describes the tokenizer, JSON.

    Raises:
        DataError: tokenizers is not installed, or a size below 256.
    """
    if size < _LEAST:
        raise DataError(
            f"a vocabulary of {size} pieces does not hold the {_LEAST} bytes: choose a limit of at "
            f"least {_LEAST}"
        )
    kept = _package()
    tokenizer = kept.Tokenizer(kept.models.BPE())
    tokenizer.pre_tokenizer = kept.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = kept.decoders.ByteLevel()
    trainer = kept.trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=kept.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((line for text in texts for line in lines_of(text)), trainer)
    described: str = tokenizer.to_str()
    return described


def read_tokenizer(file: str | os.PathLike[str]) -> str:
    """What describes the tokenizer in a file, tokenizer.json.

    Raises:
        DataError: tokenizers is not installed, or the file is missing or no tokenizer.
    """
    path = Path(expanded(file, "a tokenizer"))
    try:
        described = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the tokenizer {str(path)!r} cannot be read ({error}): give a tokenizer.json, or "
            "leave it out, and one is trained on the text"
        ) from error
    load_tokenizer(described)
    return described


def load_tokenizer(described: str) -> Any:
    """The tokenizer that JSON describes, without what it may say of lengths: text is not cut.

    Raises:
        DataError: tokenizers is not installed, or it is none.
    """
    kept = _package()
    try:
        tokenizer = kept.Tokenizer.from_str(described)
    except Exception as error:  # the package raises bare ones
        raise DataError(
            f"this is no tokenizer ({str(error)[:200]}): give a tokenizer.json as the package "
            "tokenizers writes it"
        ) from error
    # a published file may have both, and each line would be cut, or filled up
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def lines_of(text: str) -> Iterator[str]:
    """The lines of a text with their ends: a text has the tokens of its lines."""
    first = 0
    while first < len(text):
        end = text.find("\n", first) + 1 or len(text)
        yield text[first:end]
        first = end


def _package() -> Any:
    with needs("pieces", "a text of pieces of words", DataError):
        import tokenizers
    return tokenizers


class PieceDecoder:
    """Turns tokens into text piece by piece; what ends within a character waits.

    Args:
        tokenizer: of `load_tokenizer`.
    """

    def __init__(self, tokenizer: Any) -> None:
        from tokenizers.decoders import DecodeStream

        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=False)
        self._waiting: list[int] = []

    def decode(self, tokens: Iterable[int]) -> str:
        """The text that these tokens complete."""
        return "".join(map(self._completed, tokens))

    def finish(self) -> str:
        """What is left, with U+FFFD for what is no character."""
        waiting, self._waiting = self._waiting, []
        left: str = self._tokenizer.decode(waiting, skip_special_tokens=False)
        return left

    def _completed(self, token: int) -> str:
        self._waiting.append(token)
        text: str | None = self._stream.step(self._tokenizer, token)
        if text is None:
            return ""
        self._waiting = []
        return text
