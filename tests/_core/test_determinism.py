"""The debug check: is f the same function each time it is evaluated?"""

import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax.solvers import picard

pytestmark = pytest.mark.usefixtures("strict_promotion")

SENTENCE = "f is not deterministic across iterations: no fixed point exists"


def noisy(z):
    return {"still": 0.5 * z["still"], "noisy": 0.5 * z["noisy"] + random.random()}


def steady(z):
    return jax.tree.map(lambda x: 0.5 * x + 1, z)


def breaking(z):
    return jax.tree.map(lambda x: x / 0, z)


def state():
    return {"still": jnp.zeros((2, 3)), "noisy": jnp.zeros((2, 3))}


def solve(f, z0, debug=True):
    return dq.fixed_point(f, z0, solver=picard, max_steps=2, debug=debug).value


def run_to_the_end(function):
    """Evaluate it, its callbacks included."""
    jax.block_until_ready(function(state()))
    jax.effects_barrier()


def test_randomness_at_trace_time_is_reported_at_once():
    with pytest.raises(dq.NotDeterministicError, match=SENTENCE):
        solve(noisy, state())


def test_the_report_names_the_leaf_and_how_much_differs():
    with pytest.raises(dq.NotDeterministicError) as caught:
        solve(noisy, state())
    assert "z['noisy']: 6 elements" in str(caught.value)
    assert "still" not in str(caught.value)


def test_noise_that_multiplies_z_is_seen_although_the_start_is_zero():
    with pytest.raises(dq.NotDeterministicError, match="z: 6 elements"):
        solve(lambda z: random.random() * z + 1, jnp.zeros((2, 3)))


def test_it_is_reported_under_jit():
    # JAX wraps what a callback raises
    with pytest.raises(jax.errors.JaxRuntimeError, match=SENTENCE):
        run_to_the_end(jax.jit(lambda z: solve(noisy, z)))


@pytest.mark.parametrize("f", [steady, breaking])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_deterministic_layer_passes(f, wrap):
    run_to_the_end(wrap(lambda z: solve(f, z)))


def test_it_passes_under_a_gradient():
    def loss(gain):
        return solve(lambda z: gain * z + 1, jnp.zeros((2, 3))).sum()

    assert np.isfinite(jax.grad(loss)(0.5))


def test_without_debug_nothing_is_compared():
    solve(noisy, state(), debug=False)
