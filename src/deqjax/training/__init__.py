"""The engine: it trains any [`Task`][deqjax.training.Task], and keeps what a run leaves behind.

Who trains, uses or compares runs comes in here, with a task of their own or one of
``deqjax.tasks``. Nothing in here knows a model, a data set or a task.
"""

from deqjax._extras import needs

with needs("train", "deqjax.training"):
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
    from deqjax.training._config import RunConfig
    from deqjax.training._depths import DepthScore, sweep_depths
    from deqjax.training._experiments import load_experiment
    from deqjax.training._finished import Which, evaluate_run, load_run, solve_limits
    from deqjax.training._launch import train
    from deqjax.training._loop import DivergenceError
    from deqjax.training._options import (
        ConfigError,
        EvaluationConfig,
        GuardConfig,
        OptimizerConfig,
        PenaltyConfig,
        StepLimitConfig,
    )
    from deqjax.training._outcome import Outcome
    from deqjax.training._prepare import prepare
    from deqjax.training._run import Run
    from deqjax.training._run_names import newest_run, next_free
    from deqjax.training._sentences import ExperimentError
    from deqjax.training._sweep import Sweep, sweep
    from deqjax.training._task import Task
    from deqjax.training._workdir import Workdir, WorkdirError
    from deqjax.training.batches import BatchOrder, Pipeline, Position
    from deqjax.training.checkpoints import CheckpointError, Checkpoints, DamagedCheckpointError
    from deqjax.training.devices import (
        ClusterOptions,
        PeerError,
        Peers,
        ReplicaError,
        join,
        keep_compiled_programs,
    )
    from deqjax.training.estimate import Estimate, TopologyError, estimate_run
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
    from deqjax.training.step import Batch, Loss

__all__ = [
    "Batch",
    "BatchOrder",
    "CheckpointError",
    "Checkpoints",
    "ClusterOptions",
    "ComparedRun",
    "Comparison",
    "ConfigError",
    "Count",
    "DamagedCheckpointError",
    "DepthScore",
    "DivergenceError",
    "Estimate",
    "EvaluationConfig",
    "ExperimentError",
    "GuardConfig",
    "Layers",
    "ListedRun",
    "Loss",
    "MetricsError",
    "Natural",
    "NotNegative",
    "OptimizerConfig",
    "Outcome",
    "PeerError",
    "Peers",
    "PenaltyConfig",
    "Pipeline",
    "Position",
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
    "Task",
    "TopologyError",
    "Which",
    "Width",
    "Workdir",
    "WorkdirError",
    "adopt_model",
    "compare_runs",
    "estimate_run",
    "evaluate_run",
    "join",
    "keep_compiled_programs",
    "list_runs",
    "load_experiment",
    "load_run",
    "newest_run",
    "next_free",
    "prepare",
    "read_metrics",
    "save_run_picture",
    "solve_limits",
    "sweep",
    "sweep_depths",
    "train",
]
