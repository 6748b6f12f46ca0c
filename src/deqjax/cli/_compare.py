"""``deqjax compare``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from deqjax.cli._output import tell
from deqjax.cli._usage import UsageError

if TYPE_CHECKING:
    from deqjax.training import Comparison


@dataclasses.dataclass(frozen=True)
class Compare:
    """Compare runs in one table and one picture.

    Attributes:
        folders: of the runs; of a folder that holds several, all of them are compared.
        picture: PNG file of the picture; by default comparison.png in the folder of the runs.
    """

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLDER ...")]
    picture: Path | None = None

    def run(self) -> int:
        """Draw the picture, then print the table."""
        if not self.folders:
            raise UsageError("compare needs the folders of runs: deqjax compare runs/*")
        from deqjax.training import compare_runs

        show(compare_runs(*self.folders, say=tell), self.picture)
        return 0


def show(comparison: "Comparison", picture: Path | None) -> None:
    """Draw the picture of a comparison, and print its table."""
    from rich.console import Console

    from deqjax.training import WorkdirError

    file = None
    try:
        file = comparison.save_picture(picture)
    except WorkdirError as error:  # somebody else's runs may be compared, too
        tell(error)
    comparison.print(Console())
    if file is not None:
        print(f"picture: {file}")
