"""Native libraries that talk to standard error, kept from it."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_natives() -> Iterator[None]:
    """Send what native code writes to standard error nowhere; what it raises says enough.

    Python's own writes go the same way meanwhile. Does nothing where there is no such file.
    """
    try:
        sys.stderr.flush()
        kept = os.dup(2)
    except (AttributeError, OSError, ValueError):
        yield
        return
    try:
        with tempfile.TemporaryFile() as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
