"""Solving in two precisions: the same end, fewer full evaluations, and counts that add up."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import deqjax as dq
import deqjax.linen
import deqjax.nn
from deqjax.adjoints import implicit, unrolled
from deqjax.solvers import anderson, jaxopt, mixed_precision, newton_krylov, picard

BATCH, SIZE = 4, 32
TOL = 1e-6


def problem():
    """A contracting map with two products, and its start."""
    keys = jax.random.split(jax.random.key(0), 3)
    weights = 0.6 * jnp.linalg.qr(jax.random.normal(keys[0], (SIZE, SIZE)))[0]
    x = jax.random.normal(keys[1], (BATCH, SIZE))
    return weights, x, jnp.zeros((BATCH, SIZE))


def f(z, weights, x):
    return jnp.tanh(jnp.tanh(z @ weights) @ weights + x)


mixed = functools.partial(mixed_precision, solver=anderson)
plain_steps = functools.partial(mixed_precision, solver=picard)  # which compile faster


def solve(weights, x, z0, *, solver=mixed, tol=TOL, max_steps=40, **options):
    return solver(lambda z: f(z, weights, x), z0, tol=tol, max_steps=max_steps, **options)


@functools.cache
def compiled(**options):
    return jax.jit(functools.partial(solve, **options))


@pytest.mark.parametrize("inner", [anderson, newton_krylov])
def test_the_residual_is_that_of_f_and_takes_fewer_full_evaluations(inner):
    given = problem()
    solver = functools.partial(mixed_precision, solver=inner)
    found = jax.jit(functools.partial(solve, solver=solver))(*given)
    plain = jax.jit(functools.partial(solve, solver=inner))(*given)
    assert jnp.all(found.stats.status == dq.Status.CONVERGED)
    image = f(found.value, *given[:2])
    true = jnp.linalg.norm(image - found.value, axis=1) / jnp.linalg.norm(image, axis=1)
    assert jnp.all(true <= 1.5 * TOL)
    np.testing.assert_allclose(found.value, plain.value, atol=2e-5)
    full = found.stats.evaluations - found.stats.low_evaluations
    assert 0 < full < plain.stats.evaluations


def test_the_rounded_map_alone_does_not_get_there():
    weights, x, z0 = problem()
    low = functools.partial(jnp.asarray, dtype=jnp.bfloat16)

    def rounded(z):
        inner = jnp.tanh(jnp.matmul(low(z), low(weights), preferred_element_type=jnp.float32))
        product = jnp.matmul(low(inner), low(weights), preferred_element_type=jnp.float32)
        return jnp.tanh(product + x)

    value = jax.jit(lambda z: anderson(rounded, z, tol=0.0, max_steps=40).value)(z0)
    image = f(value, weights, x)
    residual = jnp.linalg.norm(image - value, axis=1) / jnp.linalg.norm(image, axis=1)
    assert jnp.all(residual > 100 * TOL)


def test_counts_and_trace_of_both_phases_add_up():
    stats = compiled(trace=41)(*problem()).stats
    for sample in range(BATCH):
        steps, rows = int(stats.steps[sample]), stats.trace[:, sample]
        assert rows[steps] == stats.residual[sample]
        assert jnp.all(jnp.isfinite(rows[: steps + 1]))
        assert jnp.all(jnp.isnan(rows[steps + 1 :]))
    # each phase measures its last state too
    assert stats.evaluations >= jnp.max(stats.steps) + 2


@pytest.mark.parametrize("limit", [1, 3, 7])
def test_the_step_limit_is_that_of_both_phases(limit):
    weights, x, z0 = problem()
    found = jax.jit(solve)(weights, x, z0, tol=0.0, max_steps=limit)
    assert jnp.all(found.stats.steps == limit)
    assert jnp.all(found.stats.status == dq.Status.STEP_LIMIT)
    image = f(found.value, weights, x)
    true = jnp.linalg.norm(image - found.value, axis=1) / jnp.linalg.norm(image, axis=1)
    np.testing.assert_allclose(found.stats.residual, true, rtol=1e-3)


def test_least_steps_are_those_of_both_phases():
    stats = compiled(min_steps=20, tol=1e-2)(*problem()).stats
    assert jnp.all(stats.steps == 20)
    assert jnp.all(stats.status == dq.Status.CONVERGED)


@pytest.mark.parametrize(
    "options", [{"stop": "absolute"}, {"min_steps": 20}, {"returns": "last"}], ids=str
)
def test_an_option_of_the_loop_is_of_both_phases_whoever_sets_it(options):
    tol = 1e-4
    set_before = functools.partial(mixed_precision, solver=functools.partial(picard, **options))
    before = jax.jit(functools.partial(solve, solver=set_before, tol=tol))(*problem())
    told = jax.jit(functools.partial(solve, solver=plain_steps, tol=tol, **options))(*problem())
    jax.tree.map(np.testing.assert_array_equal, before, told)


def test_samples_are_solved_as_they_would_be_alone_each_to_its_tolerance():
    weights, x, z0 = problem()
    run = jax.jit(solve)
    tols = jnp.array([1e-1, 1e-2, 1e-4, 1e-6])
    together = run(weights, x, z0, tol=tols)
    for sample in range(BATCH):
        row = slice(sample, sample + 1)
        alone = run(weights, x[row], z0[row], tol=tols[row])
        # sums of another order may round to the neighbour in bfloat16
        assert abs(int(alone.stats.steps[0]) - int(together.stats.steps[sample])) <= 1
        near = max(float(tols[sample]), 1e-5)
        np.testing.assert_allclose(alone.value[0], together.value[sample], atol=near)
    assert jnp.all(together.stats.residual <= tols)


def test_a_sample_of_nan_leaves_the_others_as_they_are():
    weights, x, z0 = problem()
    good = compiled()(weights, x, z0)
    spoiled = compiled()(weights, x.at[1].set(jnp.nan), z0)
    others = jnp.array([0, 2, 3])
    assert spoiled.stats.status[1] == dq.Status.DIVERGED
    np.testing.assert_array_equal(spoiled.value[others], good.value[others])
    np.testing.assert_array_equal(spoiled.stats.steps[others], good.stats.steps[others])


def test_tolerance_and_limit_are_run_time_values():
    run = jax.jit(lambda tol, limit, *given: solve(*given, tol=tol, max_steps=limit).stats.steps)
    assert jnp.max(run(1e-2, 40, *problem())) < jnp.max(run(1e-6, 40, *problem()))
    assert jnp.max(run(1e-6, 5, *problem())) == 5
    assert run._cache_size() == 1


def test_gradients_of_first_and_second_order_with_a_mixed_backward_solve():
    weights, x, z0 = problem()

    def loss(scale, solver, adjoint):
        found = dq.fixed_point(
            f, z0, scale * weights, x, solver=solver, adjoint=adjoint, tol=TOL, max_steps=80
        )
        return jnp.sum(found.value**2)

    def both(solver, backward):
        one = functools.partial(loss, solver=solver, adjoint=implicit(backward, max_steps=80))
        return jax.jit(lambda scale: (jax.grad(one)(scale), jax.grad(jax.grad(one))(scale)))(1.0)

    np.testing.assert_allclose(both(plain_steps, plain_steps), both(picard, picard), rtol=2e-4)


def test_the_backward_solve_ends_where_a_plain_one_does_and_says_so():
    weights, x, z0 = problem()

    def loss(weights, probe, adjoint):
        found = dq.fixed_point(f, z0, weights, x, tol=TOL, adjoint=adjoint, probe=probe)
        return jnp.sum(found.value**2)

    run = jax.jit(jax.grad(loss, argnums=1), static_argnums=2)
    report = run(weights, dq.backward_probe(BATCH), implicit(mixed))
    assert jnp.all(report.status == dq.Status.CONVERGED)
    assert jnp.all(report.residual <= 1e-5)


def test_under_vmap_and_in_forward_mode():
    weights, x, z0 = problem()
    many = jax.vmap(lambda x: solve(weights, x, z0).value)(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(many[0], compiled()(weights, x, z0).value, atol=1e-5)

    def value(scale, solver):
        rule = implicit(solver, max_steps=80, forward_mode=True)
        limits = {"tol": TOL, "max_steps": 80}
        given = scale * weights, x
        return dq.fixed_point(f, z0, *given, solver=solver, adjoint=rule, **limits).value

    for_both = [
        jax.jvp(functools.partial(value, solver=each), (1.0,), (1.0,))[1]
        for each in (plain_steps, picard)
    ]
    np.testing.assert_allclose(*for_both, atol=1e-4)


def test_a_map_without_products_is_solved_as_it_stands():
    found = mixed(lambda z: 0.5 * z + 1, jnp.zeros((2, 3)), tol=1e-5, max_steps=30)
    plain = anderson(lambda z: 0.5 * z + 1, jnp.zeros((2, 3)), tol=1e-5, max_steps=30)
    np.testing.assert_array_equal(found.value, plain.value)
    assert found.stats.low_evaluations == 0
    assert found.stats.evaluations == plain.stats.evaluations
    assert plain.stats.low_evaluations is None


def test_patience_is_of_a_phase_that_there_may_not_be():
    found = mixed_precision(
        lambda z: 1 - z, jnp.zeros((1, 1)), tol=0.0, max_steps=9, solver=picard, patience=2
    )
    assert found.stats.steps[0] == 9


def test_the_estimate_of_a_second_phase_is_none_to_differentiate_by():
    solver = functools.partial(mixed_precision, solver=dq.solvers.broyden)
    with pytest.raises(TypeError, match=r"solvers\.broyden keeps and mixed_precision does not"):
        dq.fixed_point(f, problem()[2], *problem()[:2], solver=solver, adjoint=dq.adjoints.shine())


def test_a_backward_system_by_gmres():
    weights, x, z0 = problem()
    solver = functools.partial(mixed_precision, solver=dq.solvers.gmres)
    found = jax.jit(lambda z: solver(lambda z: z @ weights + x, z, tol=TOL, max_steps=40))(z0)
    assert jnp.all(found.stats.residual <= TOL)
    assert jnp.all(found.stats.status == dq.Status.CONVERGED)
    np.testing.assert_allclose(
        found.value, jnp.linalg.solve((jnp.eye(SIZE) - weights).T, x.T).T, atol=1e-4
    )


def test_cells_of_flax_need_nothing_of_their_own():
    _, x, _ = problem()

    class Cell(nnx.Module):
        def __init__(self, rngs):
            small = nnx.initializers.normal(0.05)
            self.linear = nnx.Linear(SIZE, SIZE, kernel_init=small, rngs=rngs)

        def __call__(self, z, u):
            return jnp.tanh(self.linear(z) + u)

    class LinenCell(linen.Module):
        @linen.compact
        def __call__(self, z, u):
            return jnp.tanh(linen.Dense(SIZE, kernel_init=linen.initializers.normal(0.05))(z) + u)

    layer = deqjax.nn.DEQ(Cell(nnx.Rngs(0)), solver=mixed, tol=TOL)
    other = deqjax.linen.DEQ(LinenCell(), solver=mixed, tol=TOL)
    for stats in (layer(x).stats, other.init_with_output(jax.random.key(0), x)[0].stats):
        assert jnp.all(stats.residual <= TOL)
        assert 0 < stats.low_evaluations < stats.evaluations


def test_float64_is_mixed_with_float32():
    with jax.enable_x64(True):
        given = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), problem())
        stats = solve(*given, tol=1e-12).stats
        assert jnp.all(stats.residual <= 1e-12)
        # the second phase starts from 6e-8
        assert stats.evaluations - stats.low_evaluations < stats.low_evaluations


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"low": "float32"}, "narrower than float32, in which z is solved, got float32"),
        ({"low": "int8"}, "narrower than float32"),
        ({"low": "float8_e4m3fn"}, "must be bfloat16, float16 or float32"),
        ({"low": "bf16"}, "low must be a dtype, such as 'bfloat16', got 'bf16'"),
        ({"solver": dq.solvers.reversible}, "cannot take solver=reversible"),
        ({"solver": functools.partial(jaxopt, history_size=2)}, "cannot take solver=jaxopt"),
        ({"trajectory": (2,)}, "does not take the option 'trajectory'"),
        (
            {"solver": dq.solvers.gmres, "trace": 3},
            "cannot take trace with solver=gmres, which counts cycles",
        ),
        (
            {"solver": functools.partial(picard, trajectory=(2,))},
            "not take the option 'trajectory'",
        ),
        ({"keep_memory": True}, "the second phase starts without a history"),
        ({"patience": 0}, "patience must be a Python int >= 1 or None, got 0"),
        ({"history": 3}, "no option 'history'"),
        ({"tol": -1.0}, "tol must be zero or positive"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(options, told):
    with pytest.raises((TypeError, ValueError), match=told):
        solve(*problem(), **{"solver": mixed_precision} | {"tol": TOL} | _as_partial(options))


def _as_partial(options):
    inner = options.get("solver")
    if inner is None:
        return options
    return options | {"solver": functools.partial(mixed_precision, solver=inner)}


def test_what_needs_f_itself_at_each_step_says_so():
    weights, x, z0 = problem()
    with pytest.raises(TypeError, match="does not take the option 'differentiable'"):
        dq.fixed_point(f, z0, weights, x, solver=mixed, adjoint=unrolled())
    with pytest.raises(TypeError, match="does not number its evaluations"):
        dq.fixed_point(
            lambda z, weights, x, step: f(z, weights, x),
            z0,
            weights,
            x,
            solver=mixed,
            numbered=True,
        )
