"""The typed configuration of a run: what an experiment's file returns."""

import dataclasses
import json
from typing import Any, Literal

import pydantic

from deqjax.models import SolverSettings, TransformerShape


class ConfigError(ValueError):
    """A configuration holds a value that cannot work."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which network is trained.

    Attributes:
        kind: "deq" iterates one layer to its fixed point; "explicit" stacks untied layers.
        depth: layers of the explicit baseline.
        shape: sizes, shared by both kinds.
        solver: how the equilibrium is found and differentiated.
    """

    kind: Literal["deq", "explicit"] = "deq"
    depth: int = 4
    shape: TransformerShape = dataclasses.field(default_factory=TransformerShape)
    solver: SolverSettings = dataclasses.field(default_factory=SolverSettings)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What it is trained on.

    Attributes:
        corpus: "stdlib" is CPython's own standard library sources, split by file.
        batch_size: windows per step, over all devices and processes.
        directory: folder of prepared data sets; None is TFDS's default.
    """

    corpus: Literal["stdlib"] = "stdlib"
    batch_size: int = 32
    directory: str | None = None


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay.

    Attributes:
        learning_rate: peak.
        warmup_steps: steps from 0 to the peak.
        final_fraction: learning rate at the last step, as a fraction of the peak.
        weight_decay: decoupled, on matrices only.
        clip_norm: largest global norm of the gradient; longer ones are scaled down.
    """

    learning_rate: float = 3e-3
    warmup_steps: int = 50
    final_fraction: float = 0.05
    weight_decay: float = 0.01
    clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class PenaltyConfig:
    """Jacobian regularization (Bai, Koltun & Kolter, ICML 2021).

    Attributes:
        weight: of ||J||_F^2 / dim(z) in the loss; 0 switches the penalty off.
        probability: share of the steps, drawn at random, on which it is applied.
        samples: Hutchinson probes per application.
    """

    weight: float = 0.3
    probability: float = 0.35
    samples: int = 1


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is measured on validation text.

    Attributes:
        every: training steps between evaluations; one more follows the last step.
        batches: batches per evaluation during training, spread evenly over the split.
        final_batches: batches of the last evaluation and of ``deqjax evaluate``.
        radius_batches: of these, batches whose spectral radius is estimated too.
    """

    every: int = 100
    batches: int = 8
    final_batches: int = 64
    radius_batches: int = 2


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    Attributes:
        name: of the experiment.
        steps: training steps.
        seed: of initialization, data order, dropout and probes.
        log_every: steps between two records of training metrics, which average over them.
        checkpoint_every: steps between checkpoints; the last step is always saved.
        keep_checkpoints: newest checkpoints that stay on disk.
    """

    name: str
    steps: int = 600
    seed: int = 0
    log_every: int = 10
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    penalty: PenaltyConfig = dataclasses.field(default_factory=PenaltyConfig)
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)


RESUMABLE_CHANGES = (
    "steps",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "evaluation",
    "data.directory",
)
"""Fields that may differ when a run goes on; longer training stretches the cosine decay."""


def check(config: TrainConfig) -> None:
    """Raise a ConfigError that names the first value that cannot work."""
    at_least_one: dict[str, float] = {
        "steps": config.steps,
        "log_every": config.log_every,
        "checkpoint_every": config.checkpoint_every,
        "keep_checkpoints": config.keep_checkpoints,
        "model.depth": config.model.depth,
        "model.shape.vocabulary": config.model.shape.vocabulary,
        "model.shape.length": config.model.shape.length,
        "model.shape.width": config.model.shape.width,
        "model.shape.heads": config.model.shape.heads,
        "model.shape.hidden": config.model.shape.hidden,
        "model.solver.max_steps": config.model.solver.max_steps,
        "model.solver.history": config.model.solver.history,
        "data.batch_size": config.data.batch_size,
        "penalty.samples": config.penalty.samples,
        "evaluation.every": config.evaluation.every,
        "evaluation.batches": config.evaluation.batches,
        "evaluation.final_batches": config.evaluation.final_batches,
    }
    not_negative: dict[str, float] = {
        "seed": config.seed,
        "model.solver.tol": config.model.solver.tol,
        "model.solver.backward_tol": config.model.solver.backward_tol,
        "model.solver.backward_max_steps": config.model.solver.backward_max_steps,
        "model.solver.ridge": config.model.solver.ridge,
        "model.shape.weight_scale": config.model.shape.weight_scale,
        "optimizer.learning_rate": config.optimizer.learning_rate,
        "optimizer.warmup_steps": config.optimizer.warmup_steps,
        "optimizer.weight_decay": config.optimizer.weight_decay,
        "penalty.weight": config.penalty.weight,
        "evaluation.radius_batches": config.evaluation.radius_batches,
    }
    shares: dict[str, float] = {
        "model.shape.dropout": config.model.shape.dropout,
        "optimizer.final_fraction": config.optimizer.final_fraction,
        "penalty.probability": config.penalty.probability,
    }
    for name, value in at_least_one.items():
        if value < 1:
            raise ConfigError(f"--{name} must be at least 1, got {value}.")
    for name, value in not_negative.items():
        if not value >= 0:
            raise ConfigError(f"--{name} must be zero or positive, got {value}.")
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"--{name} must lie between 0 and 1, got {value}.")
    if not config.optimizer.clip_norm > 0:
        raise ConfigError(
            f"--optimizer.clip_norm must be positive, got {config.optimizer.clip_norm}."
        )
    if config.model.shape.width % config.model.shape.heads:
        raise ConfigError(
            f"--model.shape.width {config.model.shape.width} must be a multiple of "
            f"--model.shape.heads {config.model.shape.heads}."
        )
    if config.model.shape.vocabulary < 256:
        raise ConfigError(
            "--model.shape.vocabulary must be at least 256, because the corpus is bytes, got "
            f"{config.model.shape.vocabulary}."
        )


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values."""
    values: dict[str, Any] = json.loads(pydantic.TypeAdapter(TrainConfig).dump_json(config))
    return values


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """The inverse of :func:`to_dict`; raises ConfigError if a field is missing or mistyped."""
    try:
        config = pydantic.TypeAdapter(TrainConfig).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"the stored configuration does not fit: {field}: {first['msg']}."
        ) from error
    if to_dict(config) != values:
        raise ConfigError(
            "the stored configuration has fields that this version of deqjax does not know; "
            "use the version that wrote it."
        )
    return config
