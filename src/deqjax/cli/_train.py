"""``deqjax train``."""

import dataclasses
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import tyro

from deqjax.cli._devices import use_devices
from deqjax.cli._experiment_options import with_options
from deqjax.cli._output import unfailing_output
from deqjax.cli._second_interrupt import second_interrupt_ends
from deqjax.cli._tables import print_outcome
from deqjax.cli._usage import UsageError

if TYPE_CHECKING:
    from deqjax.training import RunConfig


@dataclasses.dataclass(frozen=True)
class Train:
    """Train the experiment that a Python file describes.

    Every field of the experiment is an option, too: deqjax train FILE --help lists them.

    Attributes:
        file: a Python file with a function config().
        workdir: folder of the run; by default the first free one of runs/NAME, runs/NAME-2, ...
        resume: go on from the newest checkpoint in the folder.
        devices: number of virtual CPU devices; without it, every device of the machine.
        profile: write a profiler's trace of five steps into the folder.
        words: of the command line after the command's name.
        config: the experiment, once the file has been read.
        cluster: the processes that train together.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    # as text, because a path cannot be empty: "" is the current folder
    workdir: Annotated[str | None, tyro.conf.arg(metavar="PATH")] = None
    resume: bool = False
    devices: int | None = None
    profile: bool = False
    words: tyro.conf.Suppress[tuple[str, ...]] = ()
    config: tyro.conf.Suppress[Any] = None
    cluster: tyro.conf.Suppress[Any] = None

    @classmethod
    def of(cls, experiment: "RunConfig") -> tuple[type[Self], Self]:
        """The command with every field of an experiment as an option, and its defaults."""
        from deqjax.training import ClusterOptions

        kind = with_options(cls, experiment, cluster=ClusterOptions())
        return kind, kind(tyro.MISSING)

    def run(self) -> int:
        """Train until the end, or until a signal asks for a stop."""
        from deqjax import training
        from deqjax.training.records import Listener

        use_devices(self.devices)
        if self.workdir is None and self.cluster.coordinator is not None:
            raise UsageError("--coordinator needs --workdir, the same folder for all processes.")
        listener = Listener(print)
        with second_interrupt_ends(), unfailing_output(listener.fail):
            peers = training.join(self.cluster)
            usual = Path("runs") / self.config.name
            training.keep_compiled_programs(usual if self.workdir is None else self.workdir)
            outcome = training.train(
                self.config,
                self.workdir,
                resume=self.resume,
                peers=peers,
                profile=self.profile,
                say=listener,
            )
            if peers.first:
                print_outcome(outcome, self.config, self.words)
        status = 130 if outcome.stopped_by == signal.SIGINT else 0
        status = 1 if outcome.rescued is not None else status
        peers.exit(status)
        return status
