"""Several runs, one after the other, that end in their comparison."""

import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from deqjax.training._config import RunConfig, check
from deqjax.training._config_values import to_dict
from deqjax.training._launch import train
from deqjax.training._loop import DivergenceError
from deqjax.training._workdir import (
    Workdir,
    WorkdirError,
    differences,
    holds_run,
    read_config,
    saved_steps,
)
from deqjax.training.records import as_listener, read_metrics
from deqjax.training.report import Comparison, compare_runs


class Sweep(NamedTuple):
    """How several runs ended.

    Attributes:
        comparison: of those that were begun.
        diverged: names of those that diverged, and were given up.
        stopped_by: the signal that ended them early, or None.
    """

    comparison: Comparison
    diverged: tuple[str, ...]
    stopped_by: signal.Signals | None

    def __repr__(self) -> str:
        return repr(self.comparison)

    def _repr_html_(self) -> str:
        return self.comparison._repr_html_()


def sweep(
    runs: Mapping[str, RunConfig], folder: Path | str, *, say: Callable[[str], None] = print
) -> Sweep:
    """Train each of several runs in a folder of its own, one after the other, and compare them.

    The same call again goes on: a run that has finished is not made again, one that was stopped
    is resumed. A run that diverges is left as it is, and the others are made.

    Args:
        runs: name of the folder -> configuration.
        folder: that holds their folders.
        say: receives lines for the user, until it raises an OSError.

    Raises:
        ConfigError: a configuration cannot work; nothing has been trained then.
        WorkdirError: a folder holds a finished run of another configuration, or cannot be used.
        CheckpointError, ReplicaError, DataError: as in [`deqjax.training.train`][].
    """
    if not runs:
        raise ValueError("sweep needs at least one run.")
    say = as_listener(say)
    for config in runs.values():
        check(config)
    places = {name: Path(folder) / name for name in runs}
    finished = {name for name, config in runs.items() if _has_finished(places[name], config)}
    diverged, stopped_by = [], None
    for number, (name, config) in enumerate(runs.items(), start=1):
        if name in finished:
            say(f"run {number} of {len(runs)}, {name}: finished before")
            continue
        say(f"run {number} of {len(runs)}, {name}")
        try:
            outcome = train(config, places[name], resume=holds_run(places[name]), say=say)
        except DivergenceError as error:
            say(f"{name} is given up: {error}")
            diverged.append(name)
            continue
        stopped_by = outcome.stopped_by
        if stopped_by is not None:
            break
    begun = [place for place in places.values() if holds_run(place)]
    comparison = compare_runs(*begun, say=say) if begun else Comparison(())
    return Sweep(comparison, tuple(diverged), stopped_by)


def _has_finished(place: Path, config: RunConfig) -> bool:
    """Whether there is nothing left to do for a run.

    Raises:
        WorkdirError: another run has finished there.
    """
    if not holds_run(place):
        return False
    folder = Workdir(place)
    last = ("validation", config.steps)
    records = read_metrics(folder.metrics)
    if last not in [(record["split"], record["step"]) for record in records]:
        return False
    if config.steps not in saved_steps(folder.checkpoints):
        return False
    changes = differences(read_config(place)[1], to_dict(config))
    if changes:
        listed = ", ".join(f"{name}: {change}" for name, change in changes.items())
        raise WorkdirError(
            f"{place} holds a finished run of another configuration ({listed}); choose another "
            "--workdir."
        )
    return True
