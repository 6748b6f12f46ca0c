from functools import partial

import jax
import jax.numpy as jnp
import pytest

import deqjax as dq
from deqjax.adjoints import implicit, unrolled
from deqjax.solvers import anderson, picard

pytestmark = pytest.mark.usefixtures("strict_promotion")


def temporary_bytes(adjoint, max_steps, solver):
    """Peak temporary memory of the compiled gradient, as XLA plans it."""

    def loss(weight, offset):
        z = dq.fixed_point(
            lambda z, w, b: jnp.tanh(z @ w + b),
            jnp.zeros_like(offset),
            weight,
            offset,
            solver=solver,
            adjoint=adjoint,
            max_steps=max_steps,
        ).value
        return jnp.sum(z**2)

    shapes = jax.ShapeDtypeStruct((32, 32), jnp.float32), jax.ShapeDtypeStruct((8, 32), jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(*shapes).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(
    "solver", [picard, partial(anderson, history=2)], ids=["picard", "anderson"]
)
def test_implicit_memory_does_not_grow_with_the_steps(solver):
    sizes = [
        temporary_bytes(implicit(solver=solver, max_steps=steps), steps, solver)
        for steps in (10, 200)
    ]
    assert sizes[0] == sizes[1] > 0


def test_unrolled_memory_grows_with_the_steps():
    sizes = [temporary_bytes(unrolled(), steps, picard) for steps in (10, 200)]
    assert sizes[1] > 5 * sizes[0]
