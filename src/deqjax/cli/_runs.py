"""``deqjax runs``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro


@dataclasses.dataclass(frozen=True)
class Runs:
    """List the runs in a folder and below it: how far they are, and their last loss.

    Attributes:
        folders: where to look; by default in runs.
    """

    folders: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[FOLDER ...]")
    ] = ()

    def run(self) -> int:
        """Print a line for each run."""
        from rich.console import Console

        from deqjax.training import list_runs

        for folder in self.folders or (Path("runs"),):
            list_runs(folder).print(Console())
        return 0
