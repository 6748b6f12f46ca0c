"""The check against dense solves and by hand; its own truth must never be taken on trust."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax import Status
from deqjax.adjoints import implicit, jacobian_free, neumann, unrolled
from deqjax.diagnostics import GradientCheck, RuleCheck, TruthError, check_gradient, default_rules
from deqjax.diagnostics._float64_truth import unrolled_truth
from deqjax.solvers import picard
from problems import PROBLEMS, ravel

pytestmark = pytest.mark.usefixtures("strict_promotion")

JACOBIAN_FREE = {"jacobian_free": jacobian_free()}


def scaled(z, gain, offset):
    return gain * z + offset


def scaled_check(gain=0.5, dtype=jnp.float32, **options):
    """z* = offset / (1 - gain), two samples of one number each; options of the check."""
    offset = jnp.array([[1.0], [-2.0]], dtype)
    return check_gradient(
        scaled,
        0 * offset,
        jnp.asarray(gain, dtype),
        offset,
        **{"solver": picard, "rules": JACOBIAN_FREE, **options},
    )


@functools.cache
def tanh_check():
    """The default rules, once for the tests that read them."""
    problem = PROBLEMS["tanh"]
    z0, args = problem.cast(jnp.float32)
    return check_gradient(problem.f, z0, *args, solver=picard, tol=1e-6, max_steps=60)


@pytest.mark.parametrize("name", ["dict", "radius 1.5"])
def test_the_truth_is_the_dense_gradient(name):
    problem = PROBLEMS[name]
    z0, args = problem.cast(jnp.float32)
    rng = np.random.default_rng(0)
    cotangent = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), x.dtype), z0)
    truth = unrolled_truth(problem.f, z0, args, cotangent, 1000)
    # the caller's float32 is what is solved exactly
    matrix = np.asarray(args[0], np.float64)
    inverse = np.linalg.inv(np.eye(len(matrix)) - matrix)
    adjoint = ravel(cotangent) @ inverse
    np.testing.assert_allclose(ravel(truth.value), ravel(args[1]) @ inverse.T, rtol=1e-9)
    np.testing.assert_allclose(truth.gradient[0], adjoint.T @ ravel(truth.value), rtol=1e-8)
    flat = jax.tree.unflatten(jax.tree.structure(args[1]), truth.gradient[1:])
    np.testing.assert_allclose(ravel(flat), adjoint, rtol=1e-8, atol=1e-10)
    assert truth.residual < 1e-11
    assert truth.adjoint_residual < 1e-8


def test_the_numbers_of_a_row_are_those_of_their_formulas():
    check = scaled_check(gain=0.5, key=jax.random.key(3))
    # one split per leaf of z0
    v = np.float64(jax.random.normal(jax.random.split(jax.random.key(3), 1)[0], (2, 1)))
    z = np.array([[2.0], [-4.0]])
    biased, true = np.append(np.sum(v * z), v), np.append(2 * np.sum(v * z), 2 * v)
    row = check.rows["jacobian_free"]
    assert row.cosine == pytest.approx(biased @ true / np.sqrt((biased**2).sum() * (true**2).sum()))
    assert row.norm_ratio == pytest.approx(0.5, rel=1e-3)
    assert row.relative_error == pytest.approx(0.5, rel=1e-3)
    # w = v solves w = v / 2 + v up to the residual |v / 2| / |3 v / 2|
    assert row.residual == pytest.approx(1 / 3, rel=1e-3)
    assert (row.steps, row.status) == (0, Status.NOT_RUN)


def test_the_default_rules_are_compared():
    check = tanh_check()
    assert isinstance(check, GradientCheck)
    assert list(check.rows) == list(default_rules())
    assert all(isinstance(row, RuleCheck) for row in check.rows.values())


@pytest.mark.parametrize("name", ["implicit", "unrolled"])
def test_exact_rules_agree_with_the_truth(name):
    row = tanh_check().rows[name]
    assert row.relative_error < 1e-4
    assert row.cosine == pytest.approx(1, abs=1e-7)
    assert row.distance < 1e-5


def test_approximate_rules_rank_as_they_should():
    rows = tanh_check().rows
    names = ("implicit", "implicit, 3 steps", "neumann(5)", "phantom(5)", "jacobian_free")
    errors = [rows[name].relative_error for name in names]
    assert errors == sorted(errors)
    assert errors[1] > 0.01


def test_the_probe_shows_what_the_backward_solve_did():
    row = tanh_check().rows["implicit, 3 steps"]
    assert (row.steps, row.status) == (3, Status.STEP_LIMIT)
    assert 1e-3 < row.residual < 1


def test_it_prints_a_line_for_each_rule():
    lines = str(tanh_check()).splitlines()
    assert lines[1].split()[:4] == ["rule", "cosine", "ratio", "error"]
    assert lines[2].startswith("implicit           1.000000")
    assert lines[3].endswith("step limit")
    assert lines[-1].startswith(
        "truth: float64, unrolled through 1000 damped steps at z*, residual"
    )
    assert len(lines) == 3 + len(default_rules())


def test_a_rule_may_bring_its_solver():
    used = []

    def noted(f, z0, **options):
        used.append(options["max_steps"])
        return picard(f, z0, **options)

    pair = (noted, unrolled())
    check = scaled_check(rules={"own": pair, "shared": jacobian_free()}, max_steps=7)
    assert used == [7]
    assert list(check.rows) == ["own", "shared"]


def test_an_unfinished_forward_solve_shows_as_distance():
    row = scaled_check(max_steps=3).rows["jacobian_free"]
    assert row.distance == pytest.approx(1 / 8, rel=1e-3)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_with_float64_enabled_rules_keep_the_callers_dtype(dtype):
    rules = {"exact": implicit(solver=picard, tol=0.0, max_steps=80)}
    error = scaled_check(dtype=dtype, rules=rules, tol=0.0, max_steps=80, gain=0.3)
    # 0.3 and what follows from it is rounded in each precision
    assert (error.rows["exact"].relative_error < 1e-12) == (dtype == jnp.float64)


def test_an_error_leaves_the_precision_as_it_was():
    with pytest.raises(TypeError):
        check_gradient(lambda z, b: (z + b).astype(jnp.float32), jnp.ones((2, 1)), jnp.float32(1))
    assert jnp.zeros(2).dtype == jnp.float32


def scaled_check_of_nothing():
    def f(z, unused):
        return 0.5 * z + 1 + 0 * unused

    return check_gradient(f, jnp.ones((2, 1)), jnp.float32(1), rules=JACOBIAN_FREE)


def test_bfloat16_is_compared_with_float64_too():
    row = scaled_check(dtype=jnp.bfloat16, tol=1e-2).rows["jacobian_free"]
    assert row.relative_error == pytest.approx(0.5, abs=0.02)


def test_integers_and_keys_pass_through():
    def f(z, weight, tables):
        shift = jax.random.randint(tables["key"], (4, 1), 0, 3, jnp.int32).astype(z.dtype)
        return weight * z + shift + jnp.take(tables["row"], tables["index"])[:, None]

    tables = {"key": jax.random.key(0), "row": jnp.arange(4.0), "index": jnp.array([3, 1, 2, 0])}
    check = check_gradient(
        f, jnp.zeros((4, 2)), jnp.float32(0.5), tables, rules={"n": neumann(30)}, solver=picard
    )
    assert check.rows["n"].relative_error < 1e-4


def test_a_map_without_fixed_point_has_no_truth():
    with pytest.raises(TruthError, match=r"z\* has a residual of .* in samples \[0, 1\]"):
        scaled_check(gain=1.0, truth_steps=20)


def test_a_derivative_that_has_not_converged_is_no_truth():
    # the fixed point is the start, so that no unrolled step can follow its derivative
    def f(z, offset):
        return 3 * z + offset

    with pytest.raises(TruthError, match="its derivative has a residual of"):
        check_gradient(f, jnp.zeros((2, 1)), jnp.zeros((2, 1)), rules=JACOBIAN_FREE)


@pytest.mark.parametrize("inside", [False, True], ids=["result", "inside"])
def test_a_fixed_narrow_dtype_inside_f_is_refused(inside):
    def f(z, offset):
        narrow = jnp.tanh((0.5 * z).astype(jnp.float32))
        return narrow.astype(z.dtype) + offset if inside else narrow

    with pytest.raises(TypeError, match="f casts float64 values to float32"):
        check_gradient(f, jnp.zeros((2, 3)), jnp.ones((2, 3)), rules=JACOBIAN_FREE)


def test_a_narrow_dtype_within_control_flow_is_found():
    def f(z, offset):
        def body(_, x):
            return jax.nn.relu(x.astype(jnp.float32)).astype(x.dtype)

        return 0.5 * jax.lax.fori_loop(0, 2, body, z) + offset

    with pytest.raises(TypeError, match="f casts float64 values to float32"):
        check_gradient(f, jnp.zeros((2, 3)), jnp.ones((2, 3)), rules=JACOBIAN_FREE)


def test_random_numbers_that_depend_on_the_precision_are_noticed():
    def f(z, offset, key):
        return 0.5 * z + offset * jax.random.normal(key, z.shape, z.dtype)

    with pytest.raises(ValueError, match="f is another function in float64"):
        check_gradient(
            f, jnp.zeros((2, 3)), jnp.ones((2, 3)), jax.random.key(0), rules=JACOBIAN_FREE
        )


def test_args_without_gradient_are_refused():
    with pytest.raises(ValueError, match="args have no floating-point leaf"):
        check_gradient(lambda z, i: 0.5 * z, jnp.ones((2, 1)), jnp.arange(2))


def test_a_fixed_point_that_ignores_args_is_refused():
    with pytest.raises(ValueError, match="the true gradient in args is zero"):
        scaled_check_of_nothing()


def test_it_does_not_run_inside_jit():
    with pytest.raises(TypeError, match="cannot run inside jit"):
        jax.jit(lambda z: check_gradient(scaled, z, z, z).truth_residual)(jnp.ones((2, 1)))


@pytest.mark.parametrize("rule", [3, (picard,), (picard, 3)], ids=["number", "short", "no rule"])
def test_malformed_rules_are_refused(rule):
    with pytest.raises(TypeError, match=r"rules\['r'\] must be an adjoint or a pair"):
        scaled_check(rules={"r": rule})


@pytest.mark.parametrize("name", ["max_steps", "truth_steps"])
@pytest.mark.parametrize(("steps", "error"), [(2.0, TypeError), (0, ValueError)])
def test_malformed_steps_are_refused(name, steps, error):
    with pytest.raises(error, match=f"{name} must be"):
        scaled_check(**{name: steps})


def test_a_function_that_changes_the_shape_is_refused():
    with pytest.raises(ValueError, match="f changes the shape of z"):
        check_gradient(lambda z, b: z[:, :1] + b, jnp.ones((2, 3)), jnp.float32(1))
