"""The command line: ``deqjax COMMAND ...``.

The shell and the tests come here. It says what the library found; what it computes has its place
elsewhere.
"""

from deqjax.cli._main import main

__all__ = ["main"]
