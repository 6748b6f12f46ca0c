"""The typed configuration of a run: what an experiment's file returns."""

import dataclasses
import functools
import inspect
from typing import Annotated, Any, Literal, cast

from annotated_types import Interval

from deqjax._fields import FieldError, check_fields
from deqjax._ranges import Count, Layers, Natural, Rate, Seed, Size
from deqjax.training._options import (
    ConfigError,
    EvaluationConfig,
    GuardConfig,
    OptimizerConfig,
    PenaltyConfig,
    StepLimitConfig,
)
from deqjax.training._task import Task

_Helpers = Annotated[int, Interval(ge=0, le=1_024)]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run: what is trained, and how.

    Every field is an option of the command line, and so is every field of the task: ``width`` is
    ``--task.width``.

    Attributes:
        name: of the experiment, and of its folder where no other is named.
        task: what is trained: model, data and loss.
        steps: training steps.
        batch_size: rows per step, over all devices and processes.
        order: "shuffled" draws rows anew in every epoch; "given" takes them as they come.
        threads: that prepare batches ahead of the training step; 0 is none.
        workers: processes that prepare batches ahead, for when one interpreter is too slow; a run
            is resumed with as many.
        seed: of initialization, data order, dropout and probes.
        pretrain_steps: first steps, in which equilibrium layers are not solved but applied
            ``pretrain_layers`` times.
        pretrain_layers: see ``pretrain_steps``.
        micro_batches: parts that each device's rows of a batch are worked off in, one after the
            other, to save memory; batch normalizations see one part at a time.
        parallel: "pmap" gives each device a copy of the state, "sharded" divides
            parameters, optimizer and averages among all, for models that one cannot hold.
        model_devices: with "sharded", how many neighbouring devices share the work on a row, as the
            task's ``sharding`` divides its parameters; 1 divides the state alone.
        average_decay: of the moving average of the weights, which is then evaluated instead of
            them; 0 is no average.
        log_every: steps between two records of training metrics, which average over them.
        checkpoint_every: steps between checkpoints; the last step is always saved.
        keep_checkpoints: newest checkpoints that stay on disk.
        keep_best: checkpoints with the lowest validation loss that stay beside them, of those
            made at a step with an evaluation.
        optimizer: how weights are updated.
        penalty: the Jacobian regularization.
        step_limit: where the solves of a training step stop.
        evaluation: what is measured on validation data.
        guard: what happens when something goes wrong.
    """

    name: str
    task: Task
    steps: Count = 600
    batch_size: Size = 32
    order: Literal["shuffled", "given"] = "shuffled"
    threads: _Helpers = 0
    workers: _Helpers = 0
    seed: Seed = 0
    pretrain_steps: Natural = 0
    pretrain_layers: Layers = 2
    micro_batches: Size = 1
    parallel: Literal["pmap", "sharded"] = "pmap"
    model_devices: Size = 1
    average_decay: Rate = 0.0
    log_every: Count = 10
    checkpoint_every: Count = 200
    keep_checkpoints: Count = 2
    keep_best: Natural = 1
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    penalty: PenaltyConfig = dataclasses.field(default_factory=PenaltyConfig)
    step_limit: StepLimitConfig = dataclasses.field(default_factory=StepLimitConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    guard: GuardConfig = dataclasses.field(default_factory=GuardConfig)

    def typed(self) -> "RunConfig":
        """The same with the task's own class as the type of ``task``, for whoever reads types."""
        hashed: Any = type(self.task)  # which mypy doubts
        return with_task(hashed)(**_fields(self))


_RESUMABLE = (
    "steps",
    "threads",
    "parallel",
    "model_devices",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "guard",
    "evaluation",
    "optimizer.learning_rate",
    "optimizer.clip_norm",
    "penalty",
    "step_limit",
)


def resumable_changes(config: RunConfig) -> tuple[str, ...]:
    """Fields that may differ when a run goes on; more steps stretch the decay of the rate."""
    return (*_RESUMABLE, *(f"task.{name}" for name in config.task.resumable))


@functools.cache
def with_task(kind: type[Task]) -> type[RunConfig]:
    """The class of a configuration whose task is of one kind."""
    made = dataclasses.make_dataclass(
        "RunConfig", [("task", kind)], bases=(RunConfig,), frozen=True
    )
    made.__doc__ = RunConfig.__doc__
    return cast(type[RunConfig], made)


def plain(config: RunConfig) -> RunConfig:
    """The inverse of `RunConfig.typed`."""
    return RunConfig(**_fields(config))


def _fields(config: RunConfig) -> dict[str, Any]:
    return {each.name: getattr(config, each.name) for each in dataclasses.fields(config)}


def check(config: RunConfig) -> None:
    """Refuse values that cannot work, by themselves or together.

    Raises:
        ConfigError: a sentence for each value that its field does not allow, or one for some that
            do not go together.
    """
    _check_is_dataclass(type(config.task))
    try:
        check_fields(config, "--")
    except FieldError as error:
        raise ConfigError(str(error)) from error
    if config.name in ("", ".", "..") or "/" in config.name or not config.name.isprintable():
        raise ConfigError(
            f"--name must be what a folder can be called, in one line and without a slash, got "
            f"{config.name!r}."
        )
    if config.batch_size % config.micro_batches:
        raise ConfigError(
            f"--batch_size {config.batch_size} cannot be worked off in --micro_batches "
            f"{config.micro_batches} equal parts."
        )
    if config.model_devices > 1 and config.parallel == "pmap":
        raise ConfigError(
            f"--model_devices {config.model_devices} divides the work on a row, which --parallel "
            "pmap cannot; add --parallel sharded."
        )
    try:
        config.task.check()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"--task: {error}") from error


def _check_is_dataclass(task: type[Task]) -> None:
    for kind in task.__mro__:
        if not issubclass(kind, Task) or "__dataclass_fields__" in vars(kind):
            continue
        own = [
            name
            for name, hint in inspect.get_annotations(kind).items()
            if not name.startswith("__") and "ClassVar" not in str(hint)
        ]
        if own:
            raise ConfigError(
                f"the fields of {kind.__name__} ({', '.join(own)}) would be no options of the run: "
                "put @dataclasses.dataclass(frozen=True) above the class."
            )
