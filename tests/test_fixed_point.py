"""The entry point: its gradients under every transform, and what it refuses."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import deqjax as dq
from deqjax.adjoints import implicit
from deqjax.solvers import anderson, picard

pytestmark = pytest.mark.usefixtures("strict_promotion")

BATCH, SIZE = 8, 3


def layer(z, params, x):
    return jnp.tanh(z @ params["weight"] + params["bias"][None] + x)


def inputs(dtype=np.float32):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(SIZE, SIZE)) * 0.35
    params = {"weight": weight, "bias": rng.normal(size=(SIZE,))}
    # inputs of growing size saturate the tanh, so that devices take different numbers of steps
    x = rng.normal(size=(BATCH, SIZE)) * np.linspace(0.1, 3, BATCH)[:, None]
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), (params, x))


def fixed_point(f, z0, *args, axis_name=None, tol=1e-6, max_steps=60):
    solver = partial(picard, axis_name=axis_name)
    adjoint = implicit(solver, tol=tol, max_steps=max_steps)
    return dq.fixed_point(
        f, z0, *args, solver=solver, adjoint=adjoint, tol=tol, max_steps=max_steps
    )


def loss(params, x, axis_name=None):
    z = fixed_point(layer, jnp.zeros_like(x), params, x, axis_name=axis_name).value
    return jnp.sum(jnp.sin(z))


def closure_loss(params, x):
    z = fixed_point(lambda z: layer(z, params, x), jnp.zeros_like(x)).value
    return jnp.sum(jnp.sin(z))


def gradient(function):
    return jax.grad(function, argnums=(0, 1))


compiled_gradient = jax.jit(gradient(loss))


@pytest.fixture(scope="module")
def plain():
    """Gradients of the loss in params and x, by jit alone."""
    return compiled_gradient(*inputs())


def assert_same(found, expected, tolerance=1e-4):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def split(x, parts):
    return x.reshape(parts, len(x) // parts, *x.shape[1:])


def test_without_jit(plain):
    assert_same(gradient(loss)(*inputs()), plain, 1e-5)


def test_closures_get_the_gradients_of_arguments(plain):
    assert_same(jax.jit(gradient(closure_loss))(*inputs()), plain, 1e-5)


@pytest.mark.parametrize("function", [loss, closure_loss], ids=["args", "closure"])
def test_vmap_of_the_gradient(function):
    params, x = inputs()
    found = jax.jit(jax.vmap(gradient(function), in_axes=(None, 0)))(params, split(x, 2))
    halves = [compiled_gradient(params, half) for half in split(x, 2)]
    assert_same(found, jax.tree.map(lambda *leaves: jnp.stack(leaves), *halves))


def test_gradient_of_vmap(plain):
    def total(params, x):
        return jnp.sum(jax.vmap(closure_loss, in_axes=(None, 0))(params, split(x, 4)))

    assert_same(jax.jit(gradient(total))(*inputs()), plain)


@pytest.mark.parametrize("devices", [2, 4])
def test_pmap_with_devices_that_stop_together(plain, devices):
    params, x = inputs()

    def replica(params, x):
        in_params, in_x = gradient(partial(loss, axis_name="replicas"))(params, x)
        return jax.lax.psum(in_params, "replicas"), in_x

    mapped = jax.pmap(
        replica,
        axis_name="replicas",
        in_axes=(None, 0),
        out_axes=(None, 0),
        devices=jax.devices()[:devices],
    )
    in_params, in_x = mapped(params, split(x, devices))
    assert_same((in_params, in_x.reshape(x.shape)), plain)


def sharded_gradient(axis_name=None):
    mesh = jax.make_mesh((4,), ("replicas",), axis_types=(AxisType.Auto,))
    specs = (PartitionSpec(), PartitionSpec("replicas"))
    # the gradient in the replicated params is the sum over the devices, which shard_map inserts
    return jax.shard_map(
        gradient(partial(loss, axis_name=axis_name)), mesh=mesh, in_specs=specs, out_specs=specs
    )


def test_shard_map_with_devices_that_stop_together(plain):
    params, x = inputs()
    assert_same(jax.jit(sharded_gradient("replicas"))(params, x), plain)


def test_shard_map_puts_no_collective_into_the_loop():
    # devices that take different numbers of steps would wait for each other for ever
    text = jax.jit(sharded_gradient()).lower(*inputs()).compile().as_text()
    computations = text.split("\n\n")
    holders = [part for part in computations if re.search(r"all-reduce(-start)?\(", part)]
    assert [part.split()[0] for part in holders] == ["ENTRY"]


def test_run_time_limits_compile_once_and_take_effect():
    params, x = inputs()

    @jax.jit
    def solve(tol, max_steps, backward_tol, backward_max_steps):
        """Most steps forward and backward."""
        limits = {"tol": tol, "max_steps": max_steps}
        adjoint = implicit(picard, tol=backward_tol, max_steps=backward_max_steps)

        def value(probe):
            solution = dq.fixed_point(
                lambda z: layer(z, params, x),
                jnp.zeros_like(x),
                solver=picard,
                adjoint=adjoint,
                probe=probe,
                **limits,
            )
            return jnp.sum(solution.value), jnp.max(solution.stats.steps)

        report, forward_steps = jax.grad(value, has_aux=True)(dq.backward_probe(BATCH))
        return forward_steps, jnp.max(report.steps)

    taken = [
        solve(*limits)
        for limits in ((1e-6, 60, 1e-6, 60), (1e-6, 3, 1e-6, 2), (1e-1, 60, 1e-1, 60))
    ]
    assert solve._cache_size() == 1
    (full, back), (limited, limited_back), (loose, loose_back) = taken
    assert (limited, limited_back) == (3, 2)
    assert loose < full
    assert loose_back < back


def test_the_defaults_solve_and_differentiate():
    params, x = inputs()
    solution = dq.fixed_point(layer, jnp.zeros_like(x), params, x)
    assert (solution.stats.status == dq.Status.CONVERGED).all()
    assert solution.stats.trace is None
    np.testing.assert_allclose(layer(solution.value, params, x), solution.value, atol=5e-3)


def test_a_solver_of_ones_own_is_enough():
    def two_steps(f, z0, *, tol, max_steps):
        del tol, max_steps
        return picard(f, z0, tol=0.0, max_steps=2)

    solution = dq.fixed_point(lambda z: 0.5 * z + 1, jnp.zeros((2, 1)), solver=two_steps)
    np.testing.assert_allclose(solution.value, 1.5)


def test_python_numbers_and_nothing_may_be_arguments():
    def f(z, gain, nothing, offset):
        assert nothing is None
        return gain * z + offset["b"]

    solution = dq.fixed_point(f, jnp.zeros((2, 1)), 0.5, None, {"b": 1.0}, tol=1e-6)
    np.testing.assert_allclose(solution.value, 2, rtol=1e-5)


def dict_state():
    return {"hidden": jnp.ones((2, 3)), "image": jnp.ones((2, 4, 4))}


@pytest.mark.parametrize(
    ("f", "error", "words"),
    [
        (lambda z: z | {"image": z["image"][:, :1]}, ValueError, r"shape of z\['image'\] from"),
        (
            lambda z: z | {"hidden": z["hidden"].astype(jnp.float16)},
            TypeError,
            r"dtype of z\['hidden'\] from float32 to float16",
        ),
        (lambda z: list(z.values()), TypeError, "structure of z"),
    ],
    ids=["shape", "dtype", "structure"],
)
def test_a_layer_that_does_not_map_the_state_to_itself_is_refused(f, error, words):
    with pytest.raises(error, match=words):
        dq.fixed_point(f, dict_state())


@pytest.mark.parametrize(
    ("z0", "error", "words"),
    [
        (jnp.ones((0, 3)), ValueError, "z0 is an empty batch"),
        ({"a": jnp.float32(1)}, ValueError, r"z0\['a'\] is a scalar"),
        ([jnp.ones((2, 3)), jnp.ones((3, 3))], ValueError, r"the same batch, got .*z0\[1\]': 3"),
        (jnp.ones((2, 3), jnp.int32), TypeError, "z0 has dtype int32"),
    ],
    ids=["empty", "scalar", "batches", "integer"],
)
def test_a_malformed_state_is_refused(z0, error, words):
    with pytest.raises(error, match=words):
        dq.fixed_point(lambda z: z, z0)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1, got 0"),
        ({"tol": -1.0}, ValueError, "tol must be zero or positive, got -1.0"),
        ({"solver": partial(anderson, history=0)}, ValueError, "history must be at least 1"),
        ({"solver": partial(anderson, ridge=-1.0)}, ValueError, "ridge must be zero or positive"),
        ({"solver": partial(anderson, histroy=3)}, TypeError, "histroy"),
        ({"max_step": 3}, TypeError, "max_step"),
    ],
    ids=["max_steps", "tol", "history", "ridge", "solver's typo", "typo"],
)
def test_a_wrong_option_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        dq.fixed_point(lambda z: z, jnp.ones((2, 3)), **options)
