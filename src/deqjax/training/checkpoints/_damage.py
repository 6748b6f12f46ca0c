"""What is said of a checkpoint that does not hold what was saved."""

import errno
from pathlib import Path

from deqjax.training.checkpoints._stored_state import CheckpointError

# What Orbax and TensorStore were seen to raise on full disks and on missing, emptied or truncated
# files (TensorStore's own errors are ValueErrors, and so are those of json).
FAILURES = (ValueError, LookupError, OSError)
# What says nothing about a checkpoint's condition.
_OF_THE_SYSTEM = {
    *(errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.EACCES, errno.EPERM),
    *(errno.ENOMEM, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN),
}


class DamagedCheckpointError(CheckpointError):
    """A checkpoint does not hold what was saved."""


def check_readable(folder: Path, error: BaseException) -> None:
    """Raise a CheckpointError if the system is to blame for what could not be read."""
    if isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM
    ):
        raise CheckpointError(
            f"The checkpoint in {folder} cannot be read now ({summary(error)}); nothing was "
            "changed. Try again when that is put right."
        ) from error


def damaged(folder: Path, reason: str) -> DamagedCheckpointError:
    """The error about a step's folder."""
    return DamagedCheckpointError(
        f"The checkpoint in {folder} is damaged or incomplete ({reason}); move that folder away to "
        "fall back to an older step."
    )


def summary(error: BaseException) -> str:
    """The first line of a message, without the specification that TensorStore appends."""
    lines = str(error).split(" [tensorstore_spec")[0].splitlines() or [type(error).__name__]
    return lines[0][:200]
