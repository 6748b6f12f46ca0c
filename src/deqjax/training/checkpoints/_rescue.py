"""Where a state goes that cannot be saved in its run's folder."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from deqjax.training.checkpoints._checkpoints import Checkpoints
from deqjax.training.checkpoints._stored_state import CheckpointError


def save_elsewhere(write: Callable[[Checkpoints], object]) -> Path:
    """Save in a new folder among the system's temporary files, and return the step's own folder.

    Args:
        write: saves a step in the checkpoints that it is given.

    Raises:
        CheckpointError: that fails, too.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix="deqjax-rescued-"))
    except OSError as error:
        raise CheckpointError(
            f"The state could not be saved among the temporary files either ({error.strerror}); "
            "it is lost but for the last checkpoint. Set TMPDIR to a folder with free space."
        ) from error
    with Checkpoints(folder, keep=1) as checkpoints:
        write(checkpoints)
        checkpoints.wait()
        return folder / str(checkpoints.latest_step())
