"""What every solve and every gradient promises, over random states, shapes, dtypes and radii."""

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

# each example compiles, once for all its problems; the fixtures set modes that hold for all alike
FEW = settings(
    max_examples=12,
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
# radius and seed
PROBLEMS = st.lists(st.tuples(st.floats(0.05, 0.9), st.integers(0, 99)), min_size=3, max_size=3)
SHAPES = st.sampled_from([(), (1,), (3,), (2, 2), (1, 3, 1)])
DTYPES = st.sampled_from(["float32", "float64", "bfloat16"])
EPS = {"float32": 1e-5, "float64": 1e-10, "bfloat16": 1e-1}


@st.composite
def states(draw):
    """A batch of states: up to three leaves, nested or not, of one dtype or mixed with float32."""
    batch, dtype = draw(st.integers(1, 4)), draw(DTYPES)
    leaves = [
        np.zeros((batch, *shape), jnp.dtype(dtype))
        for shape in draw(st.lists(SHAPES, min_size=1, max_size=3))
    ]
    kind = draw(st.sampled_from(["array", "tuple", "dict", "nested"]))
    if kind == "array":
        return leaves[0], dtype
    if kind == "tuple":
        return tuple(leaves), dtype
    if kind == "dict":
        return {str(i): leaf for i, leaf in enumerate(leaves)}, dtype
    return {"first": leaves[0], "rest": [*leaves[1:]]}, dtype


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


@pytest.mark.parametrize("name", SOLVERS)
@FEW
@given(state=states(), problems=PROBLEMS)
def test_what_is_reported_is_what_is_returned(name, state, problems):
    z0, dtype = state
    tol = EPS[dtype]

    @jax.jit
    def solve(z0, matrix, offset):
        def f(z):
            return affine(z, matrix, offset)

        solution = SOLVERS[name](f, z0, tol=jnp.float32(tol), max_steps=400)
        return solution, f(solution.value)

    for radius, seed in problems:
        matrix, offset = contraction(z0, radius, seed)
        solution, image = solve(z0, matrix, offset)
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


@FEW
@given(state=states(), problems=PROBLEMS)
@pytest.mark.parametrize("name", ["anderson", "broyden"])
def test_a_sample_is_the_same_in_any_company(name, state, problems):
    z0, _ = state

    @jax.jit
    def solve(z0, matrix, offset):
        return SOLVERS[name](lambda z: affine(z, matrix, offset), z0, tol=1e-3, max_steps=50)

    for radius, seed in problems:
        matrix, offset = contraction(z0, radius, seed)
        # every sample twice: its double sits elsewhere in the batch and must not differ
        order = np.random.default_rng(seed).permutation(2 * len(offset))
        doubled = jax.tree.map(lambda x, order=order: np.concatenate([x, x])[order], z0)
        solution = solve(doubled, matrix, np.concatenate([offset, offset])[order])
        back = np.argsort(order)
        values, steps = flat(solution.value)[back], np.asarray(solution.stats.steps)[back]
        first, second = np.split(values, 2)
        np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(*np.split(steps, 2))


@FEW
@given(state=states(), problems=PROBLEMS)
def test_the_implicit_gradient_is_the_dense_one(state, problems):
    z0 = jax.tree.map(lambda x: x.astype(np.float64), state[0])
    weights = jax.tree.map(lambda x: np.random.default_rng(1).normal(size=x.shape), z0)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1))
    def gradient(matrix, offset):
        rule = deqjax.adjoints.implicit(tol=1e-12, max_steps=400)
        value = deqjax.fixed_point(
            affine, z0, matrix, offset, adjoint=rule, tol=1e-12, max_steps=400
        ).value
        products = jax.tree.map(lambda w, z: jnp.sum(w * z), weights, value)
        return jax.tree.reduce(jnp.add, products)

    for radius, seed in problems:
        matrix, offset = contraction(z0, radius, seed)
        d_matrix, d_offset = gradient(matrix, offset)
        exact = np.linalg.solve(np.eye(len(matrix)) - matrix, offset.T).T
        adjoint = np.linalg.solve(np.eye(len(matrix)) - matrix.T, flat(weights).T).T
        np.testing.assert_allclose(d_offset, adjoint, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(d_matrix, adjoint.T @ exact, rtol=1e-8, atol=1e-8)
