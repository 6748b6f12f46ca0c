"""``deqjax sweep``."""

import dataclasses
import itertools
import re
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import tyro

from deqjax.cli._compare import show
from deqjax.cli._devices import use_devices
from deqjax.cli._experiment_options import with_options
from deqjax.cli._output import unfailing_output
from deqjax.cli._second_interrupt import second_interrupt_ends
from deqjax.cli._usage import UsageError

if TYPE_CHECKING:
    from deqjax.training import RunConfig

_LONGEST = 200  # characters of a folder's name, of 255 that file systems allow


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Train an experiment with every combination of the values given, and compare the runs.

    Options take several values: deqjax sweep FILE --penalty.weight 0 0.3 1 --seed 0 1 makes six
    runs, one after the other. A value of several words stands in quotes. The same command again
    goes on where it stopped: finished runs are not made again.

    Attributes:
        file: a Python file with a function config().
        workdir: folder of the runs, each in a folder of its own; by default runs/NAME-sweep.
        devices: number of virtual CPU devices; without it, every device of the machine.
        config: the experiment, once the file has been read.
        runs: configurations by name, one for each combination.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    workdir: Path | None = None
    devices: int | None = None
    config: tyro.conf.Suppress[Any] = None
    runs: tyro.conf.Suppress[Any] = None

    @classmethod
    def of(cls, experiment: "RunConfig") -> tuple[Any, Self]:
        """The command with every field of an experiment as an option, and its defaults."""
        kind = with_options(cls, experiment)
        flags: Any = tyro.conf.FlagConversionOff  # so that True and False are values like others
        return flags[kind], kind(tyro.MISSING)

    def run(self) -> int:
        """Train what has not been trained, then compare."""
        from deqjax import training
        from deqjax.training.records import Listener

        use_devices(self.devices)
        folder = self.workdir or Path("runs") / f"{self.config.name}-sweep"
        training.keep_compiled_programs(folder / "any")
        listener = Listener(print)
        with second_interrupt_ends(), unfailing_output(listener.fail):
            found = training.sweep(self.runs, folder, say=listener)
            if found.stopped_by is not None:
                print("stopped; the same command goes on.")
                return 130 if found.stopped_by == signal.SIGINT else 0
            show(found.comparison, None)
        return 1 if found.diverged else 0


def combinations(words: Sequence[str]) -> dict[str, list[str]]:
    """The options of each run that a sweep's options ask for, by the name of its folder.

    Args:
        words: options, each with its values.

    Raises:
        UsageError: no option has several values, or two runs would have one name.
    """
    choices = [[(name, value) for value in values] for name, values in _groups(words)]
    several = [choice[0][0] for choice in choices if len(choice) > 1]
    if not several:
        raise UsageError(
            "sweep needs an option with several values, as in --penalty.weight 0 0.3 1; one run "
            "is made by deqjax train."
        )
    found: dict[str, list[str]] = {}
    for chosen in itertools.product(*choices):
        label = _label([(name, value) for name, value in chosen if name in several])
        if label in found:
            raise UsageError(
                f"two runs of this sweep would be called {label}; give each value once."
            )
        found[label] = [word for name, value in chosen for word in (name, *_words(value))]
    return found


def _groups(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Options with their values; one without any has the value "", which is no word."""
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            groups.append((name, [value] if equals else []))
        elif groups:
            groups[-1][1].append(word)
        else:
            raise UsageError(f"{word!r} belongs to no option.")
    return [(name, values or [""]) for name, values in groups]


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError as error:
        raise UsageError(f"the value {value} of a sweep has no closing quotation mark.") from error


def _label(chosen: Sequence[tuple[str, str]]) -> str:
    """A name for a folder: what tells this run from the others."""
    words = [f"{name.removeprefix('--')}={value}" for name, value in chosen]
    label = re.sub(r"[^\w.,=+-]+", "_", ",".join(words))
    if len(label) > _LONGEST:
        raise UsageError(f"the name {label[:40]}... of a run is too long; sweep fewer options.")
    return label
