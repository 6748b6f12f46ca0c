"""What the Jacobian penalty adds to a training step of the default experiment."""

import dataclasses
import math
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deqjax.training import Batch, RunConfig, load_experiment
from deqjax.training._run import assemble
from deqjax.training.step._update import train_step
from timing import interleaved, milliseconds, ratio

EXPERIMENT = Path(__file__).parents[1] / "stdlib_lm.py"
PROBABILITY = 0.35


def configuration(quick: bool) -> RunConfig:
    """The default experiment, or a tiny copy of it."""
    config = load_experiment(EXPERIMENT)
    network, rows = config.task.network, config.batch_size
    shape = dataclasses.replace(network.shape, vocabulary=256)  # no data are read that tell it
    if quick:
        rows, shape = 2, dataclasses.replace(shape, length=8, width=8, heads=2, hidden=16)
    task = dataclasses.replace(config.task, network=dataclasses.replace(network, shape=shape))
    return dataclasses.replace(config, task=task, batch_size=rows)


def penalty_share(quick: bool, repeats: int) -> dict[str, Any]:
    """Times of a training step without the penalty, with it always, and with probability 0.35.

    Every step starts from the same parameters, so that all take the same solver steps; only the
    step number moves on, and with it the draw. A step at probability 0.35 has the penalty or not:
    its expected time is made of the medians of both kinds, weighted by the probability, each
    relative to the unpenalized step of the same round. NaN if no step was of a kind.
    """
    config = configuration(quick)
    settings = {
        "off": dataclasses.replace(config.penalty, weight=0.0),
        "always": dataclasses.replace(config.penalty, probability=1.0),
        "sometimes": dataclasses.replace(config.penalty, probability=PROBABILITY),
    }
    rows = config.batch_size
    problem, state = assemble(config, config.task)
    batch = jax.tree.map(jnp.asarray, Batch(config.task.example(rows), np.ones(rows, bool)))
    chosen: list[bool] = []

    def runner(penalty):
        own = problem._replace(penalty=penalty)
        step = jax.jit(partial(train_step, own))
        taken = 0

        def run():
            nonlocal taken
            taken += 1
            _, metrics, _ = step(state._replace(step=jnp.int32(taken)), batch)
            if penalty is settings["sometimes"]:
                chosen.append(not np.isnan(metrics["penalty"]))
            return metrics

        return run

    seconds = interleaved({name: runner(penalty) for name, penalty in settings.items()}, repeats)
    off, always, sometimes = (seconds[name] for name in settings)
    drawn = chosen[1:]  # the first was the warm-up
    relative = [time / base for time, base in zip(sometimes, off, strict=True)]
    penalized = [r for r, had in zip(relative, drawn, strict=True) if had]
    plain = [r for r, had in zip(relative, drawn, strict=True) if not had]
    expected = PROBABILITY * statistics.median(penalized or [math.nan])
    expected += (1 - PROBABILITY) * statistics.median(plain or [math.nan])
    return {
        "off_ms": milliseconds(off),
        "always_ms": milliseconds(always),
        "share_always": 1 - 1 / ratio(always, off),
        "share_sometimes": 1 - 1 / expected,
        "penalized_steps": sum(drawn),
        "samples": config.penalty.samples,
        "repeats": repeats,
    }
