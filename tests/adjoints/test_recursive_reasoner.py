"""The loop of the equilibrium reasoners against itself written out with `lax.scan`.

Two nested states, damped updates with noise by the step's number and a key, and a gradient through
the last cycle alone.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import deqjax as dq
from deqjax.adjoints import truncated, unrolled
from deqjax.solvers import picard

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

INNER, CYCLES, KEPT, NOISE = 2, 4, 0.05, 0.01
rng = np.random.default_rng(1)
PARAMETERS = {"weights": 0.5 * rng.normal(size=(4, 4)), "bias": rng.normal(size=(1, 1, 4))}
INPUT = rng.normal(size=(2, 3, 4))
START = {"high": rng.normal(size=(2, 3, 4)), "low": rng.normal(size=(2, 3, 4))}


def rms(x):
    return x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-5)


def level(parameters, z, u, key):
    t = z + u
    t = rms(t + jax.nn.silu(t @ parameters["weights"] + parameters["bias"]))
    noise = jax.random.normal(key, z.shape, z.dtype)
    return KEPT * z + (1 - KEPT) * t + NOISE * noise


def cycle(z, parameters, x, key, step):
    keys = jax.random.split(jax.random.fold_in(key, step), INNER + 1)
    high, low = z["high"], z["low"]
    for i in range(INNER):
        low = level(parameters, low, high + x, keys[i])
    return {"high": level(parameters, high, low, keys[INNER]), "low": low}


def ours(parameters, seed, adjoint, cycles):
    # picard's own result of so many cycles is the last one, not the best
    solution = dq.fixed_point(
        cycle, jax.tree.map(jnp.asarray, START), parameters, jnp.asarray(INPUT),
        jax.random.key(seed), solver=partial(picard, returns="last"), adjoint=adjoint,
        tol=0.0, max_steps=cycles, numbered=True,
    )  # fmt: skip
    return solution.value


def written_out(parameters, seed, free):
    """All cycles by scan, the first ``free`` of them without gradient."""
    key = jax.random.key(seed)

    def run(z, numbers, parameters):
        def body(z, step):
            return cycle(z, parameters, jnp.asarray(INPUT), key, step), None

        return lax.scan(body, z, numbers)[0]

    z = jax.tree.map(jnp.asarray, START)
    z = run(z, jnp.arange(free), lax.stop_gradient(parameters))
    return run(z, jnp.arange(free, CYCLES), parameters)


def with_gradient(run):
    def loss(parameters, seed):
        z = run(parameters, seed)
        return jnp.sum(jnp.sin(z["high"]) + z["high"] * z["low"]), z

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize(
    ("adjoint", "cycles", "free"),
    [(truncated(1), CYCLES - 1, CYCLES - 1), (truncated(3), CYCLES - 3, CYCLES - 3),
     (unrolled(), CYCLES, 0)],
    ids=["last cycle", "last three", "all"],
)  # fmt: skip
def test_value_and_gradient_are_those_of_the_loop(adjoint, cycles, free):
    found = with_gradient(partial(ours, adjoint=adjoint, cycles=cycles))
    expected = with_gradient(partial(written_out, free=free))
    first = found(PARAMETERS, 5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12),
        first,
        expected(PARAMETERS, 5),
    )
    # the same call takes the same path, another key another one
    jax.tree.map(np.testing.assert_array_equal, first, found(PARAMETERS, 5))
    assert np.abs(first[0][1]["high"] - found(PARAMETERS, 6)[0][1]["high"]).max() > 1e-3
