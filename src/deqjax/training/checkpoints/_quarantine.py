"""Where damaged checkpoints go, so that their numbers are free again."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from deqjax.training.checkpoints._stored_state import CheckpointError


def move_away(folders: Iterable[Path], quarantine: Path, say: Callable[[str], None]) -> None:
    """Move steps' folders into another one, under a name that nothing has there.

    Raises:
        CheckpointError: one cannot be moved.
    """
    for folder in folders:
        target, number = quarantine / folder.name, 1
        try:
            quarantine.mkdir(parents=True, exist_ok=True)
            while target.exists():
                number += 1
                target = quarantine / f"{folder.name}-{number}"
            os.rename(folder, target)
        except OSError as error:
            raise CheckpointError(
                f"{folder} could not be moved to {target} ({error.strerror}: {error.filename}); "
                "move that away yourself."
            ) from error
        say(f"the checkpoint of step {folder.name} was moved to {target}")
