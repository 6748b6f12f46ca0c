"""The equilibrium layer: value, gradients along every route, run-time limits."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from nn_cells import BATCH, WIDTH, TanhCell, injection, leaves, unroll, weights

import deqjax as dq
from deqjax.nn import DEQ
from deqjax.solvers import anderson, picard

short_anderson = partial(anderson, history=2)  # compiles faster than the default


def tight_layer(solver=picard, **options):
    """A layer whose solves, forward and backward, stop at rounding."""
    return DEQ(
        TanhCell(dtype=jnp.float64),
        solver=solver,
        adjoint=dq.adjoints.implicit(solver, tol=1e-13, max_steps=100),
        tol=1e-13,
        max_steps=100,
        **options,
    )


def objective(deq, u):
    return jnp.sum(weights() * deq(u).value)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("solver", [picard, short_anderson], ids=["picard", "anderson"])
def test_the_value_is_the_fixed_point_of_the_cell(solver):
    deq, u = tight_layer(solver), injection()
    solution = nnx.jit(lambda deq, u: deq(u))(deq, u)
    np.testing.assert_allclose(solution.value, deq.cell(solution.value, u), rtol=0, atol=1e-12)
    assert (solution.stats.status == dq.Status.CONVERGED).all()


@cache
def unrolled_gradient():
    """Gradient in the cell's parameters by backpropagation through plain iteration."""
    graph, parameters, rest = nnx.split(tight_layer(), nnx.Param, ...)

    def unrolled(parameters):
        cell = nnx.merge(graph, parameters, rest).cell
        return jnp.sum(weights() * unroll(cell, injection()))

    return leaves(jax.jit(jax.grad(unrolled))(parameters))


def by_nnx_grad(deq, u):
    return nnx.grad(objective)(deq, u)


def by_nnx_value_and_grad(deq, u):
    return nnx.value_and_grad(objective)(deq, u)[1]


def by_nnx_jit(deq, u):
    return nnx.jit(nnx.grad(objective))(deq, u)


def by_jax_grad_of_split_state(deq, u):
    graph, parameters, rest = nnx.split(deq, nnx.Param, ...)
    return jax.grad(lambda parameters: objective(nnx.merge(graph, parameters, rest), u))(parameters)


def by_jax_jit_of_split_state(deq, u):
    graph, state = nnx.split(deq)

    @jax.jit
    def gradient(state, u):
        return nnx.grad(objective)(nnx.merge(graph, state, copy=True), u)

    return gradient(state, u)


def by_pmap(deq, u):
    graph, state = nnx.split(deq)

    @partial(jax.pmap, axis_name="devices", in_axes=(None, 0, 0), devices=jax.devices()[:BATCH])
    def gradient(state, u, weights):
        def share(deq):
            return jnp.sum(weights * deq(u).value)

        return jax.lax.psum(nnx.grad(share)(nnx.merge(graph, state, copy=True)), "devices")

    sums = gradient(state, u[:, None], weights()[:, None])
    return jax.tree.map(lambda leaf: leaf[0], sums)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "route",
    [
        by_nnx_grad,
        by_nnx_value_and_grad,
        by_nnx_jit,
        by_jax_grad_of_split_state,
        by_jax_jit_of_split_state,
        by_pmap,
    ],
)
def test_gradient_in_the_parameters_equals_the_unrolled_one(route):
    gradient, expected = leaves(route(tight_layer(), injection())), unrolled_gradient()
    assert set(expected) == {"cell/linear/kernel", "cell/linear/bias"}
    assert set(gradient) == set(expected)
    for name, value in expected.items():
        assert np.abs(value).max() > 0.1
        np.testing.assert_allclose(gradient[name], value, rtol=0, atol=1e-11, err_msg=name)


@pytest.mark.usefixtures("float64")
def test_gradient_in_the_injection_equals_the_unrolled_one():
    deq, u = tight_layer(), injection()
    expected = jax.grad(lambda u: jnp.sum(weights() * unroll(deq.cell, u)))(u)
    gradient = jax.grad(lambda u: objective(deq, u))(u)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-11)


def test_gradient_in_the_default_precision_and_adjoint():
    deq, u = DEQ(TanhCell(), tol=1e-6), injection()

    def unrolled(deq, u):
        return jnp.sum(weights() * unroll(deq.cell, u, steps=40))

    gradient = leaves(nnx.jit(nnx.grad(objective))(deq, u))
    for name, value in leaves(nnx.jit(nnx.grad(unrolled))(deq, u)).items():
        np.testing.assert_allclose(gradient[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


def test_new_limits_compile_nothing():
    traces = []
    graph, state = nnx.split(DEQ(TanhCell(), solver=picard, tol=1e-3, max_steps=30))

    @jax.jit
    def solve(state, u, tol, max_steps):
        traces.append(None)
        return nnx.merge(graph, state, copy=True)(u, tol=tol, max_steps=max_steps).stats

    u = injection()
    stats = [solve(state, u, *limits) for limits in ((1e-1, 30), (1e-5, 30), (1e-5, 3))]
    assert len(traces) == 1
    loose, tight, short = (int(s.steps.max()) for s in stats)
    assert loose < tight <= 30
    assert short == 3
    assert (stats[0].residual <= 1e-1).all()
    assert (stats[1].residual <= 1e-5).all()
    assert (stats[2].status == dq.Status.STEP_LIMIT).all()


def test_limits_default_to_those_of_the_layer():
    deq, u = DEQ(TanhCell(), solver=picard, tol=1e-12, max_steps=2), injection()
    assert (deq(u).stats.steps == 2).all()
    assert (deq(u, max_steps=4).stats.steps == 4).all()
    assert (deq(u, tol=1e3).stats.steps == 0).all()


def test_the_solver_of_the_layer_solves_and_its_adjoint_differentiates():
    solvers = []

    def named(name):
        def solver(f, z0, *, tol, max_steps):
            solvers.append(name)
            return picard(f, z0, tol=tol, max_steps=max_steps)

        return solver

    deq = DEQ(TanhCell(), solver=named("forward"), adjoint=dq.adjoints.implicit(named("backward")))
    jax.grad(lambda u: objective(deq, u))(injection())
    assert list(dict.fromkeys(solvers)) == ["forward", "backward"]


def test_z0_is_where_the_solve_starts():
    deq, u = DEQ(TanhCell(), solver=picard, tol=1e-4, max_steps=60), injection()
    found = deq(u, tol=1e-6)
    assert (deq(u, z0=found.value).stats.steps == 0).all()
    np.testing.assert_array_equal(deq(u, z0=2 * u, tol=1e9).value, 2 * u)


class PairCell(nnx.Module):
    """A state of two leaves of different shapes, each driving the other."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        small = nnx.initializers.orthogonal(0.5)
        options = {"kernel_init": small, "param_dtype": jnp.float64, "rngs": rngs}
        self.to_image = nnx.Linear(WIDTH, WIDTH, **options)
        self.to_hidden = nnx.Linear(WIDTH, WIDTH, **options)

    def __call__(self, z, u):
        image, hidden = z["image"].reshape(BATCH, WIDTH), z["hidden"]
        return {
            "hidden": jnp.tanh(self.to_hidden(image) + u["hidden"]),
            "image": jnp.tanh(self.to_image(hidden)).reshape(BATCH, 2, -1) + u["image"],
        }


@pytest.mark.usefixtures("float64")
def test_dict_state_with_a_loss_on_one_leaf():
    adjoint = dq.adjoints.implicit(picard, tol=1e-13, max_steps=100)
    deq = DEQ(PairCell(), solver=picard, adjoint=adjoint, tol=1e-13, max_steps=100)
    u = {"hidden": injection(), "image": jnp.sin(injection()).reshape(BATCH, 2, -1)}

    def implicit(deq, u):
        return jnp.sum(weights() * deq(u).value["hidden"])

    def unrolled(deq, u):
        start = jax.tree.map(jnp.zeros_like, u)
        return jnp.sum(weights() * unroll(deq.cell, u, start)["hidden"])

    value, gradient = nnx.value_and_grad(implicit)(deq, u)
    expected_value, expected = nnx.value_and_grad(unrolled)(deq, u)
    np.testing.assert_allclose(value, expected_value, rtol=1e-12)
    for name, leaf in leaves(expected).items():
        np.testing.assert_allclose(leaves(gradient)[name], leaf, rtol=0, atol=1e-11, err_msg=name)


def test_a_function_serves_as_a_cell():
    deq, u = DEQ(lambda z, u: 0.5 * jnp.cos(z) + u, solver=picard, tol=1e-6), injection()
    value = deq(u).value
    np.testing.assert_allclose(value, 0.5 * jnp.cos(value) + u, rtol=0, atol=1e-5)


@pytest.mark.parametrize("u", [None, (1.0, 2)], ids=["None", "tuple"])
def test_u_may_be_any_tree_if_z0_is_given(u):
    deq = DEQ(lambda z, u: 0.5 * jnp.cos(z) + (0 if u is None else u[0] * u[1]), solver=picard)
    solution = deq(u, z0=injection())
    assert (solution.stats.status == dq.Status.CONVERGED).all()


class Stacked(nnx.Module):
    """An equilibrium layer inside the cell of another."""

    def __init__(self):
        self.inner = DEQ(TanhCell(scale=0.3), solver=picard, tol=1e-6)
        self.outer = nnx.Linear(
            WIDTH, WIDTH, kernel_init=nnx.initializers.orthogonal(0.3), rngs=nnx.Rngs(1)
        )

    def __call__(self, z, u):
        return jnp.tanh(self.outer(self.inner(z + u).value) + u)


def test_a_layer_inside_the_cell_of_a_layer_trains():
    deq, u = DEQ(Stacked(), solver=picard, tol=1e-5), injection()
    gradient = leaves(nnx.jit(nnx.grad(objective))(deq, u))
    assert {name for name, leaf in gradient.items() if np.abs(leaf).max() > 1e-3} == {
        "cell/inner/cell/linear/kernel",
        "cell/inner/cell/linear/bias",
        "cell/outer/kernel",
        "cell/outer/bias",
    }


def test_probe_reports_the_backward_solve():
    deq, u = DEQ(TanhCell(), solver=picard, tol=1e-5), injection()
    probe = jax.grad(lambda probe: jnp.sum(weights() * deq(u, probe=probe).value))(
        dq.backward_probe(BATCH)
    )
    assert (probe.status == dq.Status.CONVERGED).all()
    assert (probe.steps >= 1).all()
    assert (probe.residual <= 1e-5).all()


def _sibling_in_a_closure():
    cell = TanhCell()
    return lambda z, u: cell(z, 2 * u)


@pytest.mark.parametrize(
    "cell",
    [
        lambda: TanhCell().__call__,
        lambda: partial(TanhCell().__call__),
        lambda: partial(lambda cell, z, u: cell(z, u), TanhCell()),
        _sibling_in_a_closure,
    ],
    ids=["method", "partial of a method", "partial over a module", "closure"],
)
def test_a_function_that_hides_a_module_is_refused(cell):
    with pytest.raises(TypeError, match=r"hides.*TanhCell.*give DEQ the module itself"):
        DEQ(cell())


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (TanhCell, "the cell TanhCell is a class; give DEQ an instance"),
        (linen.Dense(WIDTH), r"the cell Dense is a Linen module; its layer is deqjax\.linen\.DEQ"),
    ],
    ids=["class", "Linen module"],
)
def test_a_cell_of_another_kind_is_refused(cell, sentence):
    with pytest.raises(TypeError, match=sentence):
        DEQ(cell)
