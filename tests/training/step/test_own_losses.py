"""Losses that somebody else may have: light weights, models that solve more often in training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from toy import OFF, batch, loss, problem_and_state

from deqjax.nn import DEQ
from deqjax.training import Batch, Loss, OptimizerConfig
from deqjax.training.step import (
    OWN_LIMITS,
    Problem,
    evaluate_step,
    initial_state,
    optimizer,
    split,
    train_step,
)


@pytest.mark.parametrize("weight", [1e-3, 1.0])
def test_the_unit_of_the_weights_does_not_change_a_mean(weight):
    def light(model, rows, memory):
        found = loss(model, rows, memory)
        return found._replace(weights=jnp.full(found.losses.shape, weight))

    problem, state = problem_and_state()
    scores = [
        evaluate_step(each, state.weights, batch(), state.memory, OWN_LIMITS)[0]
        for each in (problem, problem._replace(loss=light))
    ]
    assert float(scores[1]["scored"]) == pytest.approx(12 * weight)
    assert float(scores[1]["loss"]) == pytest.approx(float(scores[0]["loss"]), rel=1e-5)


class Again(nnx.Module):
    """Solves once in evaluation, and once more in training."""

    def __init__(self):
        self.linear = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        self.deq = DEQ(lambda z, u: 0.5 * z + u)
        self.dropout = nnx.Dropout(0.5)

    def __call__(self, x):
        z = self.deq(self.linear(x)).value
        return z if self.dropout.deterministic else self.deq(z).value


@pytest.mark.parametrize("parts", [1, 2])
def test_a_model_may_solve_more_often_in_training(parts):
    architecture, weights = split(Again())
    update = optimizer(OptimizerConfig(), 10)
    problem = Problem(
        architecture,
        lambda model, rows, memory: Loss(model(rows).sum(axis=1) ** 2),
        update,
        None,
        OFF,
        micro_batches=parts,
    )
    state = initial_state(weights, update, jax.random.key(0))
    rows = Batch(np.ones((4, 2), np.float32), np.ones(4, bool))
    _, metrics, _ = train_step(problem, state, rows)
    assert np.isfinite(metrics["loss"])
    assert metrics["backward_converged"] == 1
