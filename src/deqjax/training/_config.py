"""The typed configuration of a run: what an experiment's file returns."""

import abc
import dataclasses
from typing import Annotated, Literal, Self, TypeAlias

from annotated_types import Interval
from flax import nnx

from deqjax._fields import FieldError, check_fields
from deqjax._ranges import (
    Count,
    Layers,
    Natural,
    NotNegative,
    Positive,
    Rate,
    Seed,
    Share,
    Size,
    Steps,
)
from deqjax.models import SolverSettings


class ConfigError(ValueError):
    """A configuration holds a value that cannot work."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or SGD with linear warm-up and cosine decay.

    Attributes:
        kind: "adamw", or "sgd" with momentum.
        learning_rate: peak.
        warmup_steps: steps from 0 to the peak.
        final_fraction: learning rate at the last step, as a fraction of the peak.
        weight_decay: with adamw decoupled, of matrices and kernels only; with sgd of all
            parameters and added to the gradient, as published recipes of images mean it.
        beta2: decay of adamw's second moment.
        momentum: of sgd.
        nesterov: whether sgd's momentum is Nesterov's.
        clip_norm: largest global norm of the gradient; longer ones are scaled down.
    """

    kind: Literal["adamw", "sgd"] = "adamw"
    learning_rate: NotNegative = 3e-3
    warmup_steps: Natural = 50
    final_fraction: Share = 0.05
    weight_decay: NotNegative = 0.01
    beta2: Rate = 0.999
    momentum: Rate = 0.9
    nesterov: bool = True
    clip_norm: Positive = 1.0


@dataclasses.dataclass(frozen=True)
class PenaltyConfig:
    """Jacobian regularization (Bai, Koltun & Kolter, ICML 2021).

    Attributes:
        weight: of ||J||_F^2 / dim(z) in the loss; 0 switches the penalty off.
        probability: share of the steps, drawn at random, on which it is applied.
        samples: Hutchinson probes per application.
        increment: what the weight grows by, every ``increment_every`` steps after the warm-up.
        increment_every: see ``increment``.
        pretrain_weight: the weight during the warm-up stage, where the layers were applied to.
        last_step: step after which there is no penalty any more; None is never.
    """

    weight: NotNegative = 0.3
    probability: Share = 0.35
    samples: Annotated[int, Interval(ge=1, le=1_000)] = 1
    increment: NotNegative = 0.0
    increment_every: Count = 10_000
    pretrain_weight: NotNegative = 0.0
    last_step: Natural | None = None


@dataclasses.dataclass(frozen=True)
class StepLimitConfig:
    """How the step limit of a training step's solves is drawn; it changes from step to step.

    Attributes:
        distribution: "fixed" is always the solver's ``max_steps``; "uniform" lies evenly between
            ``least`` and ``max_steps`` (published: two fewer at most); "poisson" has a mean and is
            cut off at both, for models that shall be right at any depth.
        least: smallest limit.
        mean: of "poisson".
    """

    distribution: Literal["fixed", "uniform", "poisson"] = "fixed"
    least: Steps = 1
    mean: Annotated[float, Interval(ge=0, le=100_000)] = 8.0


StopSignal: TypeAlias = Literal["SIGHUP", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU"]
"""A signal that asks a process to end."""


@dataclasses.dataclass(frozen=True)
class GuardConfig:
    """What happens when something goes wrong; see also ``keep_checkpoints``.

    Attributes:
        skips: updates that may be left out in a row, because loss or gradient is not finite, before
            the run goes back to its last good checkpoint, with the data that come next.
        rollbacks: how often a run may go back before it stops with an error.
        signals: that end the run as Ctrl-C does, after a checkpoint, but with exit status 0: what
            comes when the terminal is closed (SIGHUP), when the system ends the process (SIGTERM),
            and before Slurm takes the machine away (SIGUSR1). One that the parent has the process
            ignore, as nohup does with SIGHUP, stays ignored.
    """

    skips: Count = 10
    rollbacks: Natural = 2
    signals: tuple[StopSignal, ...] = ("SIGHUP", "SIGTERM", "SIGUSR1")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is measured on validation data.

    Attributes:
        every: training steps between evaluations; one more follows the last step.
        batches: batches per evaluation during training; windows and images are spread evenly over
            the split, streams are its beginning.
        final_batches: batches of the last evaluation and of ``deqjax evaluate``, at most.
        radius_batches: of these, batches whose spectral radius is estimated too.
    """

    every: Count = 100
    batches: Count = 8
    final_batches: Count = 64
    radius_batches: Natural = 2


@dataclasses.dataclass(frozen=True)
class RunConfig(abc.ABC):
    """What every run has; a subclass adds its model and its data.

    Attributes:
        name: of the experiment.
        steps: training steps.
        seed: of initialization, data order, dropout and probes.
        pretrain_steps: first steps, in which the layer is not solved but applied
            ``pretrain_layers`` times.
        pretrain_layers: see ``pretrain_steps``.
        micro_batches: parts that each device's rows of a batch are worked off in, one after the
            other, to save memory; batch normalizations see one part at a time.
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
    steps: Count = 600
    seed: Seed = 0
    pretrain_steps: Natural = 0
    pretrain_layers: Layers = 2
    micro_batches: Size = 1
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

    @property
    @abc.abstractmethod
    def solver(self) -> SolverSettings:
        """How the model's equilibrium is found."""

    @property
    @abc.abstractmethod
    def solves(self) -> bool:
        """Whether the model is an equilibrium model."""

    @property
    @abc.abstractmethod
    def batch_size(self) -> int:
        """Rows per step, over all devices and processes."""

    @abc.abstractmethod
    def of_model(self, model: nnx.Module) -> Self:
        """The configuration with the kind and the sizes of a model that was built elsewhere."""

    @abc.abstractmethod
    def check_combinations(self) -> None:
        """Raise a ConfigError for values that do not go together."""


RESUMABLE_CHANGES = (
    "steps",
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
    "model.solver.tol",
    "model.solver.max_steps",
    "model.solver.ridge",
    "model.solver.backward_tol",
    "model.solver.backward_max_steps",
    "data.directory",
    "data.manual_directory",
    "data.threads",
)
"""Fields that may differ when a run goes on; longer training stretches the cosine decay."""


def check(config: RunConfig) -> None:
    """Refuse values that cannot work, by themselves or together.

    Raises:
        ConfigError: a sentence for each value that its field does not allow, or one for some that
            do not go together.
    """
    try:
        check_fields(config, "--")
    except FieldError as error:
        raise ConfigError(str(error)) from error
    _check_combinations(config)


def _check_combinations(config: RunConfig) -> None:
    if config.step_limit.least > config.solver.max_steps:
        raise ConfigError(
            f"--step_limit.least {config.step_limit.least} is above --model.solver.max_steps "
            f"{config.solver.max_steps}."
        )
    if config.batch_size % config.micro_batches:
        raise ConfigError(
            f"--data.batch_size {config.batch_size} cannot be worked off in --micro_batches "
            f"{config.micro_batches} equal parts."
        )
    config.check_combinations()
    try:
        config.solver.build_solver()
    except ValueError as error:
        raise ConfigError(f"--model.solver.damping: {error}") from error
    try:
        config.solver.build_adjoint()
    except ValueError as error:
        raise ConfigError(f"--model.solver.adjoint: {error}") from error
