"""A text to try a model with."""

from deqjax.data import DataError, Vocabulary

_USUAL = "the "


def usual_prompt(vocabulary: Vocabulary) -> str | None:
    """The usual "the ", or where that is unknown, the symbol that is most like a word.

    None if there is no such symbol.
    """
    if _knows(vocabulary, _USUAL):
        return _USUAL
    by_symbol = vocabulary.kind in ("characters", "words")
    # not what looks like an option on the command line
    symbols = [each for each in vocabulary.symbols if by_symbol and not each.startswith("-")]
    return min(symbols, key=_oddness, default=None)  # of equals the first: the most frequent word


def _knows(vocabulary: Vocabulary, text: str) -> bool:
    """Whether the tokens of a text stand for itself, and not for an unknown word."""
    try:
        return vocabulary.decode(vocabulary.encode(text)).strip() == text.strip()
    except DataError:
        return False


def _oddness(symbol: str) -> tuple[bool, ...]:
    letters = (not symbol.islower(), not symbol.isalpha())
    return (*letters, not symbol[0].isalnum(), not symbol.isprintable(), symbol.isspace())
