"""Training: typed configs, the pmapped step, the loop, and what a run leaves behind."""

from deqjax._ranges import (
    Count,
    Layers,
    Natural,
    NotNegative,
    Positive,
    PositiveShare,
    Rate,
    Seed,
    Share,
    Size,
    Steps,
    Width,
)
from deqjax.training._adopt import adopt_model
from deqjax.training._config import (
    ConfigError,
    EvaluationConfig,
    GuardConfig,
    OptimizerConfig,
    PenaltyConfig,
    RunConfig,
    StepLimitConfig,
)
from deqjax.training._depths import DepthScore, sweep_depths
from deqjax.training._experiments import ExperimentError, load_experiment
from deqjax.training._finished import evaluate_run, generate_text, load_run
from deqjax.training._language_config import DataConfig, ModelConfig, TrainConfig
from deqjax.training._launch import train
from deqjax.training._loop import DivergenceError
from deqjax.training._outcome import Outcome
from deqjax.training._overlays import write_overlays
from deqjax.training._run import Run
from deqjax.training._run_names import newest_run, next_free
from deqjax.training._sweep import Sweep, sweep
from deqjax.training._vision_config import ImageDataConfig, ImageModelConfig, VisionConfig
from deqjax.training._workdir import Workdir, WorkdirError
from deqjax.training.checkpoints import CheckpointError, Checkpoints, DamagedCheckpointError
from deqjax.training.devices import (
    ClusterOptions,
    PeerError,
    Peers,
    ReplicaError,
    join,
    keep_compiled_programs,
)
from deqjax.training.records import MetricsError, read_metrics
from deqjax.training.report import (
    ComparedRun,
    Comparison,
    ListedRun,
    RunList,
    compare_runs,
    list_runs,
    save_run_picture,
)

__all__ = [
    "CheckpointError",
    "Checkpoints",
    "ClusterOptions",
    "ComparedRun",
    "Comparison",
    "ConfigError",
    "Count",
    "DamagedCheckpointError",
    "DataConfig",
    "DepthScore",
    "DivergenceError",
    "EvaluationConfig",
    "ExperimentError",
    "GuardConfig",
    "ImageDataConfig",
    "ImageModelConfig",
    "Layers",
    "ListedRun",
    "MetricsError",
    "ModelConfig",
    "Natural",
    "NotNegative",
    "OptimizerConfig",
    "Outcome",
    "PeerError",
    "Peers",
    "PenaltyConfig",
    "Positive",
    "PositiveShare",
    "Rate",
    "ReplicaError",
    "Run",
    "RunConfig",
    "RunList",
    "Seed",
    "Share",
    "Size",
    "StepLimitConfig",
    "Steps",
    "Sweep",
    "TrainConfig",
    "VisionConfig",
    "Width",
    "Workdir",
    "WorkdirError",
    "adopt_model",
    "compare_runs",
    "evaluate_run",
    "generate_text",
    "join",
    "keep_compiled_programs",
    "list_runs",
    "load_experiment",
    "load_run",
    "newest_run",
    "next_free",
    "read_metrics",
    "save_run_picture",
    "sweep",
    "sweep_depths",
    "train",
    "write_overlays",
]
