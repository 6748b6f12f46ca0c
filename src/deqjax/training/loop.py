"""The training loop: steps, records, evaluations, checkpoints, and a clean stop."""

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from deqjax.models import SegmentMemory
from deqjax.training import language, parallel, vision
from deqjax.training.checkpoint import CheckpointError, Checkpoints
from deqjax.training.config import (
    RESUMABLE_CHANGES,
    ConfigError,
    RunConfig,
    check,
)
from deqjax.training.interrupts import StopRequest
from deqjax.training.language_config import TrainConfig
from deqjax.training.metrics import MetricsWriter, progress_bar
from deqjax.training.parallel import DataParallel
from deqjax.training.picture import save_run_picture
from deqjax.training.schedules import learning_rate, optimizer
from deqjax.training.state import TrainState, initial_state, split
from deqjax.training.step import ForwardPass, Problem
from deqjax.training.stored_config import to_dict
from deqjax.training.task import Task
from deqjax.training.vision_config import VisionConfig
from deqjax.training.workdir import Workdir, prepare_workdir


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        workdir: where everything lies.
        step: finished steps.
        parameters: number of trained parameters.
        metrics: the last evaluation, None if the run was stopped before it.
        seconds: wall-clock time of the training loop, compilation included.
        stopped_by: the signal that ended the run early, or None.
    """

    workdir: Workdir
    step: int
    parameters: int
    metrics: dict[str, float] | None
    seconds: float
    stopped_by: signal.Signals | None


class Run(NamedTuple):
    """The parts that a configuration builds."""

    config: RunConfig
    steps: DataParallel
    task: Task
    state: TrainState


def train(
    config: RunConfig,
    workdir: Path | str,
    *,
    resume: bool = False,
    say: Callable[[str], None] = print,
) -> Outcome:
    """Train until ``config.steps``, or until Ctrl-C or SIGTERM, which leave a checkpoint.

    Args:
        config: the whole run.
        workdir: folder of the run.
        resume: go on from its newest checkpoint.
        say: receives lines for the user.

    Raises:
        ConfigError, WorkdirError, CheckpointError, ReplicaError, DataError: one sentence each,
            before the first compilation.
    """
    check(config)
    folder = prepare_workdir(
        workdir,
        experiment=config.name,
        config=to_dict(config),
        resume=resume,
        may_change=RESUMABLE_CHANGES,
    )
    run = build(config)
    size = sum(x.size for x in jax.tree.leaves(run.state.weights.parameters))
    say(
        f"{config.name}: {size:,} parameters, {run.task.describe()}, "
        f"{run.steps.devices} {jax.devices()[0].platform} device(s), run in {folder.path}"
    )
    started = time.perf_counter()
    with Checkpoints(folder.checkpoints, keep=config.keep_checkpoints) as checkpoints:
        state = _restored(run, checkpoints, say) if resume else run.state
        first = int(state.step)
        if first >= config.steps:
            raise ConfigError(
                f"the run in {folder.path} has finished its {first} steps; "
                f"raise --steps above {first} to train on."
            )
        with (
            MetricsWriter(folder, first if resume else None) as writer,
            StopRequest() as request,
        ):
            step, metrics = _loop(run, state, first, checkpoints, writer, request)
    save_run_picture(folder)
    seconds = time.perf_counter() - started
    return Outcome(folder, step, size, metrics, seconds, request.signal)


def build(config: RunConfig) -> Run:
    """Make a run's parts, its state before the first step among them."""
    task = open_task(config)
    rows = config.batch_size // jax.process_count()
    problem, state = assemble(config, rows, axis_name=parallel.AXIS)
    if state.memory is not None and jax.process_count() > 1:
        raise ConfigError(
            "--model.shape.memory_length needs one process for now: a checkpoint would hold the "
            f"memory of one of the {jax.process_count()} processes only."
        )
    return Run(config, DataParallel(problem, rows), task, state)


def open_task(config: RunConfig) -> Task:
    """The data of a run, prepared on first use.

    Raises:
        DataError, ConfigError: they are missing or damaged, or do not go with the model.
    """
    match config:
        case TrainConfig():
            return language.LanguageTask(config)
        case VisionConfig():
            return vision.VisionTask(config)
    raise TypeError(f"there is no task for a {type(config).__name__}.")


def assemble(
    config: RunConfig, rows: int, *, axis_name: str | None = None
) -> tuple[Problem, TrainState]:
    """The problem that a configuration poses and the state before the first step; needs no data.

    Args:
        config: the run.
        rows: of each batch, for the model's memory.
        axis_name: of the replicas, over which batch normalizations average.
    """
    model, forward, stages, memory = _model(config, rows)
    architecture, weights = split(model, axis_name)
    update = optimizer(config.optimizer, config.steps)
    problem = Problem(
        architecture,
        forward,
        stages,
        update,
        learning_rate(config.optimizer, config.steps),
        config.penalty,
        max_steps=config.solver.max_steps if config.solves else None,
        random_fewer_steps=config.random_fewer_steps,
        pretrain_steps=config.pretrain_steps,
        pretrain_layers=config.pretrain_layers,
    )
    return problem, initial_state(weights, update, jax.random.key(config.seed), memory)


def _model(
    config: RunConfig, rows: int
) -> tuple[nnx.Module, ForwardPass, int, SegmentMemory | None]:
    """The model, its forward pass, its equilibrium layers, and the memory of its first batch."""
    match config:
        case TrainConfig():
            reader = language.build_model(config.model, config.seed)
            memory = reader.initial_memory(rows) if config.model.shape.memory_length else None
            return reader, language.forward, int(config.solves), memory
        case VisionConfig():
            viewer = vision.build_model(config.model, config.seed)
            return viewer, vision.forward, viewer.stages, None
    raise TypeError(f"there is no model for a {type(config).__name__}.")


def _restored(run: Run, checkpoints: Checkpoints, say: Callable[[str], None]) -> TrainState:
    if checkpoints.latest_step() is None:
        say("the run stopped before its first checkpoint; starting over from step 0")
        return run.state
    step, state, meta = checkpoints.restore(run.state, run.task.batches.iterator)
    if meta["data"] != run.task.fingerprint:
        raise CheckpointError(
            f"the checkpoint at step {step} was trained on other data (fingerprint {meta['data']}, "
            f"now {run.task.fingerprint}): resume with the data that began the run (the corpus "
            "stdlib differs between Python versions)."
        )
    say(f"resuming after step {step}")
    restored: TrainState = state
    return restored


def _loop(
    run: Run,
    start: TrainState,
    first: int,
    checkpoints: Checkpoints,
    writer: MetricsWriter,
    request: StopRequest,
) -> tuple[int, dict[str, float] | None]:
    """Run the steps after ``first``; return the last step and the last evaluation."""
    config, steps = run.config, run.steps
    state = steps.place(start)
    window, clock = [], time.perf_counter()
    latest: dict[str, float] = {}
    with progress_bar(config.steps, first) as bar:
        for step in range(first + 1, config.steps + 1):
            pretraining = step <= config.pretrain_steps
            state, metrics = steps.train(state, next(run.task.batches), pretraining=pretraining)
            window.append(metrics)
            # read once: a signal between two readings would stop the run without its checkpoint
            stopping = request.signal is not None
            last = step == config.steps or stopping
            if step % config.log_every == 0 or last:
                latest = _averaged(window, run.task)
                now = time.perf_counter()
                latest[run.task.speed] = len(window) * run.task.examples / (now - clock)
                writer.write(step, "train", latest)
                window, clock = [], now
            bar.update(step, latest)
            if step % config.checkpoint_every == 0 or last:
                meta = {"data": run.task.fingerprint}
                checkpoints.save(step, parallel.on_host(state), run.task.batches.iterator, meta)
            if stopping and step < config.steps:
                return step, None
            if step % config.evaluation.every == 0 and not last:
                found = _evaluate(run, state, config.evaluation.batches)
                writer.write(step, "validation", found)
                clock = time.perf_counter()
    final = _evaluate(run, state, config.evaluation.final_batches)
    writer.write(config.steps, "validation", final)
    return config.steps, final


def _evaluate(run: Run, state: TrainState, batches: int) -> dict[str, float]:
    metrics = run.task.evaluate(run.steps, state.weights, "validation", batches=batches)
    if run.config.solves:
        metrics["tolerance"] = run.config.solver.tol
    return metrics


def _averaged(window: list[Any], task: Task) -> dict[str, float]:
    """Mean of each metric over some steps, leaving out the steps on which it is NaN by design.

    The loss is never left out: if it is not finite, the record says so. Steps of the warm-up stage
    have fewer metrics.
    """
    fetched = [parallel.first_replica(metrics) for metrics in window]
    averages = {}
    for name in sorted({name for metrics in fetched for name in metrics}):
        values = np.asarray([metrics[name] for metrics in fetched if name in metrics], np.float64)
        if name == "penalty" or name.startswith("backward_"):
            values = values[~np.isnan(values)]
        if values.size:
            averages[name] = float(values.mean())
    return averages | task.in_units(averages["loss"])
