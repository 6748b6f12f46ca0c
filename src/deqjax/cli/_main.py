"""From the words of a command line to the exit status."""

import contextlib
import importlib.metadata
import os
import sys
from collections.abc import Sequence

from deqjax.cli._parse import parse
from deqjax.cli._usage import UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 0, 1 for an error, 2 for usage, 130 after Ctrl-C.

    Args:
        arguments: the words after the program's name; None takes those of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    status = 0
    try:
        status = _status(given)
        sys.stdout.flush()  # not at the exit of Python, which has no answer to a failure
    except BrokenPipeError:  # `deqjax inspect runs/x | head -1`: the reader has seen enough
        _discard_output()
    return status


def _status(given: Sequence[str]) -> int:
    try:
        if given[:1] == ["--version"]:
            print(f"deqjax {importlib.metadata.version('deqjax')}")
            return 0
        try:
            command = parse(given or ["--help"])
        except SystemExit as end:  # tyro has printed the help or what is wrong with a value
            return int(end.code or 0) if given else 2
        return int(command.run())
    except UsageError as error:
        sentence, status = f"error: {error}", 2
    except KeyboardInterrupt:
        sentence, status = "interrupted", 130
    except _expected_errors() as error:
        sentence, status = f"error: {error}", 1
    print(f"deqjax: {sentence}", file=sys.stderr)
    return status


def _discard_output() -> None:
    """Let what is still buffered go nowhere: Python would complain about it at its exit."""
    with contextlib.suppress(OSError, ValueError):  # a stream of somebody else's has no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _expected_errors() -> tuple[type[Exception], ...]:
    """Errors whose sentence is all that a user needs; anything else is a bug with a traceback."""
    from deqjax.convert import ConversionError
    from deqjax.data import DataError
    from deqjax.training import (
        CheckpointError,
        ConfigError,
        DivergenceError,
        ExperimentError,
        MetricsError,
        PeerError,
        ReplicaError,
        WorkdirError,
    )

    return (
        CheckpointError,
        ConfigError,
        ConversionError,
        DataError,
        DivergenceError,
        ExperimentError,
        MetricsError,
        PeerError,
        ReplicaError,
        WorkdirError,
    )
