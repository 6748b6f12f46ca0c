"""The backward tolerance that nobody gave is one that the dtype of z can reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax._core.tolerance import reachable
from deqjax.adjoints import implicit, shine
from deqjax.solvers import anderson, broyden

BATCH, SIZE = 4, 16


def report_of(adjoint, dtype, solver=anderson):
    """Gradient and report of a solve in that dtype."""
    keys = jax.random.split(jax.random.key(0), 2)
    weights = 0.8 * jnp.linalg.qr(jax.random.normal(keys[0], (SIZE, SIZE)))[0]
    x = jax.random.normal(keys[1], (BATCH, SIZE)).astype(dtype)

    def loss(weights, probe):
        found = dq.fixed_point(
            lambda z: jnp.tanh(z @ weights + x),
            jnp.zeros_like(x),
            solver=solver,
            adjoint=adjoint,
            tol=1e-2,
            probe=probe,
        )
        return jnp.sum(found.value.astype(jnp.float32))

    run = jax.jit(jax.grad(loss, argnums=(0, 1)))
    return run(weights.astype(dtype), dq.backward_probe(BATCH))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_narrow_z_ends_at_what_it_can_show(dtype):
    _, report = report_of(implicit(), dtype)
    assert jnp.all(report.status == dq.Status.CONVERGED)
    _, asked = report_of(implicit(tol=1e-5), dtype)
    assert jnp.any(asked.status == dq.Status.STEP_LIMIT)
    assert jnp.max(report.steps) < jnp.max(asked.steps)


def test_in_float32_it_is_1e_5_bit_for_bit():
    for ours, given in zip(
        jax.tree.leaves(report_of(implicit(), jnp.float32)),
        jax.tree.leaves(report_of(implicit(tol=1e-5), jnp.float32)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, given)


def test_refinement_and_forward_mode_choose_likewise():
    _, report = report_of(shine(refine=30), jnp.bfloat16, broyden)
    assert jnp.all(report.status == dq.Status.CONVERGED)

    def value(a):
        z0 = jnp.zeros((1, 1), jnp.bfloat16)
        rule = implicit(forward_mode=True, on_failure="nan")
        return dq.fixed_point(lambda z: a * z + 1, z0, adjoint=rule, tol=1e-2).value

    tangent = jax.jvp(value, (jnp.bfloat16(0.5),), (jnp.bfloat16(1),))[1]
    np.testing.assert_allclose(np.asarray(tangent, np.float32), 4, rtol=2e-2)


def test_the_coarsest_leaf_decides():
    assert reachable(jnp.float32) == reachable(jnp.float64) == 1e-5
    assert reachable(jnp.float32, jnp.bfloat16) == 2**-7
    assert reachable(jnp.float16) == 2**-10
