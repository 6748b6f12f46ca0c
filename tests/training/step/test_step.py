import functools

import jax
import numpy as np
import pytest
from flax import nnx
from test_parallel import RATES, batch, problem_and_state

from deqjax import jacobian_penalty
from deqjax.training import Batch, OptimizerConfig, PenaltyConfig
from deqjax.training.step import SolveLimits, by_rates, evaluate_step, optimizer, train_step


@functools.cache
def stepper(weight, probability):
    problem, state = problem_and_state()
    # Adam's state does not depend on the rate, so the shared state serves here too
    fast = optimizer(OptimizerConfig(learning_rate=0.02, warmup_steps=0), 10)
    fast = by_rates(fast, RATES)
    problem = problem._replace(penalty=PenaltyConfig(weight, probability), optimizer=fast)

    @jax.jit
    def step(state):
        return train_step(problem, state, batch())[:2]

    return step, state


def run(weight, probability, steps=1):
    step, state = stepper(weight, probability)
    history = []
    for _ in range(steps):
        state, metrics = step(state)
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def test_loss_falls_on_one_batch():
    _, history = run(0.0, 0.0, steps=9)
    assert history[-1]["loss"] < history[0]["loss"] - 0.1


def test_penalty_is_recorded_only_where_it_was_applied():
    _, history = run(0.5, 0.5, steps=12)
    applied = [not np.isnan(metrics["penalty"]) for metrics in history]
    assert 2 <= sum(applied) <= 10


def test_penalty_of_probability_one_is_always_applied():
    _, history = run(0.5, 1.0, steps=3)
    assert all(metrics["penalty"] > 0 for metrics in history)


def test_no_penalty_is_recorded_when_it_is_off():
    _, history = run(0.0, 1.0)
    assert "penalty" not in history[0]


def test_penalty_changes_the_gradient_and_not_the_loss():
    (_, (off,)), (_, (on,)) = run(0.0, 1.0), run(5.0, 1.0)
    assert on["loss"] == pytest.approx(off["loss"], rel=1e-6)
    assert on["gradient_norm"] != pytest.approx(off["gradient_norm"], rel=1e-3)


def test_penalized_training_lowers_the_jacobian():
    norms = []
    for weight in (0.0, 200.0):
        state, _ = run(weight, 1.0, steps=9)
        problem, _ = problem_and_state()
        model = problem.architecture.build(state.weights, train=False)
        equilibrium = model(batch().rows.tokens[:, :-1]).equilibrium
        norms.append(
            float(
                jacobian_penalty(
                    equilibrium.f,
                    equilibrium.solution.value,
                    equilibrium.u,
                    key=jax.random.key(1),
                    samples=20,
                )
            )
        )
    assert norms[1] < 0.7 * norms[0]


def test_same_state_gives_the_same_step():
    first, second = run(0.5, 0.5), run(0.5, 0.5)
    for a, b in zip(
        jax.tree.leaves(nnx.to_pure_dict(first[0].weights.parameters)),
        jax.tree.leaves(nnx.to_pure_dict(second[0].weights.parameters)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def test_learning_rate_is_that_of_the_schedule():
    _, history = run(0.0, 0.0, steps=2)
    problem, _ = problem_and_state()
    assert history[1]["learning_rate"] == pytest.approx(float(problem.schedule(1)))


def taken(problem, state, **options):
    step = jax.jit(lambda state: train_step(problem, state, batch(), **options)[:2])
    return step(state)


def test_a_step_of_the_warm_up_stage_solves_nothing_and_learns():
    problem, state = problem_and_state(penalty=0.0)
    after, metrics = taken(problem._replace(pretrain_layers=3), state, pretraining=True)
    assert not any(name.startswith("forward_") for name in metrics)
    assert np.isnan(metrics["backward_steps"])
    model = problem.architecture.build(state.weights, train=False)
    expected = model.negative_log_likelihood(
        model(batch().rows.tokens[:, :-1], layers=3).states, batch().rows.tokens[:, 1:]
    )
    np.testing.assert_allclose(metrics["loss"], expected.mean(), rtol=1e-5)
    assert int(after.step) == 1


def test_only_scored_targets_count():
    problem, state = problem_and_state(penalty=0.0)
    whole = batch()
    scored = np.ones((4, 8), bool)
    scored[:, 3:] = False
    changed = whole.rows.tokens.copy()
    changed[:, 4:] = 0  # only targets from the fourth on, and inputs that earlier ones cannot see
    limits = SolveLimits(1e-6, 30)
    one, other = (
        evaluate_step(problem, state.weights, Batch(rows, whole.counted), None, limits)
        for rows in (
            whole.rows._replace(tokens=tokens, scored=scored)
            for tokens in (whole.rows.tokens, changed)
        )
    )
    assert one[0]["scored"] == 12
    np.testing.assert_allclose(one[0]["loss"], other[0]["loss"], rtol=1e-3)


def test_fresh_rows_forget_and_the_others_remember():
    problem, state = problem_and_state(penalty=0.0, memory_length=6)
    limits = SolveLimits(1e-5, 30)

    @jax.jit
    def step(batch, memory):
        metrics, _, memory = evaluate_step(problem, state.weights, batch, memory, limits)
        return metrics, memory

    first, second = batch(0), batch(1)
    _, memory = step(first, state.memory)
    remembered, _ = step(second, memory)
    anew = Batch(second.rows._replace(fresh=np.ones(4, bool)), second.counted)
    fresh, _ = step(anew, memory)
    alone, _ = step(second, state.memory)
    np.testing.assert_allclose(fresh["loss"], alone["loss"], rtol=1e-5)
    assert abs(remembered["loss"] - alone["loss"]) > 1e-5
