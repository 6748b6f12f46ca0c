"""``deqjax estimate``."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import tyro

from deqjax.cli._devices import use_devices
from deqjax.cli._experiment_options import with_options
from deqjax.cli._usage import UsageError

if TYPE_CHECKING:
    from deqjax.training import RunConfig


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Tell what a training step of an experiment will need, without running it.

    The step is compiled for the chips of a TPU, which need not be there, or for this CPU: memory,
    arithmetic, bytes moved and exchanged, and the least time that they take. The options are those
    of the experiment.

    Attributes:
        file: a Python file with a function config().
        topology: a TPU to plan for, as v5e:2x4; without it, this CPU.
        devices: number of virtual CPU devices to plan for; without it, every device of the machine.
        json: print the estimate as JSON.
        config: the experiment, once the file has been read.
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    topology: str | None = None
    devices: int | None = None
    json: bool = False
    config: tyro.conf.Suppress[Any] = None

    @classmethod
    def of(cls, experiment: "RunConfig") -> tuple[Any, Self]:
        """The command with every field of an experiment as an option, and its defaults."""
        kind = with_options(cls, experiment)
        return kind, kind(tyro.MISSING)

    def run(self) -> int:
        """Compile, and print what was planned."""
        if self.topology is not None and self.devices is not None:
            raise UsageError(
                f"--topology {self.topology} has its own number of devices; drop --devices."
            )
        import jax

        # nothing is run: no accelerator is taken from whoever uses it
        jax.config.update("jax_platforms", "cpu")
        use_devices(self.devices)
        from rich.console import Console

        from deqjax.training.estimate import estimate_as_json, estimate_run, print_estimate

        found = estimate_run(self.config, self.topology)
        if self.json:
            print(estimate_as_json(found))
        else:
            print_estimate(found, Console())
        return 0
