"""From the words of a command line to the exit status."""

import importlib.metadata
import signal
import sys
from collections.abc import Sequence

from deqjax._extras import MissingExtraError
from deqjax.cli._lost_interrupt import no_interrupt_is_lost
from deqjax.cli._output import OutputError, discard_output, tell, watched_output
from deqjax.cli._parse import parse
from deqjax.cli._usage import UsageError

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status: 0, 1 for an error, 2 for usage, 130 after Ctrl-C.

    Args:
        arguments: the words after the program's name; None takes those of this process.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    status = 0
    try:
        with watched_output(), no_interrupt_is_lost():
            status = _status(given)
    except OutputError as error:
        discard_output()
        if not error.closed:
            tell(f"error: standard output cannot be written to ({error.strerror}).")
            return 1
    if status == _INTERRUPTED and arguments is None:
        # all is said, and Python's exit would answer a further Ctrl-C with a traceback
        signal.signal(signal.SIGINT, signal.SIG_IGN)
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
    except MissingExtraError as error:
        sentence, status = f"error: {error}", 1
    except KeyboardInterrupt:
        sentence, status = "interrupted", _INTERRUPTED
    except _expected_errors() as error:
        sentence, status = f"error: {error}", 1
    tell(sentence)
    return status


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
        TopologyError,
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
        TopologyError,
        WorkdirError,
    )
