"""Learning rates of some parameters: what their updates are multiplied with."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deqjax.training import ConfigError, OptimizerConfig
from deqjax.training.step import by_rates, optimizer

PARAMETERS = {"deq": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}, "other": jnp.ones((2, 2))}


def moves(update):
    gradient = jax.tree.map(jnp.cos, PARAMETERS)
    return update.update(gradient, update.init(PARAMETERS), PARAMETERS)[0]


@pytest.mark.parametrize("kind", ["adamw", "muon", "sgd"])
def test_the_first_pattern_that_fits_decides(kind):
    plain = optimizer(OptimizerConfig(kind=kind, learning_rate=0.1, warmup_steps=0), 10)
    before, after = moves(plain), moves(by_rates(plain, {"deq.b*": 2.0, "deq.*": 0.5}))
    np.testing.assert_allclose(after["deq"]["kernel"], 0.5 * before["deq"]["kernel"])
    np.testing.assert_allclose(after["deq"]["bias"], 2.0 * before["deq"]["bias"])
    np.testing.assert_array_equal(after["other"], before["other"])


@pytest.mark.parametrize("rates", [{}, {"deq.*": 1.0}])
def test_rates_of_one_change_nothing_not_even_the_state(rates):
    plain = optax.sgd(0.1)
    assert by_rates(plain, rates) is plain


def test_a_pattern_that_fits_nothing_is_named():
    with pytest.raises(ConfigError, match=r"'head\.\*', which fits no parameter: deq\.bias, deq"):
        by_rates(optax.sgd(0.1), {"head.*": 0.5}).init(PARAMETERS)
