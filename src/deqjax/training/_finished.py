"""Using a run that was trained: its model and its scores."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import jax

from deqjax._fields import FieldError, check_value
from deqjax._ranges import NotNegative, Steps
from deqjax.training._config import RunConfig, check
from deqjax.training._options import ConfigError
from deqjax.training._run import Run, build
from deqjax.training._scoring import evaluate
from deqjax.training._stored_config import stored_config
from deqjax.training._stored_task import kept_by
from deqjax.training._task import Task
from deqjax.training._workdir import Workdir
from deqjax.training.checkpoints import CheckpointError, Checkpoints
from deqjax.training.step import SolveLimits

Which: TypeAlias = Literal["newest", "best"] | int
"""A checkpoint: the newest undamaged one, the one with the lowest validation loss, or a step's."""


def load_run(
    workdir: Path | str,
    checkpoint: Which = "newest",
    *,
    task: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> Run:
    """A run's parts with the state of one of its checkpoints.

    Args:
        workdir: the run's folder.
        checkpoint: which one.
        task: names of fields of the task, as "thinking.starts", to values that they shall have
            instead of the run's; of those that may differ when a run goes on.
        say: is told of damaged checkpoints that are passed over.

    Raises:
        WorkdirError, ConfigError, CheckpointError, DataError: there is no readable run, or its task
            has no such field.
    """
    config = stored_config(workdir)
    if task:
        config = dataclasses.replace(config, task=with_changes(config.task, task))
    check(config)
    config = _on_these_devices(config)
    folder = Workdir.at(workdir)
    if not folder.checkpoints.is_dir():
        raise CheckpointError(f"there is no checkpoint in {workdir}; train first.")
    run = build(config, kept=kept_by(workdir))
    with Checkpoints(folder.checkpoints, read_only=True) as checkpoints:
        if checkpoint == "newest" and checkpoints.steps():
            _, state, _ = checkpoints.restore_newest(run.state, say=say)
        else:
            step = checkpoints.best_step() if checkpoint == "best" else checkpoint
            if step is None:
                raise CheckpointError(
                    f"no checkpoint in {workdir} was made at a step with an evaluation; choose the "
                    "newest instead of the best."
                )
            number = None if isinstance(step, str) else step
            _, state, _ = checkpoints.restore(run.state, step=number)
    return dataclasses.replace(run, state=state)


def evaluate_run(
    workdir: Path | str,
    *,
    split: str = "validation",
    checkpoint: Which = "newest",
    max_steps: int | None = None,
    tol: float | None = None,
    task: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Score a run on a split, at most on `evaluation.final_batches` batches of it.

    Args:
        workdir: the run's folder.
        split: "validation" or "test".
        checkpoint: which one; see [`load_run`][deqjax.training.load_run].
        max_steps: forward steps at most, instead of each layer's own.
        tol: relative tolerance, instead of each layer's own.
        task: fields of the task with other values; see [`load_run`][deqjax.training.load_run].

    Raises:
        WorkdirError, ConfigError, CheckpointError, DataError: there is no readable run, or a
            limit or a field makes no sense.
    """
    limits = solve_limits(max_steps=max_steps, tol=tol)
    run = load_run(workdir, checkpoint, task=task)
    return evaluate(
        run,
        run.steps.place_weights(run.state.evaluated),
        split,
        batches=run.config.evaluation.final_batches,
        limits=limits,
    )


def solve_limits(*, max_steps: int | None = None, tol: float | None = None) -> SolveLimits:
    """Limits of the forward solve; None is each layer's own.

    Raises:
        ConfigError: a limit makes no sense.
    """
    try:
        if max_steps is not None:
            check_value(max_steps, Steps, "--max-steps")
        if tol is not None:
            check_value(tol, NotNegative, "--tol")
    except FieldError as error:
        raise ConfigError(str(error)) from error
    return SolveLimits(tol, max_steps)


def with_changes(task: Task, changes: Mapping[str, Any]) -> Task:
    """The task with other values in fields that may differ from those it was trained with.

    Args:
        task: as it was trained.
        changes: dotted names of fields to values.

    Raises:
        ConfigError: it has no such field, or that was trained.
    """
    for name, value in changes.items():
        task = _replaced(task, name.split("."), value, f"a {type(task).__name__} has no {name}")
        if not any(f"{name}.".startswith(f"{each}.") for each in task.resumable):
            raise ConfigError(
                f"--task.{name} belongs to what was trained; of a {type(task).__name__} only "
                f"{', '.join(task.resumable) or 'nothing'} may be changed now."
            )
    return task


def _replaced(part: Any, names: list[str], value: Any, absent: str) -> Any:
    first, *rest = names
    if first not in getattr(part, "__dataclass_fields__", ()):
        raise ConfigError(f"{absent}; leave it out.")
    inner = _replaced(getattr(part, first), rest, value, absent) if rest else value
    return dataclasses.replace(part, **{first: inner})


def _on_these_devices(config: RunConfig) -> RunConfig:
    """Of a run that was trained where more devices share a row than can here: each works alone."""
    if jax.local_device_count() % config.model_devices:
        return dataclasses.replace(config, model_devices=1)
    return config
