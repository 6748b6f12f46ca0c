"""A model's pass over a batch, observed: what its equilibrium layers solve is seen from outside."""

from typing import Any, NamedTuple

import jax

from deqjax.nn import Observation, ObservedSolve, observe
from deqjax.training.step._loss import Batch, Loss, sums
from deqjax.training.step._problem import Metrics, Problem
from deqjax.training.step._state import Weights


class Forward(NamedTuple):
    """What a model made of a batch.

    Attributes:
        loss: () float32, mean over what counts in the batch.
        weight: () float32, sum of the weights that it averages over.
        counts: what evaluation sums up beside it, such as hits.
        counted: (rows,) bool; the other rows only fill the batch.
        solves: of the model's equilibrium layers, in the order of their calls.
        memory: what its rows hand on, or None.
    """

    loss: jax.Array
    weight: jax.Array
    counts: Metrics
    counted: jax.Array
    solves: tuple[ObservedSolve, ...]
    memory: Any


def forward(problem: Problem, model: Any, batch: Batch, memory: Any, **observed: Any) -> Forward:
    """Call the task's loss while the model is observed.

    Args:
        problem: has the loss.
        model: in training or evaluation mode.
        batch: rows.
        memory: of these rows, or None.
        **observed: as [`deqjax.nn.observe`][] takes them.
    """
    found, seen = observed_loss(problem, model, batch, memory, **observed)
    total = sums(found, batch.counted)
    solves = tuple(seen.solves)
    return Forward(total.mean, total.weight, total.counts, batch.counted, solves, found.memory)


def observed_loss(
    problem: Problem, model: Any, batch: Batch, memory: Any, **observed: Any
) -> tuple[Loss, Observation]:
    """The task's loss as it is, and what was solved for it; see `forward`."""
    with observe(model, **observed) as seen:
        found = problem.loss(model, batch.rows, memory)
    return found, seen


def weight_of(problem: Problem, model: Any, batch: Batch, memory: Any) -> jax.Array:
    """() float32, the sum of the weights of what counts in a batch, before the model is solved.

    Follows the loss with each layer applied once; what that computes, the compiler leaves out.
    """
    return forward(problem, model, batch, memory, layers=1).weight


def samples_of(problem: Problem, weights: Weights, batch: Batch, memory: Any) -> tuple[int, ...]:
    """How many samples each solve of a training pass over a batch has; computes nothing."""
    samples: tuple[int, ...] = ()

    def followed(batch: Batch, memory: Any) -> None:
        nonlocal samples
        # in training mode: a model may solve more often there than in evaluation
        model = problem.architecture.build(weights, train=True)
        _, seen = observed_loss(problem, model, batch, memory, layers=1)
        samples = seen.samples

    jax.eval_shape(followed, batch, memory)
    return samples
