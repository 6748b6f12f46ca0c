"""Where nothing is observed: inside a layer's cell, whose own layers are its affair."""

import contextlib
import contextvars
from collections.abc import Iterator

_HIDDEN = contextvars.ContextVar("deqjax_unobserved", default=False)


@contextlib.contextmanager
def unobserved() -> Iterator[None]:
    """While a cell is evaluated: layers inside of it are solved and not observed."""
    token = _HIDDEN.set(True)
    try:
        yield
    finally:
        _HIDDEN.reset(token)


def is_unobserved() -> bool:
    """Whether a cell is evaluated."""
    return _HIDDEN.get()
