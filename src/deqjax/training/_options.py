"""The parts of a run's configuration, each with the ranges of its numbers."""

import dataclasses
from typing import Annotated, Literal, TypeAlias

from annotated_types import Interval

from deqjax._ranges import (
    Count,
    Natural,
    NotNegative,
    Positive,
    PositiveShare,
    Rate,
    Share,
    Steps,
)


class ConfigError(ValueError):
    """A configuration holds a value that cannot work."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How weights are updated, and how the learning rate goes up and down.

    Attributes:
        kind: "adamw"; "muon" for the matrices of hidden layers with AdamW for embeddings, output
            heads, norms and biases; or "sgd" with momentum.
        schedule: what follows the warm-up: "cosine" or "linear" decay until the last step,
            "constant", "stable_decay" (constant, then a linear decay in the last steps) or
            "inverse_square_root" (of the step).
        learning_rate: peak; muon's updates are scaled so that one of AdamW's serves.
        warmup_steps: steps from 0 to the peak, linearly, of every schedule.
        final_fraction: learning rate at the last step, as a fraction of the peak; of cosine, linear
            and stable_decay, which have an end.
        decay_fraction: share of all steps in which stable_decay decays.
        weight_decay: with adamw and muon decoupled, of matrices and kernels only; with sgd of all
            parameters and added to the gradient, as published recipes of images mean it.
        beta2: decay of the second moment of adamw, and of muon's AdamW.
        momentum: of sgd.
        muon_momentum: of muon.
        nesterov: whether the momentum of sgd or muon is Nesterov's.
        clip_norm: largest global norm of the gradient; longer ones are scaled down.
    """

    kind: Literal["adamw", "muon", "sgd"] = "adamw"
    schedule: Literal["cosine", "linear", "constant", "stable_decay", "inverse_square_root"] = (
        "cosine"
    )
    learning_rate: NotNegative = 3e-3
    warmup_steps: Natural = 50
    final_fraction: Share = 0.05
    decay_fraction: PositiveShare = 0.2
    weight_decay: NotNegative = 0.01
    beta2: Rate = 0.999
    momentum: Rate = 0.9
    muon_momentum: Rate = 0.95
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
        distribution: "fixed" is always the layer's ``max_steps``; "uniform" lies evenly between
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
