"""Times of training steps on random rows: compiled together, run one after the other."""

import dataclasses
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from accelerated.part import Options, Tell
from deqjax.training import Batch, RunConfig
from deqjax.training._run import assemble
from deqjax.training.step import train_step

GIB = 2**30
MOST_STEPS, LEAST_STEPS = 40, 3
MOST_SECONDS, TO_TIME = 10.0, 8.0  # of each; TO_TIME is kept free of compilation
ROOM = 0.9  # of a device's memory


class Contest(NamedTuple):
    """A run whose step is timed.

    Attributes:
        config: with all sizes, so that it needs no data.
        rows: ``rows(count)``: a batch's, as the task's loss takes them.
        unit: what a row has, such as "tokens".
        each: how many of these.
    """

    config: RunConfig
    rows: Callable[[int], Any]
    unit: str
    each: int


class Compiled(NamedTuple):
    """A step of so many rows, by XLA's plan."""

    step: Any
    rows: int
    gib: float


def measure(contests: Mapping[str, Contest], options: Options, tell: Tell) -> None:
    """Time each, telling it at once; one that fails is told of as well."""
    room = memory_limit()
    started = time.perf_counter()
    with ThreadPoolExecutor(min(len(contests), os.cpu_count() or 1)) as pool:
        ready = {name: pool.submit(compiled, each, room) for name, each in contests.items()}
        # not timed while others compile, unless there would be no time left
        wait(ready.values(), timeout=max(options.left - TO_TIME * len(contests), 0))
        tell("seconds of compilation", time.perf_counter() - started)
        for number, (name, contest) in enumerate(contests.items()):
            if not ready[name].done():
                tell(name, {"failed": "it was not compiled in time"})
                continue
            try:
                # the others have as much time each
                seconds = min(MOST_SECONDS, options.left / (len(contests) - number) / 2)
                tell(name, timed(contest, ready[name].result(), 0.5 if options.tiny else seconds))
            except Exception as error:  # one of them is no reason to lose the others
                tell(name, {"failed": f"{type(error).__name__}: {error}"[:400]})


def memory_limit() -> float:
    """GiB that a program may use on the first device; infinite if that is not told."""
    told = jax.devices()[0].memory_stats() or {}
    return ROOM * told.get("bytes_limit", math.inf) / GIB


def compiled(contest: Contest, room: float) -> Compiled:
    """The step at the recipe's rows, or at half, a quarter, ... of them, until it fits."""
    rows = contest.config.batch_size
    while True:
        config = dataclasses.replace(contest.config, batch_size=rows)
        problem, state = abstract(config)
        batch = batch_of(contest, rows)
        step = jax.jit(partial(_step, problem), donate_argnums=0)
        program = step.lower(state, batch).compile()
        plan = program.memory_analysis()
        gib = (plan.argument_size_in_bytes + plan.temp_size_in_bytes) / GIB
        if gib <= room or rows == 1:
            return Compiled(program, rows, gib)
        rows //= 2


def _step(problem, state, batch):
    return train_step(problem, state, batch)[:2]


def abstract(config: RunConfig):
    """Problem and state as shapes."""
    problems = []

    def build():
        problem, state = assemble(config, config.task)
        problems.append(problem)
        return state

    state = jax.eval_shape(build)
    return problems[0], state


def batch_of(contest: Contest, rows: int) -> Batch:
    """Random rows that all count."""
    return Batch(contest.rows(rows), np.ones(rows, bool))


def timed(contest: Contest, found: Compiled, seconds: float) -> dict[str, Any]:
    """Figures of as many steps as the seconds allow; steps with a penalty are told apart."""
    config = dataclasses.replace(contest.config, batch_size=found.rows)
    state = jax.jit(lambda: assemble(config, config.task)[1])()
    size = sum(x.size for x in jax.tree.leaves(state.weights.parameters))
    batch = jax.device_put(batch_of(contest, found.rows))
    state, metrics = jax.block_until_ready(found.step(state, batch))
    times: dict[bool, list[float]] = {True: [], False: []}
    seen = []
    until = time.monotonic() + seconds
    for number in range(MOST_STEPS):
        if number >= LEAST_STEPS and time.monotonic() > until:
            break
        started = time.perf_counter()
        state, metrics = jax.block_until_ready(found.step(state, batch))
        taken = time.perf_counter() - started
        metrics = {name: float(value) for name, value in metrics.items()}
        times[math.isfinite(metrics.get("penalty", math.nan))].append(taken)
        seen.append(metrics)
    share = config.penalty.probability if config.penalty.weight else 0.0
    plain, penalized = (statistics.median(times[key] or [math.nan]) for key in (False, True))
    # a draw of few steps may have had none of a kind
    known = [x for x in (plain, penalized) if math.isfinite(x)]
    mean = (1 - share) * plain + share * penalized if len(known) == 2 else known[0]
    figures = {
        "parameters": size,
        "rows": found.rows,
        "rows of the recipe": contest.config.batch_size,
        "GiB by XLA's plan": found.gib,
        "steps": len(seen),
        "seconds of a step": plain,
        "seconds of a step with penalty": penalized,
        "share of these": share,
        f"{contest.unit} a second": contest.each * found.rows / mean,
    }
    for name in ("loss", "forward_steps", "backward_steps"):
        if name in seen[-1]:
            figures[f"{name}, last"] = seen[-1][name]
    # JSON has no NaN
    return {name: value for name, value in figures.items() if not math.isnan(value)}
