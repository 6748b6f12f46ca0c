"""``deqjax inspect``."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from deqjax.cli._output import tell


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Report how well a run does, finished or under way, and redraw its picture.

    Attributes:
        folder: folder of the run.
        json: print the report as JSON.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    json: bool = False

    def run(self) -> int:
        """Draw, then tell: whoever reads may stop reading."""
        from rich.console import Console

        from deqjax.training import Workdir, WorkdirError
        from deqjax.training.report import as_json, inspect_run, print_report, save_run_picture

        report = inspect_run(self.folder, say=tell)
        picture = None
        try:
            picture = save_run_picture(Workdir(self.folder))
        except WorkdirError as error:  # somebody else's run may be inspected, too
            tell(error)
        if self.json:
            print(as_json(report))
            return 0
        print_report(report, Console())
        if picture is not None:
            print(f"picture: {picture}")
        return 0
