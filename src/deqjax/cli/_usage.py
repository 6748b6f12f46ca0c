"""A command line that makes no sense, and the name that was probably meant."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """A command line that makes no sense; the message says why and the way out."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """A sentence about a name that does not exist, with the nearest that does.

    Args:
        what: it would name.
        name: as it was given, with its value after "=" perhaps.
        known: names.
    """
    near = difflib.get_close_matches(name.split("=", maxsplit=1)[0], list(known), n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    return f"there is no {what} {name!r}{hint}"
