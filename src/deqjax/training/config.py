"""The typed configuration of a run: what an experiment's file returns."""

import dataclasses
import json
from typing import Any, Literal

import pydantic

from deqjax.models import SolverSettings, TransformerShape
from deqjax.training.workdir import differences


class ConfigError(ValueError):
    """A configuration holds a value that cannot work."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which network is trained.

    Attributes:
        kind: "deq_transformer" and "deq_trellisnet" iterate one layer to its fixed point;
            "transformer_xl" stacks untied layers.
        depth: layers of the explicit baseline.
        shape: sizes, shared by all kinds; TrellisNet has no use for those of attention.
        solver: how the equilibrium is found and differentiated.
    """

    kind: Literal["deq_transformer", "deq_trellisnet", "transformer_xl"] = "deq_transformer"
    depth: int = 4
    shape: TransformerShape = dataclasses.field(default_factory=TransformerShape)
    solver: SolverSettings = dataclasses.field(default_factory=SolverSettings)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What it is trained on.

    Attributes:
        corpus: "stdlib" is CPython's own standard library sources as bytes, split by file;
            "text_bytes" and "text_characters" are a text file of yours; "wikitext2" and
            "wikitext103" are word-level.
        file: the text file.
        order: "shuffled" draws windows at random; "streams" reads on where the row before stopped,
            so that memory carries over.
        batch_size: rows per step, over all devices and processes.
        directory: folder of prepared data sets; None is TFDS's default.
        manual_directory: folder of downloaded archives; None is TFDS's default.
    """

    corpus: Literal["stdlib", "text_bytes", "text_characters", "wikitext2", "wikitext103"] = (
        "stdlib"
    )
    file: str | None = None
    order: Literal["shuffled", "streams"] = "shuffled"
    batch_size: int = 32
    directory: str | None = None
    manual_directory: str | None = None


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and cosine decay.

    Attributes:
        learning_rate: peak.
        warmup_steps: steps from 0 to the peak.
        final_fraction: learning rate at the last step, as a fraction of the peak.
        weight_decay: decoupled, on matrices only.
        beta2: decay of the second moment.
        clip_norm: largest global norm of the gradient; longer ones are scaled down.
    """

    learning_rate: float = 3e-3
    warmup_steps: int = 50
    final_fraction: float = 0.05
    weight_decay: float = 0.01
    beta2: float = 0.999
    clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True)
class PenaltyConfig:
    """Jacobian regularization (Bai, Koltun & Kolter, ICML 2021).

    Attributes:
        weight: of ||J||_F^2 / dim(z) in the loss; 0 switches the penalty off.
        probability: share of the steps, drawn at random, on which it is applied.
        samples: Hutchinson probes per application.
        increment: what the weight grows by, every ``increment_every`` steps.
        increment_every: see ``increment``.
    """

    weight: float = 0.3
    probability: float = 0.35
    samples: int = 1
    increment: float = 0.0
    increment_every: int = 10_000


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """What is measured on validation text.

    Attributes:
        every: training steps between evaluations; one more follows the last step.
        batches: batches per evaluation during training; windows are spread evenly over the split,
            streams are its beginning.
        final_batches: batches of the last evaluation and of ``deqjax evaluate``, at most.
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
        pretrain_steps: first steps, in which the layer is not solved but applied
            ``pretrain_layers`` times.
        pretrain_layers: see ``pretrain_steps``.
        random_fewer_steps: a training step's solve may take 0 to so many steps fewer, at random.
        log_every: steps between two records of training metrics, which average over them.
        checkpoint_every: steps between checkpoints; the last step is always saved.
        keep_checkpoints: newest checkpoints that stay on disk.
    """

    name: str
    steps: int = 600
    seed: int = 0
    pretrain_steps: int = 0
    pretrain_layers: int = 2
    random_fewer_steps: int = 0
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
    "data.manual_directory",
)
"""Fields that may differ when a run goes on; longer training stretches the cosine decay."""


def check(config: TrainConfig) -> None:
    """Raise a ConfigError that names the first value that cannot work."""
    at_least_one: dict[str, float] = {
        "steps": config.steps,
        "log_every": config.log_every,
        "checkpoint_every": config.checkpoint_every,
        "keep_checkpoints": config.keep_checkpoints,
        "pretrain_layers": config.pretrain_layers,
        "model.depth": config.model.depth,
        "model.shape.vocabulary": config.model.shape.vocabulary,
        "model.shape.length": config.model.shape.length,
        "model.shape.width": config.model.shape.width,
        "model.shape.heads": config.model.shape.heads,
        "model.shape.hidden": config.model.shape.hidden,
        "model.solver.max_steps": config.model.solver.max_steps,
        "model.solver.history": config.model.solver.history,
        "data.batch_size": config.data.batch_size,
        "model.shape.divisor": config.model.shape.divisor,
        "model.shape.horizon": config.model.shape.horizon,
        "penalty.samples": config.penalty.samples,
        "penalty.increment_every": config.penalty.increment_every,
        "evaluation.every": config.evaluation.every,
        "evaluation.batches": config.evaluation.batches,
        "evaluation.final_batches": config.evaluation.final_batches,
    }
    if config.model.solver.backward_history is not None:
        at_least_one["model.solver.backward_history"] = config.model.solver.backward_history
    not_negative: dict[str, float] = {
        "seed": config.seed,
        "pretrain_steps": config.pretrain_steps,
        "random_fewer_steps": config.random_fewer_steps,
        "model.shape.memory_length": config.model.shape.memory_length,
        "model.solver.tol": config.model.solver.tol,
        "model.solver.backward_tol": config.model.solver.backward_tol,
        "model.solver.backward_max_steps": config.model.solver.backward_max_steps,
        "model.solver.ridge": config.model.solver.ridge,
        "model.shape.weight_scale": config.model.shape.weight_scale,
        "optimizer.learning_rate": config.optimizer.learning_rate,
        "optimizer.warmup_steps": config.optimizer.warmup_steps,
        "optimizer.weight_decay": config.optimizer.weight_decay,
        "penalty.weight": config.penalty.weight,
        "penalty.increment": config.penalty.increment,
        "evaluation.radius_batches": config.evaluation.radius_batches,
    }
    shares: dict[str, float] = {
        "model.shape.dropout": config.model.shape.dropout,
        "model.shape.attention_dropout": config.model.shape.attention_dropout,
        "optimizer.beta2": config.optimizer.beta2,
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
    _check_combinations(config)


def _check_combinations(config: TrainConfig) -> None:
    model, data = config.model, config.data
    if model.kind != "deq_trellisnet" and model.shape.width % model.shape.heads:
        raise ConfigError(
            f"--model.shape.width {model.shape.width} must be a multiple of "
            f"--model.shape.heads {model.shape.heads}."
        )
    if model.shape.memory_length and data.order != "streams":
        raise ConfigError(
            f"--model.shape.memory_length {model.shape.memory_length} needs --data.order streams: "
            "windows in random order have nothing before them to remember."
        )
    if config.random_fewer_steps >= model.solver.max_steps:
        raise ConfigError(
            f"--random_fewer_steps {config.random_fewer_steps} would leave no step of "
            f"--model.solver.max_steps {model.solver.max_steps}."
        )
    if data.corpus.startswith("text_") and data.file is None:
        raise ConfigError(f"--data.corpus {data.corpus} needs a text file: give --data.file.")
    if model.kind == "transformer_xl" and config.pretrain_steps:
        raise ConfigError(
            "--pretrain_steps warms up an equilibrium model; transformer_xl solves nothing."
        )
    try:
        model.solver.build_adjoint()
    except ValueError as error:
        raise ConfigError(f"--model.solver.adjoint: {error}") from error


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
    changes = differences(values, to_dict(config))
    if changes:
        listed = ", ".join(f"{name}: {change}" for name, change in changes.items())
        raise ConfigError(
            f"the stored configuration was written by another version of deqjax ({listed}); use "
            "the version that wrote it."
        )
    return config
