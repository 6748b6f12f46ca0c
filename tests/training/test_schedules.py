import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deqjax.training.config import OptimizerConfig
from deqjax.training.schedules import learning_rate, optimizer


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
