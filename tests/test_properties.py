"""What every solve and every gradient promises, over states, shapes, dtypes and random maps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deqjax
from deqjax import Status, solvers

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

# a solver compiles once for each state, whatever the number of examples; the fixtures set modes
# that hold for all alike
FEW = settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SOLVERS = {
    "picard": solvers.picard,
    "damped picard": functools.partial(solvers.picard, damping=0.7),
    "anderson": functools.partial(solvers.anderson, history=3),
    "broyden": functools.partial(solvers.broyden, rank=3),
    "newton_krylov": functools.partial(solvers.newton_krylov, krylov=3),
    "reversible": functools.partial(solvers.reversible, damping=0.5),
}
EPS = {"float32": 1e-5, "float64": 1e-10, "bfloat16": 1e-1}


def state(dtype, batch, *shapes, kind=tuple):
    """A batch of zeros: a leaf for each shape, in a container of the given kind."""
    return kind([np.zeros((batch, *shape), jnp.dtype(dtype)) for shape in shapes])


def named(leaves):
    return {str(i): leaf for i, leaf in enumerate(leaves)}


def nested(leaves):
    return {"first": leaves[0], "rest": leaves[1:]}


# every dtype twice, batches of 1 to 4, leaves without axes and with up to three, of each container
STATES = {
    "a number": state("float32", 1, (), kind=lambda leaves: leaves[0]),
    "an array": state("float64", 3, (2, 2), kind=lambda leaves: leaves[0]),
    "a tuple": state("bfloat16", 4, (3,), (1, 3, 1)),
    "a wide dict": state("float64", 2, (3,), (), (2, 2), kind=named),
    "a narrow dict": state("bfloat16", 1, (2, 2), (1,), kind=named),
    "nested": state("float32", 4, (1, 3, 1), (), (1,), kind=nested),
}

in_all_states = pytest.mark.parametrize("z0", STATES.values(), ids=STATES.keys())
random_maps = given(radius=st.floats(0.05, 0.9), seed=st.integers(0, 99))


def sizes_of(state):
    return [leaf[0].size for leaf in jax.tree.leaves(state)]


def contraction(state, radius, seed):
    """Matrix of the given norm and per-sample offsets of an affine map."""
    batch, size = len(jax.tree.leaves(state)[0]), sum(sizes_of(state))
    rng = np.random.default_rng(seed)
    square = rng.normal(size=(size, size))
    matrix = radius * square / max(np.linalg.norm(square, 2), 1e-3)
    return matrix, rng.normal(size=(batch, size))


def affine(z, matrix, offset):
    """Couples all leaves."""
    leaves, structure = jax.tree.flatten(z)
    flat = jnp.concatenate(
        [leaf.reshape(leaf.shape[0], -1).astype(matrix.dtype) for leaf in leaves], axis=1
    )
    parts = jnp.split(flat @ matrix.T + offset, np.cumsum(sizes_of(z))[:-1], axis=1)
    return jax.tree.unflatten(
        structure,
        [p.reshape(x.shape).astype(x.dtype) for p, x in zip(parts, leaves, strict=True)],
    )


def flat(state):
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(state)]
    return np.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)


@functools.cache
def compiled(name):
    """Solve an affine map by a solver, and evaluate the map once more at what was found."""

    @jax.jit
    def solve(z0, matrix, offset, tol):
        def f(z):
            return affine(z, matrix, offset)

        solution = SOLVERS[name](f, z0, tol=tol, max_steps=400)
        return solution, f(solution.value)

    return solve


@pytest.mark.parametrize("name", SOLVERS)
@in_all_states
@FEW
@random_maps
def test_what_is_reported_is_what_is_returned(name, z0, radius, seed):
    dtype = str(jax.tree.leaves(z0)[0].dtype)
    tol = EPS[dtype]
    matrix, offset = contraction(z0, radius, seed)
    solution, image = compiled(name)(z0, matrix, offset, jnp.float32(tol))
    assert jax.tree.structure(solution.value) == jax.tree.structure(z0)
    for value, start in zip(jax.tree.leaves(solution.value), jax.tree.leaves(z0), strict=True):
        assert (value.shape, value.dtype) == (start.shape, start.dtype)
    stats, batch = solution.stats, len(offset)
    assert stats.steps.shape == stats.residual.shape == stats.status.shape == (batch,)
    measured = np.linalg.norm(flat(image) - flat(solution.value), axis=1)
    measured /= np.linalg.norm(flat(image), axis=1)
    # in bfloat16 two evaluations of f may round differently in one compiled function
    slack = {"bfloat16": 2e-2, "float32": 1e-6, "float64": 1e-14}[dtype]
    np.testing.assert_allclose(stats.residual, measured, rtol=0.05, atol=slack)
    assert (stats.status == Status.CONVERGED).all()
    assert (stats.residual <= tol).all()
    exact = np.linalg.solve(np.eye(len(matrix)) - matrix, offset.T).T
    error = np.linalg.norm(flat(solution.value) - exact, axis=1)
    error /= np.linalg.norm(exact, axis=1)
    assert (error <= 4 * (tol + slack) / (1 - radius)).all()


@pytest.mark.parametrize("name", ["anderson", "broyden"])
@in_all_states
@FEW
@random_maps
def test_a_sample_is_the_same_in_any_company(name, z0, radius, seed):
    matrix, offset = contraction(z0, radius, seed)
    # every sample twice: its double sits elsewhere in the batch and must not differ
    order = np.random.default_rng(seed).permutation(2 * len(offset))
    doubled = jax.tree.map(lambda x: np.concatenate([x, x])[order], z0)
    twice = np.concatenate([offset, offset])[order]
    solution, _ = compiled(name)(doubled, matrix, twice, jnp.float32(1e-3))
    back = np.argsort(order)
    values, steps = flat(solution.value)[back], np.asarray(solution.stats.steps)[back]
    first, second = np.split(values, 2)
    np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(*np.split(steps, 2))


@jax.jit
@functools.partial(jax.grad, argnums=(0, 1))
def gradient(matrix, offset, z0, weights):
    rule = deqjax.adjoints.implicit(tol=1e-12, max_steps=400)
    value = deqjax.fixed_point(
        affine, z0, matrix, offset, adjoint=rule, tol=1e-12, max_steps=400
    ).value
    products = jax.tree.map(lambda w, z: jnp.sum(w * z), weights, value)
    return jax.tree.reduce(jnp.add, products)


@in_all_states
@FEW
@random_maps
def test_the_implicit_gradient_is_the_dense_one(z0, radius, seed):
    z0 = jax.tree.map(lambda x: x.astype(np.float64), z0)
    weights = jax.tree.map(lambda x: np.random.default_rng(1).normal(size=x.shape), z0)
    matrix, offset = contraction(z0, radius, seed)
    d_matrix, d_offset = gradient(matrix, offset, z0, weights)
    exact = np.linalg.solve(np.eye(len(matrix)) - matrix, offset.T).T
    adjoint = np.linalg.solve(np.eye(len(matrix)) - matrix.T, flat(weights).T).T
    np.testing.assert_allclose(d_offset, adjoint, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(d_matrix, adjoint.T @ exact, rtol=1e-8, atol=1e-8)
