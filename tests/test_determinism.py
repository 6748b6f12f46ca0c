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


def test_randomness_at_trace_time_is_reported_at_once():
    with pytest.raises(dq.NotDeterministicError, match=SENTENCE):
        solve(noisy, state())


def test_the_report_names_the_leaf_and_how_much_differs():
    with pytest.raises(dq.NotDeterministicError) as caught:
        solve(noisy, state())
    assert "z['noisy']: 6 elements" in str(caught.value)
    assert "still" not in str(caught.value)


def test_it_is_reported_under_jit():
    with pytest.raises(Exception, match=SENTENCE) as caught:
        jax.block_until_ready(jax.jit(lambda z: solve(noisy, z))(state()))
        jax.effects_barrier()
    # JAX wraps an error of a callback
    assert "z['noisy']: 6 elements" in str(caught.value)


@pytest.mark.parametrize("f", [steady, breaking])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_deterministic_layer_passes(f, wrap):
    jax.block_until_ready(wrap(lambda z: solve(f, z))(state()))
    jax.effects_barrier()


def test_it_passes_under_a_gradient():
    def loss(gain):
        return solve(lambda z: gain * z + 1, jnp.zeros((2, 3))).sum()

    assert np.isfinite(jax.grad(loss)(0.5))


def test_without_debug_nothing_is_compared():
    solve(noisy, state(), debug=False)
