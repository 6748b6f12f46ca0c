import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.solvers import picard

pytestmark = pytest.mark.usefixtures("strict_promotion")


def halve(z):
    return 0.5 * z + 1


def test_undamped_is_the_plain_iteration_bit_for_bit():
    z0 = jnp.array([[0.3, 0.7]])

    @jax.jit
    def plain(z):
        return jax.lax.fori_loop(0, 7, lambda _, z: halve(z), z)

    solution = picard(halve, z0, tol=0.0, max_steps=7, damping=1.0)
    np.testing.assert_array_equal(solution.value, plain(z0))


def test_damping_takes_a_part_of_the_step():
    solution = picard(halve, jnp.ones((1, 2)), tol=0.0, max_steps=1, damping=0.25)
    np.testing.assert_allclose(solution.value, 0.75 * 1 + 0.25 * 1.5, rtol=1e-6)


def test_damping_may_be_traced():
    @jax.jit
    def solve(damping):
        return picard(halve, jnp.ones((1, 2)), tol=0.0, max_steps=1, damping=damping).value

    np.testing.assert_allclose(solve(0.25), 1.125, rtol=1e-6)


def test_damping_tames_a_repelling_map():
    # 1 - 0.4 (1 + 2) = -0.2 contracts where -2 does not
    solution = picard(lambda z: 3 - 2 * z, jnp.zeros((1, 2)), tol=1e-5, max_steps=50, damping=0.4)
    np.testing.assert_allclose(solution.value, 1, rtol=1e-4)
