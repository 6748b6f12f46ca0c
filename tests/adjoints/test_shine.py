"""SHINE: the forward inverse as a backward pass, alone and refined, against dense solves."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import deqjax as dq
from deqjax import Status
from deqjax.adjoints import implicit, jacobian_free
from deqjax.adjoints._shine import shine
from deqjax.solvers import anderson, picard
from deqjax.solvers._broyden import broyden
from problems import PROBLEMS, ravel, with_radius

pytestmark = pytest.mark.usefixtures("strict_promotion")


FREE, UNREFINED, REFINED = jacobian_free(), shine(), shine(200, tol=1e-13)


def gradients(problem, adjoint, *, tol=1e-12, cotangent=None):
    """Gradients of <cotangent, z*> in the arguments of f, and the probe's report."""
    if cotangent is None:
        cotangent = jax.tree.map(np.ones_like, problem.solution)
    return compiled(problem.f, *problem.cast(float), cotangent, adjoint, tol)


def differentiate(f, z0, args, cotangent, adjoint, tol):
    @partial(jax.grad, argnums=(0, 1))
    def gradient(args, probe):
        value = dq.fixed_point(
            f,
            z0,
            *args,
            solver=partial(broyden, rank=12),
            adjoint=adjoint,
            tol=tol,
            max_steps=200,
            probe=probe,
        ).value
        products = jax.tree.map(lambda c, z: jnp.sum(c * z), cotangent, value)
        return sum(jax.tree.leaves(products))

    return gradient(args, dq.backward_probe(4))


compiled = jax.jit(differentiate, static_argnames=("f", "adjoint"))


def cosine(a, b):
    """(batch,) cosines between the rows."""
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["radius 0.99", "non-normal", "radius 1.5", "dict"])
def test_enough_refinement_agrees_with_the_dense_solve(name):
    problem = PROBLEMS[name]
    (matrix, offset), report = gradients(problem, REFINED)
    expected_matrix, expected_offset = problem.dense_gradient(
        jax.tree.map(np.ones_like, problem.solution)
    )
    np.testing.assert_allclose(matrix, expected_matrix, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ravel(offset), expected_offset, rtol=1e-9, atol=1e-9)
    assert (report.status == Status.CONVERGED).all()
    assert (report.steps > 0).all()


@pytest.mark.usefixtures("float64")
def test_in_one_dimension_the_secant_is_the_derivative():
    found, _ = gradients(PROBLEMS["1-d"], UNREFINED, tol=1e-9)
    expected, _ = gradients(PROBLEMS["1-d"], implicit(tol=1e-13))
    crude, _ = gradients(PROBLEMS["1-d"], FREE)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-4)
    assert (np.abs(crude[1] - expected[1]) > 1e-2).all()


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", ["radius 0.5", "radius 0.9", "radius 0.99", "non-normal", "dict"])
def test_unrefined_it_points_closer_to_the_gradient_than_jacobian_free(name):
    problem = PROBLEMS[name]
    rng = np.random.default_rng(5)
    cotangent = jax.tree.map(lambda x: rng.normal(size=x.shape), problem.solution)
    exact = problem.dense_gradient(cotangent)[1]
    found, crude = (
        cosine(ravel(gradients(problem, adjoint, cotangent=cotangent)[0][1]), exact)
        for adjoint in (UNREFINED, FREE)
    )
    assert found.mean() > crude.mean() + 0.01
    assert found.min() > crude.min() + 0.01


@pytest.mark.usefixtures("float64")
def test_unrefined_it_is_the_transposed_inverse_and_reports_its_residual():
    problem = PROBLEMS["radius 0.9"]
    z0, args = problem.cast(float)
    inverse = broyden(
        lambda z: problem.f(z, *args), z0, tol=1e-3, max_steps=50, rank=12, keep_memory=True
    ).memory
    v = np.ones_like(problem.solution)
    units = [jnp.broadcast_to(row[None], z0.shape) for row in jnp.eye(6)]
    dense = np.stack([inverse.apply(x) for x in units], axis=2)
    w = np.einsum("bnm,bn->bm", dense, v)
    (_, offset), report = gradients(problem, UNREFINED, tol=1e-3)
    np.testing.assert_allclose(offset, w, rtol=1e-10)
    image = w @ problem.matrix + v
    residual = np.linalg.norm(image - w, axis=1) / np.linalg.norm(image, axis=1)
    np.testing.assert_allclose(report.residual, residual, rtol=1e-5)
    np.testing.assert_array_equal(report.steps, 0)
    np.testing.assert_array_equal(report.status, Status.NOT_RUN)


@pytest.mark.usefixtures("float64")
def test_the_refinement_may_be_traced():
    problem = PROBLEMS["radius 0.9"]

    z0, args = problem.cast(float)

    @jax.jit
    def report(refine, tol):
        adjoint = shine(refine, picard, tol)
        return differentiate(problem.f, z0, args, np.ones_like(problem.solution), adjoint, 1e-12)

    (unrefined, none), (_, few), (_, all_) = (
        report(*limits) for limits in ((0, 1e-9), (3, 1e-9), (999, 1e-2))
    )
    assert report._cache_size() == 1
    np.testing.assert_array_equal(none.steps, 0)
    np.testing.assert_array_equal(few.steps, 3)
    assert (few.residual < none.residual).all()
    assert (all_.status == Status.CONVERGED).all()
    expected, _ = gradients(problem, UNREFINED)
    np.testing.assert_allclose(unrefined[1], expected[1], rtol=1e-10)


@pytest.mark.usefixtures("float64")
def test_second_derivatives_are_right_with_refinement():
    problem = PROBLEMS["1-d"]
    z0, args = problem.cast(float)

    @jax.jit
    def loss(*args):
        solution = dq.fixed_point(
            problem.f,
            z0,
            *args,
            solver=partial(broyden, rank=2),
            adjoint=shine(100, picard, tol=1e-13),
            tol=1e-13,
            max_steps=100,
        )
        return jnp.sum(jnp.sin(solution.value))

    check_grads(loss, args, order=2, modes=("rev",), atol=1e-5, rtol=1e-5)


def test_a_sample_does_not_depend_on_its_mate():
    matrix = jnp.asarray(with_radius(1.0), jnp.float32)
    offset = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6)), jnp.float32)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(offset, gain):
        def f(z, offset):
            return jnp.tanh(gain[:, None] * (z @ matrix) + offset)

        solution = dq.fixed_point(
            f, jnp.zeros((2, 6)), offset, solver=partial(broyden, rank=3), adjoint=shine(), tol=1e-5
        )
        return jnp.sum(solution.value), solution.stats.evaluations

    (one, early), (other, late) = (gradient(offset, jnp.array([0.2, x])) for x in (0.5, 0.95))
    assert early < late
    np.testing.assert_array_equal(one[0], other[0])
    assert (one[1] != other[1]).all()


def test_a_loss_on_one_leaf_of_a_dict_in_float32():
    def f(z, weight):
        return {"a": jnp.tanh(weight * z["b"][:, :2] + 0.3), "b": weight * jnp.sin(z["b"]) + 0.5}

    z0 = {"a": jnp.zeros((3, 2)), "b": jnp.zeros((3, 4))}

    def loss(weight, adjoint):
        solver = partial(broyden, rank=4)
        return jnp.sum(
            dq.fixed_point(f, z0, weight, solver=solver, adjoint=adjoint, tol=1e-6).value["a"]
        )

    found, expected = (
        jax.jit(jax.grad(partial(loss, adjoint=adjoint)))(jnp.float32(0.6))
        for adjoint in (shine(30, tol=1e-6), implicit(tol=1e-6))
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def broken(f, z0, *, tol, max_steps, keep_memory):
    """Solves, but the first sample's inverse overflows."""
    solution = broyden(f, z0, tol=tol, max_steps=max_steps, rank=2, keep_memory=keep_memory)
    memory = solution.memory
    return solution._replace(memory=memory._replace(left=memory.left.at[0].set(jnp.inf)))


def test_an_estimate_that_is_not_finite_gives_way_to_the_cotangent():
    def f(z, offset):
        return jnp.sin(z) * 0.5 + offset

    def gradient(solver, adjoint):
        def loss(offset):
            return jnp.sum(dq.fixed_point(f, z0, offset, solver=solver, adjoint=adjoint).value)

        return jax.jit(jax.grad(loss))(z0 + 1)

    z0 = jnp.zeros((2, 3))
    found = gradient(broken, shine())
    np.testing.assert_array_equal(found[0], gradient(broyden, jacobian_free())[0])
    np.testing.assert_array_equal(found[1], gradient(partial(broyden, rank=2), shine())[1])


def test_memory_does_not_grow_with_the_steps():
    def temporary_bytes(max_steps):
        def loss(weight, offset):
            z = dq.fixed_point(
                lambda z, w, b: jnp.tanh(z @ w + b),
                jnp.zeros_like(offset),
                weight,
                offset,
                solver=partial(broyden, rank=2),
                adjoint=shine(max_steps, picard),
                max_steps=max_steps,
            ).value
            return jnp.sum(z**2)

        shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((32, 32), (8, 32))]
        compiled = jax.jit(jax.grad(loss)).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary_bytes(10) == temporary_bytes(200) > 0


def own_solver(f, z0, *, tol, max_steps):
    return picard(f, z0, tol=tol, max_steps=max_steps)


def forgetful(f, z0, *, tol, max_steps, keep_memory):
    del keep_memory
    return picard(f, z0, tol=tol, max_steps=max_steps)


@pytest.mark.parametrize(
    ("solver", "name"),
    [
        (anderson, "anderson"),
        (partial(picard, damping=0.5), "picard"),
        (own_solver, "own_solver"),
        (forgetful, "forgetful"),
    ],
)
def test_a_solver_that_keeps_no_inverse_is_refused(solver, name):
    words = f"what deqjax.solvers.broyden keeps and {name} does not: pass solver=deqjax.solvers.b"
    with pytest.raises(TypeError, match=words):
        dq.fixed_point(lambda z: 0.5 * z + 1, jnp.ones((2, 3)), solver=solver, adjoint=shine())


def test_other_mistakes_keep_their_own_words():
    solver = partial(broyden, rnak=3)
    with pytest.raises(TypeError, match="rnak"):
        dq.fixed_point(lambda z: 0.5 * z + 1, jnp.ones((2, 3)), solver=solver, adjoint=shine())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"refine": -1}, ValueError, "refine must be at least 0, got -1"),
        ({"refine": 1.5}, TypeError, "refine must be a whole number, got 1.5"),
        ({"tol": -1.0}, ValueError, "the backward tol must be zero or positive, got -1.0"),
    ],
)
def test_wrong_limits_are_refused_at_once(options, error, words):
    with pytest.raises(error, match=words):
        shine(**options)
