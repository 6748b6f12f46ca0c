"""What a training step draws at random for its stability: its penalty and its step limit.

Bai, Koltun & Kolter, "Stabilizing Equilibrium Models by Jacobian Regularization", ICML 2021,
sections 3.2 and 4, and the schedules of their published configurations.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from deqjax import jacobian_penalty
from deqjax._core.types import Scalar
from deqjax.nn import ObservedSolve
from deqjax.training.step._problem import Problem


class PenaltyDraw(NamedTuple):
    """The penalty of one step.

    Attributes:
        weight: () float32.
        chosen: () bool, whether this step is penalized.
        never: whether no step of this stage is, so that nothing needs to be compiled.
    """

    weight: jax.Array
    chosen: jax.Array
    never: bool


def draw_penalty(
    problem: Problem, step: jax.Array, key: jax.Array, *, pretraining: bool
) -> PenaltyDraw:
    """Whether, and how strongly, a step is penalized; all run-time values."""
    settings = problem.penalty
    raised = jnp.maximum(step - problem.pretrain_steps, 0) // settings.increment_every
    weight = jnp.asarray(settings.weight + settings.increment * raised, jnp.float32)
    never = not settings.weight + settings.increment
    if pretraining:
        weight = jnp.float32(settings.pretrain_weight)
        never = settings.pretrain_weight == 0
    chosen = jax.random.bernoulli(key, settings.probability) & (weight > 0)
    if settings.last_step is not None:
        chosen &= step < settings.last_step
    return PenaltyDraw(weight, chosen, never)


def draw_step_limit(problem: Problem, key: jax.Array) -> Callable[[Scalar], jax.Array] | None:
    """A layer's own limit -> the one of this step's solves, () int32; None is always its own."""
    settings = problem.step_limit
    match settings.distribution:
        case "fixed":
            return None
        case "uniform":
            return lambda most: jax.random.randint(key, (), settings.least, most + 1)
        case "poisson":
            drawn = jax.random.poisson(key, settings.mean, ())
            return lambda most: jnp.asarray(jnp.clip(drawn, settings.least, most), jnp.int32)


def penalty_of(
    solves: Sequence[ObservedSolve], key: jax.Array, draw: PenaltyDraw, samples: int
) -> jax.Array:
    """Sum over the solves, of each f(z, u) where it ended; 0 on a step that is not penalized."""

    def applied() -> jax.Array:
        penalties = [
            jacobian_penalty(
                each.f,
                lax.stop_gradient(each.solution.value),
                each.u,
                key=own_key,
                samples=samples,
                **each.form,
            )
            for each, own_key in zip(solves, layer_keys(key, len(solves)), strict=True)
        ]
        return sum(penalties[1:], start=penalties[0])

    penalty: jax.Array = lax.cond(draw.chosen, applied, lambda: jnp.float32(0))
    return penalty


def layer_keys(key: jax.Array, count: int) -> Sequence[jax.Array]:
    """A key for each of the solves."""
    return [key] if count == 1 else list(jax.random.split(key, count))
