"""An f that sees the number of the step: solvers, and what each rule differentiates."""

from functools import partial

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import deqjax as dq
import deqjax.linen
import deqjax.nn
from deqjax.adjoints import (
    backward_probe,
    implicit,
    jacobian_free,
    neumann,
    phantom,
    shine,
    truncated,
    unrolled,
)
from deqjax.solvers import anderson, broyden, gmres, jaxopt, newton_krylov, picard, reversible

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

SLOPES = np.array([0.5, 3.0, -0.25, 0.4, 0.3, 0.2, 0.1, 0.6])
OFFSETS = np.array([[1.0], [-2.0]])
SOLVERS = [picard, anderson, broyden, partial(broyden, line_search=True), newton_krylov, gmres]
NAMES = ["picard", "anderson", "broyden", "line search", "newton", "gmres"]


def line(z, offset, step):
    """Another slope at each step."""
    return jnp.asarray(SLOPES)[step] * z + offset


def numbered_from(solver, last, **options):
    """A solver's iterates where f has one slope first and from step ``last`` on another."""

    def f(z, step):
        return jnp.where(step < last, 0.9 * jnp.cos(z) + 1, 0.5 * z + 1)

    return jax.jit(
        lambda: solver(f, jnp.zeros((2, 3)), tol=1e-10, max_steps=60, numbered=True, **options)
    )()


@pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
def test_every_solver_sees_the_map_of_its_step(solver):
    solution = numbered_from(solver, 3, min_steps=8)
    np.testing.assert_allclose(solution.value, 2, atol=1e-8)  # of the later map alone


@pytest.mark.parametrize("solver", SOLVERS, ids=NAMES)
def test_a_number_that_is_not_used_changes_no_bit(solver):
    def f(z):
        return jnp.cos(z) + 0.5

    @jax.jit
    def both():
        limits = {"tol": 1e-8, "max_steps": 20}
        z0 = jnp.zeros((2, 3))
        return solver(f, z0, **limits), solver(lambda z, step: f(z), z0, numbered=True, **limits)

    jax.tree.map(np.testing.assert_array_equal, *both())


def test_picard_passes_are_numbered_from_zero():
    def f(z, step):
        assert step.dtype == jnp.int32
        assert step.shape == ()
        return 10 * z + step.astype(z.dtype) + 1

    solution = picard(f, jnp.zeros((1, 1)), tol=0.0, max_steps=4, numbered=True, returns="last")
    assert solution.value[0, 0] == 1234


@pytest.mark.parametrize("solver", [newton_krylov, gmres], ids=["newton", "gmres"])
def test_products_belong_to_the_evaluation_of_their_step(solver):
    # exact in one step if f is linearized where it is evaluated: at the slope of step 1, not of 0
    def f(z, step):
        return jnp.where(step == 0, 0.5, 0.2) * z + 1

    z0 = jnp.zeros((1, 1))
    rows = solver(f, z0, tol=1e-12, max_steps=4, numbered=True, trajectory=(1, 2)).trajectory
    np.testing.assert_allclose(rows[:, 0, 0], [1 / (1 - 0.5), 1 / (1 - 0.2)])


def test_the_last_iterate_may_be_worse_than_the_best():
    def f(z):  # runs away from 1
        return 2 * z - 1

    z0 = jnp.array([[1.5], [1.0]])
    best = picard(f, z0, tol=0.0, max_steps=3)
    last = picard(f, z0, tol=0.0, max_steps=3, returns="last")
    np.testing.assert_array_equal(best.value, z0)
    np.testing.assert_array_equal(last.value, [[5.0], [1.0]])
    np.testing.assert_allclose(last.stats.residual, [4 / 9, 0])
    statuses = [dq.Status.STEP_LIMIT, dq.Status.CONVERGED]
    np.testing.assert_array_equal(last.stats.status, statuses)
    # what has no image is no result
    broken = picard(
        lambda z: jnp.where(z > 4, jnp.nan, 2 * z), z0, tol=0.0, max_steps=9, returns="last"
    )
    np.testing.assert_array_equal(broken.value, [[3.0], [4.0]])
    assert (broken.stats.status == dq.Status.DIVERGED).all()


def test_the_image_of_the_best_iterate_comes_for_nothing():
    def f(z):  # contracts to 2, halving the error
        return jnp.where(z > 100, jnp.nan, 0.5 * z + 1)

    z0 = jnp.array([[4.0], [1000.0]])
    best = picard(f, z0, tol=0.1, max_steps=9)
    image = picard(f, z0, tol=0.1, max_steps=9, returns="image")
    np.testing.assert_array_equal(image.value[0], f(best.value)[0])
    for found in (best, image):  # both report the iterate that was measured
        np.testing.assert_array_equal(found.stats.evaluations, best.stats.evaluations)
        np.testing.assert_array_equal(found.stats.residual, best.stats.residual)
    # the second has no image: the start comes back
    np.testing.assert_array_equal(image.value[1], z0[1])
    assert image.stats.status[1] == dq.Status.DIVERGED


def test_solvers_that_cannot_say_so():
    z0 = jnp.zeros((1, 1))
    limits = {"tol": 0.1, "max_steps": 2}
    for solver in (reversible, jaxopt):
        with pytest.raises(ValueError, match="cannot number its evaluations"):
            solver(lambda z, step: z, z0, numbered=True, **limits)
    for solver in (newton_krylov, partial(broyden, line_search=True)):
        with pytest.raises(ValueError, match="returns='last' is not for a method that takes trial"):
            solver(lambda z: z, z0, returns="last", **limits)
    with pytest.raises(ValueError, match="returns='image' is not for reversible"):
        reversible(lambda z: z, z0, returns="image", **limits)
    with pytest.raises(ValueError, match="returns must be 'best', 'last' or 'image', got 'first'"):
        picard(lambda z: z, z0, returns="first", **limits)

    def own(f, z0, *, tol, max_steps):
        return picard(f, z0, tol=tol, max_steps=max_steps)

    with pytest.raises(TypeError, match="own does not number its evaluations"):
        dq.fixed_point(lambda z, step: z, z0, solver=own, numbered=True)

    def unaware(f, z0, operands, *, solver, tol, max_steps, probe):
        return solver(lambda z: f(z, operands), z0, tol=tol, max_steps=max_steps)

    with pytest.raises(TypeError, match=r"solve by deqjax\.adjoints\.solve_forward"):
        dq.fixed_point(lambda z, step: z, z0, solver=picard, adjoint=unaware, numbered=True)


LAST = 5
SLOPE = SLOPES[LAST]
EXPECTED = {  # of the end in the offset, at the slope of the last evaluation
    "implicit": (picard, implicit(tol=1e-13), 1 / (1 - SLOPE)),
    "forward": (picard, implicit(tol=1e-13, forward_mode=True), 1 / (1 - SLOPE)),
    "newton": (newton_krylov, implicit(tol=1e-13), 1 / (1 - SLOPE)),
    "shine": (broyden, shine(refine=20, tol=1e-13), 1 / (1 - SLOPE)),
    "free": (picard, jacobian_free(), 1.0),
    "neumann": (picard, neumann(2), 1 + SLOPE),
    "phantom": (picard, phantom(2, damping=1), 1 + SLOPE),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_rules_at_the_end_see_the_number_of_the_last_evaluation(name):
    solver, adjoint, expected = EXPECTED[name]

    def loss(offset):
        solution = dq.fixed_point(
            line, jnp.zeros((2, 1)), offset, solver=solver, adjoint=adjoint, tol=0.0,
            max_steps=LAST, numbered=True,
        )  # fmt: skip
        return jnp.sum(solution.value), solution.stats.steps.max()

    gradient, last = jax.jit(jax.grad(loss, has_aux=True))(OFFSETS)
    assert last == LAST
    np.testing.assert_allclose(gradient, np.full((2, 1), expected), rtol=1e-9)


def test_unrolled_sees_each_steps_own():
    def loss(offset):
        solution = dq.fixed_point(
            line, jnp.zeros((2, 1)), offset, solver=partial(picard, returns="last"),
            adjoint=unrolled(), tol=0.0, max_steps=LAST, numbered=True,
        )  # fmt: skip
        return jnp.sum(solution.value**2)

    def written_out(offset):
        def body(z, step):
            return line(z, offset, step), None

        return jnp.sum(lax.scan(body, jnp.zeros((2, 1)), jnp.arange(LAST))[0] ** 2)

    found, expected = (jax.jit(jax.value_and_grad(f))(OFFSETS) for f in (loss, written_out))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), found, expected)


def noisy(z, key, x, *, step):
    noise = jax.random.normal(jax.random.fold_in(key, step), z.shape, z.dtype)
    return jnp.tanh(0.5 * z + x) + 0.1 * noise


def test_noise_by_step_and_key_is_deterministic_inside_every_transform():
    x = jnp.asarray([[1.0, -1.0], [0.3, 0.2], [0.1, 0.4]])

    def loss(x, seed, probe=None, debug=False):
        solution = dq.fixed_point(
            noisy, jnp.zeros_like(x), jax.random.key(seed), x, solver=picard,
            adjoint=implicit(picard, tol=1e-12, max_steps=100), tol=0.0, max_steps=4,
            numbered=True, probe=probe, debug=debug,
        )  # fmt: skip
        return jnp.sum(jnp.sin(solution.value))

    eager = loss(x, 3, debug=True)
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 2)))
    (value, (gradient, report)), again = (compiled(x, 3, backward_probe(3)) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, (value, (gradient, report)), again)
    np.testing.assert_allclose(value, eager, rtol=1e-12)
    assert (report.status == dq.Status.CONVERGED).all()
    rows = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))(x, jnp.array([3, 4]))
    np.testing.assert_allclose(rows[0], gradient, rtol=1e-9)
    assert np.abs(rows[1] - rows[0]).max() > 1e-4


def test_debug_compares_at_one_number():
    calls = iter(range(100))

    def f(z, step):
        return 0.5 * z + next(calls)

    with pytest.raises(dq.NotDeterministicError):
        dq.fixed_point(f, jnp.ones((2, 1)), solver=picard, numbered=True, debug=True)


class Cell(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 2, param_dtype=jnp.float64, rngs=rngs)

    def __call__(self, z, u, step):
        return jnp.tanh(0.3 * self.linear(z) + u) / (step.astype(z.dtype) + 1)


class LinenCell(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, z, u, step):
        self.sow("intermediates", "step", step)
        z = flax.linen.Dense(2, param_dtype=jnp.float64)(z)
        return jnp.tanh(0.3 * z + u) / (step.astype(z.dtype) + 1)


OPTIONS = {"solver": picard, "tol": 0.0, "max_steps": 3, "numbered": True}


def test_cells_of_the_layers_see_the_step():
    u = jnp.asarray([[0.3, -0.2]])

    def f(z, kernel, step):
        return jnp.tanh(0.3 * z @ kernel + u) / (step.astype(z.dtype) + 1)

    deq = deqjax.nn.DEQ(Cell(nnx.Rngs(0)), **OPTIONS)
    expected = dq.fixed_point(f, jnp.zeros_like(u), deq.cell.linear.kernel.get_value(), **OPTIONS)
    np.testing.assert_allclose(deq(u).value, expected.value, rtol=1e-12)

    layer = deqjax.linen.DEQ(LinenCell(), **OPTIONS)
    variables = {"params": layer.init(jax.random.key(0), u)["params"]}
    found, sown = layer.apply(variables, u, mutable=["intermediates"])
    kernel = variables["params"]["cell"]["Dense_0"]["kernel"]
    expected = dq.fixed_point(f, jnp.zeros_like(u), kernel, **OPTIONS)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-12)
    assert jax.tree.leaves(sown) == [3]  # of the last evaluation


def test_shards_number_their_own_solves():
    """Inside shard_map, which demands of a key that it varies as the step does."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 2)))
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
    sharded = jax.sharding.PartitionSpec("data")

    def gradient(shift, x):
        def loss(shift):
            solution = dq.fixed_point(
                noisy, jnp.zeros_like(x), jax.random.key(0), x + shift, solver=picard,
                adjoint=truncated(2), tol=0.0, max_steps=2, numbered=True,
            )  # fmt: skip
            return jnp.sum(solution.value**2)

        return jax.grad(loss)(shift)

    def in_shard(shift, x):  # the cotangent of a replicated number is summed over the shards
        return gradient(shift, x[0])

    whole = jax.sharding.PartitionSpec()
    both = jax.shard_map(in_shard, mesh=mesh, in_specs=(whole, sharded), out_specs=whole)
    alone = jax.jit(gradient)
    np.testing.assert_allclose(
        jax.jit(both)(0.1, x), alone(0.1, x[0]) + alone(0.1, x[1]), rtol=1e-9
    )
