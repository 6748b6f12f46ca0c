"""What a step draws at random: its penalty and its step limit, the same on every replica."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from deqjax.training import PenaltyConfig, StepLimitConfig
from deqjax.training.step._problem import ALONE
from deqjax.training.step._regularization import draw_penalty, draw_step_limit
from deqjax.training.step._update import train_step

KEYS = jax.random.split(jax.random.key(0), 4000)
DESCENT = optax.sgd(1.0)


def drawn(penalty, *, step=0, pretrain_steps=0, pretraining=False, key=KEYS[0]):
    problem, _ = toy.problem_and_state()
    problem = problem._replace(penalty=penalty, pretrain_steps=pretrain_steps)
    return draw_penalty(problem, jnp.int32(step), key, pretraining=pretraining)


def test_the_weight_grows_in_steps_after_the_warm_up():
    penalty = PenaltyConfig(2.0, 1.0, increment=0.5, increment_every=10)
    weights = [
        float(drawn(penalty, step=step, pretrain_steps=5).weight)
        for step in (0, 5, 14, 15, 24, 25, 105)
    ]
    assert weights == [2.0, 2.0, 2.0, 2.5, 2.5, 3.0, 7.0]


def test_a_penalty_that_starts_at_zero_is_chosen_once_it_has_grown():
    penalty = PenaltyConfig(0.0, 1.0, increment=0.5, increment_every=10)
    draws = [drawn(penalty, step=step) for step in (9, 10)]
    assert [bool(draw.chosen) for draw in draws] == [False, True]
    assert not any(draw.never for draw in draws)


def test_the_warm_up_stage_has_a_weight_of_its_own():
    penalty = PenaltyConfig(2.0, 1.0, increment=0.5, increment_every=1, pretrain_weight=0.25)
    draw = drawn(penalty, step=7, pretraining=True)
    assert (float(draw.weight), bool(draw.chosen), draw.never) == (0.25, True, False)


@pytest.mark.parametrize(
    ("weight", "pretrain_weight", "pretraining", "never"),
    [(0.0, 0.5, False, True), (0.5, 0.0, True, True), (0.5, 0.0, False, False)],
)
def test_a_stage_without_weight_needs_no_penalty_at_all(
    weight, pretrain_weight, pretraining, never
):
    penalty = PenaltyConfig(weight, 1.0, pretrain_weight=pretrain_weight)
    draw = drawn(penalty, pretraining=pretraining)
    assert (draw.never, bool(draw.chosen)) == (never, not never)


def test_there_is_no_penalty_from_the_last_step_on():
    penalty = PenaltyConfig(2.0, 1.0, last_step=30)
    assert [bool(drawn(penalty, step=step).chosen) for step in (29, 30, 31)] == [True, False, False]


@pytest.mark.parametrize("probability", [0.0, 0.35, 1.0])
def test_the_penalty_is_chosen_in_its_share_of_the_steps(probability):
    penalty = PenaltyConfig(2.0, probability)
    chosen = jax.vmap(lambda key: drawn(penalty, key=key).chosen)(KEYS)
    # four standard deviations of the share of so many draws
    error = 4 * np.sqrt(probability * (1 - probability) / len(KEYS))
    assert abs(float(jnp.mean(chosen)) - probability) <= error


def test_a_step_without_its_penalty_learns_as_if_there_were_none():
    unlucky = PenaltyConfig(probability=0.0, pretrain_weight=50.0)
    ((_, found), _), ((_, expected), _) = (
        toy.run([toy.batch()], penalty=penalty, optimizer=DESCENT, pretraining=True)
        for penalty in (unlucky, toy.OFF)
    )
    for a, b in zip(*(jax.tree.leaves(s.weights) for s in (found, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_the_grown_weight_is_that_of_the_gradient():
    plain = PenaltyConfig(3.0, 1.0)
    grown = PenaltyConfig(1.0, 1.0, increment=1.0, increment_every=5)
    norms = []
    for penalty, pretrain_steps in ((plain, 0), (grown, 6)):
        options = {"penalty": penalty, "pretrain_steps": pretrain_steps}
        _, state = toy.problem_and_state(**options)
        _, metrics, _ = toy.stepper(**options)(state._replace(step=jnp.int32(20)), toy.batch())
        norms.append(float(metrics["gradient_norm"]))
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)


def limits(*given, most=20):
    problem, _ = toy.problem_and_state()
    problem = problem._replace(step_limit=StepLimitConfig(*given))
    return np.asarray(jax.jit(jax.vmap(lambda key: draw_step_limit(problem, key)(most)))(KEYS))


def test_uniform_limits_take_every_value_between_their_ends_alike():
    values, counts = np.unique(limits("uniform", 3, most=7), return_counts=True)
    assert values.tolist() == [3, 4, 5, 6, 7]
    np.testing.assert_allclose(counts / len(KEYS), 0.2, atol=4 * np.sqrt(0.16 / len(KEYS)))


def test_poisson_limits_have_the_mean_and_the_variance_that_are_asked_for():
    found = limits("poisson", 1, 8.0, most=100)
    assert found.mean() == pytest.approx(8, abs=4 * np.sqrt(8 / len(KEYS)))
    # the variance of an estimated variance: fourth moment 3 m^2 + m, minus m^2
    assert found.var() == pytest.approx(8, abs=4 * np.sqrt((2 * 64 + 8) / len(KEYS)))


def test_poisson_limits_are_cut_off_at_both_ends():
    found, uncut = limits("poisson", 6, 8.0, most=10), limits("poisson", 1, 8.0, most=100)
    np.testing.assert_array_equal(found, np.clip(uncut, 6, 10))
    assert (found.min(), found.max()) == (6, 10)


def test_a_fixed_limit_is_the_solvers_own():
    problem, _ = toy.problem_and_state()
    assert draw_step_limit(problem, KEYS[0]) is None


@pytest.mark.parametrize("distribution", ["uniform", "poisson"])
def test_layers_of_one_step_draw_between_their_own_ends(distribution):
    problem, _ = toy.problem_and_state()
    problem = problem._replace(step_limit=StepLimitConfig(distribution, 2, 5.0))
    both = jax.vmap(lambda key: jnp.stack([draw_step_limit(problem, key)(n) for n in (3, 9)]))
    few, many = np.asarray(both(KEYS[:500])).T
    assert (few.min(), few.max()) == (2, 3)
    assert many.min() == 2
    assert 8 <= many.max() <= 9


@functools.cache
def steps_at_random_limits():
    """Largest steps of solves that never converge, one for each training step; and traces."""
    problem, state = toy.problem_and_state(max_steps=5)
    traces = []

    def loss(*given):
        traces.append(1)
        return toy.loss(*given)

    penalty = PenaltyConfig(0.1, 0.5, increment=0.1, increment_every=2)
    problem = problem._replace(
        loss=loss, penalty=penalty, step_limit=StepLimitConfig("poisson", 1, 3.0)
    )
    step = jax.jit(functools.partial(train_step, problem))
    found, counts = [], []
    for _ in range(12):
        state, metrics, _ = step(state, toy.batch())
        found.append((float(metrics["forward_steps_max"]), bool(np.isnan(metrics["penalty"]))))
        counts.append(len(traces))
    return found, counts


def test_steps_stop_at_their_own_limits():
    steps = {steps for steps, _ in steps_at_random_limits()[0]}
    assert len(steps) >= 3
    assert steps <= {1, 2, 3, 4, 5}


def test_no_draw_compiles_anew():
    found, counts = steps_at_random_limits()
    assert {penalized for _, penalized in found} == {True, False}
    assert counts[0] > 0
    assert set(counts) == {counts[0]}


@functools.cache
def on_replicas():
    """Penalties (steps, replicas) and memories of equal rows on four replicas for eight steps."""
    problem, state = toy.problem_and_state(dropout=0.5)
    problem = problem._replace(penalty=PenaltyConfig(probability=0.5, pretrain_weight=0.1))

    def taken(step, number):
        own = ALONE._replace(number=number)
        after, metrics, _ = train_step(
            problem, state._replace(step=step), toy.batch(), own, pretraining=True
        )
        return metrics["penalty"], after.memory.states[:, -1]

    grid = jax.vmap(jax.vmap(taken, (None, 0)), (0, None))
    return jax.tree.map(np.asarray, jax.jit(grid)(jnp.arange(8), jnp.arange(4)))


def test_replicas_agree_on_which_steps_are_penalized():
    left_out = np.isnan(on_replicas()[0])
    assert (left_out == left_out[:, :1]).all()
    assert 0 < left_out[:, 0].sum() < len(left_out)


def test_replicas_draw_probes_of_their_own():
    penalties, _ = on_replicas()
    for row in penalties[~np.isnan(penalties).any(axis=1)]:
        assert len(np.unique(row)) == len(row)


def test_replicas_and_steps_have_dropout_masks_of_their_own():
    _, states = on_replicas()  # equal rows, so that only the masks differ
    flat = states.reshape(8 * 4, -1)
    assert len(np.unique(flat, axis=0)) == len(flat)
