"""Training: typed configs, the pmapped step, the loop, and what a run leaves behind."""

from deqjax.training.adopt import adopt_model
from deqjax.training.checkpoint import CheckpointError, Checkpoints
from deqjax.training.config import (
    ConfigError,
    EvaluationConfig,
    OptimizerConfig,
    PenaltyConfig,
    RunConfig,
)
from deqjax.training.finished import evaluate_run, generate_text, load_run
from deqjax.training.language_config import DataConfig, ModelConfig, TrainConfig
from deqjax.training.loop import Outcome, Run, train
from deqjax.training.metrics import MetricsError, read_metrics
from deqjax.training.overlays import write_overlays
from deqjax.training.parallel import ReplicaError
from deqjax.training.picture import draw_run, save_run_picture
from deqjax.training.vision_config import ImageDataConfig, ImageModelConfig, VisionConfig
from deqjax.training.workdir import Workdir, WorkdirError

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "ConfigError",
    "DataConfig",
    "EvaluationConfig",
    "ImageDataConfig",
    "ImageModelConfig",
    "MetricsError",
    "ModelConfig",
    "OptimizerConfig",
    "Outcome",
    "PenaltyConfig",
    "ReplicaError",
    "Run",
    "RunConfig",
    "TrainConfig",
    "VisionConfig",
    "Workdir",
    "WorkdirError",
    "adopt_model",
    "draw_run",
    "evaluate_run",
    "generate_text",
    "load_run",
    "read_metrics",
    "save_run_picture",
    "train",
    "write_overlays",
]
