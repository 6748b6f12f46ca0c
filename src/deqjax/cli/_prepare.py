"""``deqjax prepare``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import tyro

from deqjax.cli._experiment_options import with_options

if TYPE_CHECKING:
    from deqjax.training import RunConfig


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Open the data of an experiment and say what there is; nothing is trained.

    Data that need it are prepared, which happens once. The fields of the experiment are options, as
    with train.

    Attributes:
        file: a Python file with a function config().
        config: the experiment, once the file has been read.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    config: tyro.conf.Suppress[Any] = None

    @classmethod
    def of(cls, experiment: "RunConfig") -> tuple[type[Self], Self]:
        """The command with every field of an experiment as an option, and its defaults."""
        kind = with_options(cls, experiment)
        return kind, kind(tyro.MISSING)

    def run(self) -> int:
        """Print a line for each split."""
        from deqjax.training import prepare

        for split, found in prepare(self.config).items():
            print(f"{split}: {'none' if found is None else found}")
        return 0
