"""Arrays of a model divided among the devices that share a row."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

import deqjax as dq
from deqjax.nn import divided, is_divided
from deqjax.solvers import anderson


def mesh(kind=AxisType.Auto):
    return Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "model"), axis_types=2 * (kind,))


def test_nothing_is_divided_where_nobody_shares():
    x = jnp.ones((4, 6))
    assert divided(x, 1) is x
    assert not is_divided(x, 1)
    assert jax.make_jaxpr(lambda x: divided(x, 1))(x).eqns == []
    with jax.set_mesh(mesh(AxisType.Explicit)):
        assert jax.make_jaxpr(lambda x: divided(x, 1))(x).eqns == []


def test_an_axis_that_the_devices_do_not_divide_stays_whole():
    with jax.set_mesh(mesh()):
        assert jax.make_jaxpr(lambda x: divided(x, 1))(jnp.ones((4, 3))).eqns == []
        assert [is_divided(jnp.ones((4, 3)), axis) for axis in (0, 1)] == [True, False]


def solve(weight, x):
    """Rows of six positions that look at each other."""

    def layer(z, weight, x):
        return jnp.tanh(z @ weight + 0.1 * jnp.mean(z, axis=1, keepdims=True) + x)

    z = divided(jnp.zeros_like(x), 1)
    return dq.fixed_point(layer, z, weight, divided(x, 1), solver=anderson, tol=1e-5).value


def test_long_rows_are_solved_in_parts():
    rng = np.random.default_rng(0)
    weight = np.asarray(0.2 * rng.normal(size=(4, 4)), np.float32)
    x = np.asarray(rng.normal(size=(2, 6, 4)), np.float32)
    expected = jax.jit(solve)(weight, x)
    with jax.set_mesh(mesh()):
        found = jax.jit(solve)(weight, x)
    assert found.sharding.spec == PartitionSpec(None, "model")
    assert found.addressable_shards[0].data.shape == (2, 3, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
