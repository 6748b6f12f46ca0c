import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deqjax.training import OptimizerConfig
from deqjax.training.step._optimizer import learning_rate, optimizer


def test_learning_rate_rises_and_falls():
    config = OptimizerConfig(learning_rate=0.4, warmup_steps=10, final_fraction=0.1)
    rate = learning_rate(config, steps=100)
    assert float(rate(0)) == 0.0
    assert float(rate(5)) == pytest.approx(0.2)
    assert float(rate(10)) == pytest.approx(0.4)
    assert float(rate(55)) == pytest.approx((0.4 + 0.04) / 2)
    assert float(rate(100)) == pytest.approx(0.04)


def test_run_shorter_than_its_warmup_still_has_a_schedule():
    rate = learning_rate(OptimizerConfig(learning_rate=0.4, warmup_steps=10), steps=1)
    assert np.isfinite(float(rate(0)))


def test_only_matrices_decay():
    update = optimizer(OptimizerConfig(weight_decay=0.5, warmup_steps=0), steps=10)
    parameters = {"matrix": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    still = {"matrix": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    updates, _ = update.update(still, update.init(parameters), parameters)
    assert (updates["matrix"] < 0).all()
    assert (updates["bias"] == 0).all()


def test_long_gradients_are_clipped_before_adam():
    # Adam hides the length of a single gradient, but not its ratio to the one before
    update = optimizer(OptimizerConfig(clip_norm=1.0, weight_decay=0.0, warmup_steps=0), steps=10)
    start = {"w": jnp.zeros((2, 2))}
    unit = {"w": jnp.full((2, 2), 0.5)}
    state = update.init(start)
    _, state = update.update(unit, state, start)
    _, clipped = update.update({"w": 1e6 * unit["w"]}, state, start)
    _, plain = update.update(unit, state, start)
    moments = [optax.tree_utils.tree_get(s, "mu")["w"] for s in (clipped, plain)]
    np.testing.assert_allclose(*moments, rtol=1e-5)


def moved_by_sgd(nesterov, weight_decay):
    """A matrix and a vector after two steps with gradients of ones, at a constant rate of 0.1."""
    config = OptimizerConfig(
        kind="sgd",
        learning_rate=0.1,
        warmup_steps=0,
        final_fraction=1.0,
        weight_decay=weight_decay,
        momentum=0.9,
        nesterov=nesterov,
        clip_norm=1e9,
    )
    update = optimizer(config, 100)
    parameters = {"matrix": jnp.full((2, 2), 3.0), "vector": jnp.full(2, 3.0)}
    state = update.init(parameters)
    for _ in range(2):
        moves, state = update.update(jax.tree.map(jnp.ones_like, parameters), state, parameters)
        parameters = optax.apply_updates(parameters, moves)
    return parameters


def test_momentum_of_sgd_is_nesterovs_or_not():
    # velocities 1 and 1.9; Nesterov moves by 0.9 of the velocity and the gradient
    for nesterov, way in ((False, 1 + 1.9), (True, 1.9 + 2.71)):
        np.testing.assert_allclose(moved_by_sgd(nesterov, 0.0)["vector"], 3 - 0.1 * way, rtol=1e-5)


def test_weight_decay_of_sgd_adds_every_parameter_to_its_gradient():
    first = 1 + 0.5 * 3
    second = 0.9 * first + 1 + 0.5 * (3 - 0.1 * first)
    found = moved_by_sgd(False, 0.5)
    for leaf in found.values():
        np.testing.assert_allclose(leaf, 3 - 0.1 * (first + second), rtol=1e-5)
