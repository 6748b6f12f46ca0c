"""Some minutes of the published MDEQ-tiny on CIFAR-10, by the whole engine.

The recipe's steps are shortened in proportion to the time, so that its warm-up stage and its decay
end with it: by the seconds of a step that the part "images" has measured, or else by trial steps.
Accuracy is that of the whole test split.
"""

import dataclasses
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import jax

from accelerated.part import Options, Tell
from deqjax import training
from deqjax.training import RunConfig, load_experiment
from deqjax.training._run import build

RECIPE = Path(__file__).parents[1] / "vision" / "cifar10_mdeq_tiny.py"
TRIAL = 6  # steps
TO_COMPILE = 40.0  # seconds for both kinds of steps
TO_END = 30.0  # seconds for the last checkpoint and the evaluations


def measure(options: Options, tell: Tell) -> None:
    """Plan, train, evaluate."""
    config = configuration(options)
    training.keep_compiled_programs(options.folder / "run")
    seconds = trial(config, options) if options.mdeq_step is None else options.mdeq_step
    tell("seconds of a step, at the start", seconds)
    config = shortened(config, seconds, options)
    tell("steps planned", config.steps)
    tell("of these warm-up", config.pretrain_steps)
    outcome = trained_until(config, options, lambda line: tell("said", line))
    rows = config.batch_size * outcome.step
    tell("steps", outcome.step)
    tell("parameters", outcome.parameters)
    tell("seconds of training", outcome.seconds)
    tell("images a second, evaluations and compilation included", rows / outcome.seconds)
    tell("images a second, by the records", _rates(outcome))
    tell("ended before its time", outcome.stopped_by is not None)
    tell("test", training.evaluate_run(outcome.workdir.path, split="test"))


def configuration(options: Options) -> RunConfig:
    """The recipe with its data, or a tiny copy on scikit-learn's digits."""
    config = load_experiment(RECIPE)
    if options.tiny:
        return _smallest(config)
    images = dataclasses.replace(config.task.images, directory=options.data)
    return dataclasses.replace(
        config, task=dataclasses.replace(config.task, images=images), threads=8
    )


def trial(config: RunConfig, options: Options) -> float:
    """Median seconds of a step that solves; those of the warm-up take about as long."""
    most = options.left / 4
    run = build(config, jax.local_devices()[:1])
    state, times = run.steps.place(run.state), []
    for _ in range(TRIAL):
        batch = next(run.batches)
        started = time.perf_counter()
        state, *_ = jax.block_until_ready(run.steps.train(state, batch))
        times.append(time.perf_counter() - started)
        if sum(times) > most:
            break
    run.batches.close()
    # the first has the compilation
    return statistics.median(times[1:] or times)


def shortened(config: RunConfig, seconds: float, options: Options) -> RunConfig:
    """With as many steps as there is time for, and the recipe's share of warm-up."""
    share = config.pretrain_steps / config.steps
    # solves take more steps as the model learns, and something is logged and saved
    steps = max(int((options.left - TO_COMPILE - TO_END) / (1.15 * seconds)), 10)
    if options.tiny:
        steps = 10
    return dataclasses.replace(
        config,
        steps=steps,
        pretrain_steps=int(share * steps),
        checkpoint_every=10**6,
        log_every=max(steps // 40, 1),
        evaluation=dataclasses.replace(config.evaluation, every=10**6, radius_batches=0),
    )


def trained_until(
    config: RunConfig, options: Options, say: Callable[[str], None]
) -> training.Outcome:
    """Train; this process asks itself for the end, as a cluster would, should steps take longer."""
    late = threading.Timer(options.left - TO_END, os.kill, (os.getpid(), signal.SIGTERM))
    late.daemon = True
    late.start()
    try:
        first = jax.local_devices()[:1]
        return training.train(config, options.folder / "run", devices=first, say=say)
    finally:
        late.cancel()


def _rates(outcome: training.Outcome) -> list[float]:
    """In the order of the steps; the first has the compilation in it."""
    records = training.read_metrics(outcome.workdir.metrics)
    names = ("images_per_second", "rows_per_second")
    return [r[name] for r in records if r["split"] == "train" for name in names if name in r]


def _smallest(config: RunConfig) -> RunConfig:
    network = config.task.network
    sizes = {
        "channels": (4,),
        "head_channels": (2,),
        "groups": 2,
        "expansion": 1,
        "final_channels": 4,
        "classes": 10,
        "input_channels": 1,
    }
    network = dataclasses.replace(
        network,
        mdeq=dataclasses.replace(network.mdeq, **sizes),
        solver=dataclasses.replace(
            network.solver, max_steps=3, backward_max_steps=3, history=3, backward_history=3
        ),
    )
    images = dataclasses.replace(config.task.images, name="digits")
    task = dataclasses.replace(config.task, network=network, images=images)
    evaluation = dataclasses.replace(config.evaluation, final_batches=1)
    return dataclasses.replace(config, task=task, batch_size=8, evaluation=evaluation)
