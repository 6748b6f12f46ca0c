"""A training problem that compiles in a second and whose rows can be spoiled one by one."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from deqjax.adjoints import implicit
from deqjax.models import SegmentMemory
from deqjax.nn import DEQ, DropoutMask, masked
from deqjax.solvers import picard
from deqjax.training import Batch, Loss, PenaltyConfig
from deqjax.training.step import Problem, initial_state, split, train_step

OFF = PenaltyConfig(weight=0.0)


class Rows(NamedTuple):
    """Points to map to three numbers each, of which some count."""

    points: Any  # (rows, 2)
    answers: Any  # (rows, 3)
    scored: Any  # (rows, 3) bool


class Cell(nnx.Module):
    """z -> kernel z + z^3 + u: contracts near zero, explodes far from it."""

    def __init__(self, dropout, rngs):
        self.kernel = nnx.Param(0.2 * jax.random.normal(rngs.params(), (4, 4)))
        self.mask = DropoutMask(dropout, rngs=rngs)

    def __call__(self, z, u):
        return masked(z @ self.kernel[...], self.mask(z.shape, z.dtype)) + z**3 + u


class Model(nnx.Module):
    def __init__(self, dropout, normalized, max_steps, rngs):
        self.inject = nnx.Linear(2, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs) if normalized else None
        adjoint = implicit(picard, 1e-6, 8)
        self.deq = DEQ(
            Cell(dropout, rngs), solver=picard, adjoint=adjoint, tol=1e-4, max_steps=max_steps
        )
        self.readout = nnx.Linear(4, 3, rngs=rngs)


def loss(model, rows, memory):
    """A task's loss: the layer is called, and that is all."""
    u = model.inject(rows.points)
    if model.norm is not None:
        u = model.norm(u)
    u = 0.05 * u
    if memory is not None:
        u += 0.05 * memory.states[:, -1]
    z = model.deq(u).value
    error = model.readout(z) - rows.answers
    return Loss(
        error**2,
        weights=rows.scored,
        counts={"near": jnp.abs(error) < 0.5},
        memory=None if memory is None else memory.extended(z[:, None]),
    )


def batch(seed=0, rows=4):
    rng = np.random.default_rng(seed)
    points, answers = rng.normal(size=(rows, 2)), rng.normal(size=(rows, 3))
    scored = np.ones((rows, 3), bool)
    own = Rows(points.astype(np.float32), answers.astype(np.float32), scored)
    return Batch(own, np.ones(rows, bool))


def spoiled(good, field, value, row=1):
    """The batch with one number of one row replaced."""
    changed = getattr(good.rows, field).copy()
    changed[row, 0] = value
    return good._replace(rows=good.rows._replace(**{field: changed}))


def unscored(good, row, first=0):
    """The batch without the targets of one row, from the first that is named on."""
    scored = good.rows.scored.copy()
    scored[row, first:] = False
    return Batch(good.rows._replace(scored=scored), scored.any(axis=1))


@functools.cache
def problem_and_state(
    *, dropout=0.0, normalized=False, max_steps=20, rows=4, optimizer=None, **options
):
    """A problem, its ``options`` replaced, and the state before its first step."""
    architecture, weights = split(Model(dropout, normalized, max_steps, nnx.Rngs(3)))
    schedule = optax.constant_schedule(0.05)
    problem = Problem(
        architecture,
        loss,
        optimizer=optax.adam(schedule) if optimizer is None else optimizer,
        schedule=schedule,
        penalty=OFF,
    )._replace(**options)
    memory = SegmentMemory(jnp.zeros((rows, 2, 4)), None, jnp.zeros(rows, jnp.int32))
    averages = problem.average_decay > 0
    key = jax.random.key(5)
    state = initial_state(weights, problem.optimizer, key, memory, averages=averages)
    return problem, state


@functools.cache
def stepper(*, pretraining=False, **options):
    """A compiled step; in the warm-up stage, which solves nothing, it compiles faster."""
    problem, _ = problem_and_state(**options)

    @jax.jit
    def step(state, batch):
        return train_step(problem, state, batch, pretraining=pretraining)

    return step


def run(batches, *, pretraining=False, **options):
    """The state and the metrics after each of some batches, the state before the first first."""
    _, state = problem_and_state(**options)
    step = stepper(pretraining=pretraining, **options)
    states, history = [state], []
    for each in batches:
        state, metrics, _ = step(state, each)
        states.append(state)
        history.append({name: float(value) for name, value in metrics.items()})
    return states, history


def bits(tree):
    """Every leaf's bytes, for comparisons that NaN cannot escape."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
