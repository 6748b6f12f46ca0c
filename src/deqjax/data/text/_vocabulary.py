"""What a token stands for: bytes, characters, words, pieces; from text to tokens and back."""

import codecs
import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deqjax.data.pipeline import DataError
from deqjax.data.text._pieces import (
    PieceDecoder,
    lines_of,
    load_tokenizer,
    read_tokenizer,
    train_tokenizer,
)

Kind = Literal["bytes", "characters", "words", "pieces"]

END_OF_LINE = "<eos>"
UNKNOWN = "<unk>"
_BYTES = 256
_CODE_POINTS = 0x110000  # all of Unicode
_NO_TOKEN = -1


@dataclass(frozen=True, repr=False)
class Vocabulary:
    """A mapping between text and tokens 0 to `size` - 1.

    "bytes": the UTF-8 bytes; every text has tokens. "characters": one token a character. "words":
    the text is split at white space, and every newline is the token `<eos>`; a word outside the
    vocabulary is `<unk>` if the vocabulary has that word. "pieces": what a tokenizer of the package
    tokenizers makes of each line.

    Build one with `of_bytes`, `of_characters`, `of_words`, `of_pieces` or `from_tokenizer`. Equal
    vocabularies compare equal.

    Attributes:
        kind: "bytes", "characters", "words" or "pieces".
        symbols: the text of each token in the order of the tokens; empty for bytes, and for pieces
            the one that describes the tokenizer.

    Raises:
        DataError: the symbols do not fit the kind.
    """

    kind: Kind
    symbols: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DataError(
                f"there is no vocabulary of {self.kind!r}: choose {', '.join(get_args(Kind))}"
            )
        if len(set(self.symbols)) < len(self.symbols):
            twice = next(s for s, count in Counter(self.symbols).items() if count > 1)
            raise DataError(f"a vocabulary must not hold {twice!r} twice")
        if not self._symbols_fit():
            raise DataError(
                "a vocabulary holds no symbols for bytes, single characters for characters, "
                f"words without white space, {END_OF_LINE} first, for words, and one description "
                "of a tokenizer for pieces: these "
                f"{len(self.symbols)} symbols are none for {self.kind}"
            )

    def _symbols_fit(self) -> bool:
        if self.kind == "bytes":
            return not self.symbols
        if self.kind == "characters":
            return bool(self.symbols) and all(len(symbol) == 1 for symbol in self.symbols)
        if self.kind == "pieces":
            return len(self.symbols) == 1
        return self.symbols[:1] == (END_OF_LINE,) and all(
            symbol.split() == [symbol] for symbol in self.symbols
        )

    @classmethod
    def of_bytes(cls) -> "Vocabulary":
        """The 256 bytes."""
        return cls("bytes")

    @classmethod
    def of_characters(cls, texts: str | Iterable[str]) -> "Vocabulary":
        """Every character that occurs in the text (or texts), sorted by code point.

        Raises:
            DataError: the text is empty.
        """
        characters: set[str] = set()
        for text in _each_text(texts):
            characters.update(text)
        if not characters:
            raise DataError("an empty text has no characters: give the text to train on")
        return cls("characters", tuple(sorted(characters)))

    @classmethod
    def of_words(cls, texts: str | Iterable[str], limit: int | None = None) -> "Vocabulary":
        """`<eos>`, then every word of the text (or texts) by falling frequency.

        Words that are equally frequent stay in the order of their first occurrence. This is the
        order that published Transformer-XL and DEQ models use for WikiText-103 (267 735 words):
        their tokens mean the same as these, and the clusters of an adaptive softmax hold ever
        rarer words.

        Args:
            texts: the training text, or its pieces, each ended at white space.
            limit: so many symbols at most, the most frequent words and `<unk>`, which stands for
                all others at the place of their frequency, and last where there are none. None
                takes every word, and `<unk>` only if the text has it.

        Raises:
            DataError: a limit below 3, which leaves no word.
        """
        counts: Counter[str] = Counter()
        for text in _each_text(texts):
            counts.update(split_words(text))
        del counts[END_OF_LINE]
        words = [word for word, _ in counts.most_common()]
        if limit is not None:
            words = _limited(counts, words, limit)
        return cls("words", (END_OF_LINE, *words))

    @classmethod
    def of_pieces(cls, texts: str | Iterable[str], size: int) -> "Vocabulary":
        """Pieces of words by byte pair encoding of the text (or texts).

        Args:
            texts: the training text, or its pieces.
            size: tokens at most, the 256 bytes among them.

        Raises:
            DataError: the package tokenizers is not installed, or a size below 256.
        """
        return cls("pieces", (train_tokenizer(_each_text(texts), size),))

    @classmethod
    def from_tokenizer(cls, file: str | os.PathLike[str]) -> "Vocabulary":
        """Pieces of words as a tokenizer.json says.

        Raises:
            DataError: the package tokenizers is not installed, or the file is none.
        """
        return cls("pieces", (read_tokenizer(file),))

    @cached_property
    def size(self) -> int:
        """How many different tokens there are; of pieces, one more than the largest."""
        if self.kind == "pieces":  # a published tokenizer may leave numbers out
            return 1 + max(self.tokenizer.get_vocab().values(), default=-1)
        return _BYTES if self.kind == "bytes" else len(self.symbols)

    @property
    def dtype(self) -> np.dtype:
        """The smallest of uint8, uint16 and int32 that holds every token."""
        if self.size <= 2**8:
            return np.dtype(np.uint8)
        return np.dtype(np.uint16 if self.size <= 2**16 else np.int32)

    @property
    def fingerprint(self) -> str:
        """Names the mapping in 16 hexadecimal digits: other symbols or another order change it."""
        content = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def encode(self, text: str) -> NDArray[Any]:
        """The tokens of a text.

        Words: `<eos>` stands for newlines only, so a prompt may end within a line.

        Returns:
            (tokens,) of `dtype`.

        Raises:
            DataError: a character or word is outside the vocabulary; it names the first one.
        """
        if self.kind == "bytes":
            return np.frombuffer(_utf_8(text), np.uint8)
        if self.kind == "pieces":
            found = self.tokenizer.encode_batch(list(lines_of(text)), add_special_tokens=False)
            return np.asarray([token for line in found for token in line.ids], self.dtype)
        tokens = self._character_tokens(text) if self.kind == "characters" else self._words(text)
        return tokens.astype(self.dtype)

    def decode(self, tokens: ArrayLike) -> str:
        """The text of a vector of tokens.

        Bytes that are no UTF-8 become U+FFFD. Words are joined with spaces, and `<eos>` is a
        newline: spaces at the ends of lines do not come back.

        Raises:
            DataError: a token is outside the vocabulary.
        """
        decoder = self.decoder()
        return decoder.decode(tokens) + decoder.finish()

    def decoder(self) -> "TextDecoder":
        """A decoder that takes the tokens piece by piece, as a model generates them."""
        return TextDecoder(self)

    def to_dict(self) -> dict[str, Any]:
        """The vocabulary as values that JSON can hold."""
        return {"kind": self.kind, "symbols": list(self.symbols)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Vocabulary":
        """What `to_dict` gave.

        Raises:
            DataError: the values are no vocabulary.
        """
        if not isinstance(values, Mapping):
            raise DataError(
                f"a saved vocabulary is what to_dict gave, not a {type(values).__name__}: write it "
                "anew"
            )
        symbols = values.get("symbols")
        if (
            values.keys() != {"kind", "symbols"}
            or not isinstance(symbols, list)
            or not all(isinstance(symbol, str) for symbol in symbols)
        ):
            raise DataError(
                'a saved vocabulary has a "kind" and a list of "symbols", but this one has '
                f"{', '.join(sorted(map(str, values))) or 'nothing'}: write it anew with to_dict"
            )
        return cls(values["kind"], tuple(symbols))

    def __repr__(self) -> str:
        return f"Vocabulary({self.size} {self.kind})"

    @cached_property
    def tokenizer(self) -> Any:
        """That of pieces, of the package tokenizers.

        Raises:
            DataError: the package is not installed.
        """
        return load_tokenizer(self.symbols[0])

    @cached_property
    def _token_of_word(self) -> dict[str, int]:
        return {word: token for token, word in enumerate(self.symbols)}

    @cached_property
    def _token_of_code_point(self) -> NDArray[np.int32]:
        tokens = np.full(_CODE_POINTS, _NO_TOKEN, np.int32)
        tokens[[ord(character) for character in self.symbols]] = np.arange(self.size)
        return tokens

    def _character_tokens(self, text: str) -> NDArray[np.int32]:
        code_points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
        tokens = self._token_of_code_point[code_points]
        if (tokens == _NO_TOKEN).any():
            first = text[int(np.argmax(tokens == _NO_TOKEN))]
            raise DataError(
                f"the vocabulary has no character {first!r} (U+{ord(first):04X}): leave it out, or "
                "train on bytes, which know every text"
            )
        return tokens

    def _words(self, text: str) -> NDArray[np.int32]:
        words = split_words(text)
        unknown = self._token_of_word.get(UNKNOWN, _NO_TOKEN)
        found = map(self._token_of_word.get, words, itertools.repeat(unknown))
        tokens = np.fromiter(found, np.int32, count=len(words))
        if unknown == _NO_TOKEN and (tokens == _NO_TOKEN).any():
            first = words[int(np.argmax(tokens == _NO_TOKEN))]
            raise DataError(
                f"the vocabulary has no word {first!r} and no {UNKNOWN} to stand for it: choose "
                "words of the training text, or train on bytes, which know every text"
            )
        return tokens


class TextDecoder:
    """Turns tokens into text piece by piece; the pieces joined are the text of all the tokens.

    A piece never ends within a character of several bytes: its first bytes wait for the others.
    To continue a prompt, decode the prompt's tokens first and leave the result out.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Starts at the beginning of a text."""
        self._vocabulary = vocabulary
        self._bytes = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_line_start = True
        pieces = vocabulary.kind == "pieces"
        self._pieces = PieceDecoder(vocabulary.tokenizer) if pieces else None

    def decode(self, tokens: ArrayLike) -> str:
        """The text that these tokens complete.

        Args:
            tokens: one integer or a vector of them.

        Raises:
            DataError: a token is outside the vocabulary.
        """
        chosen = np.atleast_1d(np.asarray(tokens))
        if chosen.size == 0:
            return ""
        if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer):
            raise DataError(
                f"tokens must be integers in a vector, got {chosen.dtype} of shape {chosen.shape}"
            )
        size = self._vocabulary.size
        outside = (chosen < 0) | (chosen >= size)
        if outside.any():
            raise DataError(
                f"token {chosen[outside][0]} is outside the vocabulary of {size} "
                f"{self._vocabulary.kind}: these tokens belong to another vocabulary"
            )
        if self._vocabulary.kind == "bytes":
            return self._bytes.decode(chosen.astype(np.uint8).tobytes())
        if self._pieces is not None:
            return self._pieces.decode(chosen.tolist())
        symbols = [self._vocabulary.symbols[token] for token in chosen.tolist()]
        return "".join(symbols if self._vocabulary.kind == "characters" else self._lines(symbols))

    def finish(self) -> str:
        """What is left: U+FFFD if the tokens ended within a character, else nothing."""
        left = "" if self._pieces is None else self._pieces.finish()
        return left + self._bytes.decode(b"", final=True)

    def _lines(self, words: list[str]) -> Iterable[str]:
        for word in words:
            if word == END_OF_LINE:
                yield "\n"
            else:
                yield word if self._at_line_start else f" {word}"
            self._at_line_start = word == END_OF_LINE


def split_words(text: str) -> list[str]:
    """The words between white space, with `<eos>` for every newline (of any system)."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.replace("\n", f" {END_OF_LINE} ").split()


def _limited(counts: Counter[str], words: list[str], limit: int) -> list[str]:
    """The first of the words, which fall in frequency, with `<unk>` among them."""
    if limit < 3:
        raise DataError(
            f"a vocabulary of at most {limit} symbols leaves no word beside {END_OF_LINE} and "
            f"{UNKNOWN}: choose a limit of at least 3"
        )
    kept = [word for word in words if word != UNKNOWN][: limit - 2]
    unknown = counts.total() - sum(counts[word] for word in kept)
    place = sum(counts[word] >= unknown for word in kept)
    return [*kept[:place], UNKNOWN, *kept[place:]]


def _each_text(texts: str | Iterable[str]) -> Iterable[str]:
    return [texts] if isinstance(texts, str) else texts


def _utf_8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text holds {text[error.start]!r}, half of a character, which UTF-8 cannot "
            "write: leave it out"
        ) from error
