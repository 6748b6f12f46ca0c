"""The equilibrium layer for Linen: where it may stand, value, gradients, limits, refusals."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from linen_cells import TanhCell, dense, layer, params
from nn_cells import BATCH, WIDTH, injection, unroll, weights
from nn_cells import TanhCell as NnxCell

import deqjax as dq
from deqjax.linen import DEQ
from deqjax.solvers import anderson, picard

KEY = jax.random.key(0)
exact = partial(
    layer,
    adjoint=dq.adjoints.implicit(picard, tol=1e-13, max_steps=100),
    tol=1e-13,
    max_steps=100,
)


class Alone(nn.Module):
    """The layer in an attribute, so that all models here are called alike."""

    deq: nn.Module

    def __call__(self, u):
        return self.deq(u).value


class InCompact(nn.Module):
    @nn.compact
    def __call__(self, u):
        return exact(TanhCell(dtype=u.dtype))(u).value


class InSetup(nn.Module):
    def setup(self):
        self.deq = exact(TanhCell(dtype=jnp.float64))

    def __call__(self, u):
        return self.deq(u).value


class Around(nn.Module):
    """A cell around a module from elsewhere."""

    inner: nn.Module

    def __call__(self, z, u):
        return jnp.tanh(self.inner(z) + u)


class InnerOfModel(nn.Module):
    """The cell's parameters belong to the model, which uses them itself as well."""

    @nn.compact
    def __call__(self, u):
        inner = dense(param_dtype=u.dtype)
        return exact(Around(inner))(u).value + 0 * inner(u)


class CellOfModel(nn.Module):
    def setup(self):
        self.block = TanhCell(dtype=jnp.float64)
        self.deq = exact(self.block)

    def __call__(self, u):
        return self.deq(u).value + 0 * self.block(u, u)


PLACES = {
    "attribute": (Alone(exact(TanhCell(dtype=jnp.float64))), "deq/cell/Dense_0"),
    "compact": (InCompact(), "TanhCell_0/Dense_0"),
    "setup": (InSetup(), "deq/cell/Dense_0"),
    "inner module of the model": (InnerOfModel(), "Dense_0"),
    "cell of the model": (CellOfModel(), "block/Dense_0"),
}


def objective(model, variables, u):
    return jnp.sum(weights() * model.apply(variables, u))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("place", PLACES)
def test_value_and_gradients_equal_the_unrolled_ones(place):
    (model, name), u = PLACES[place], injection()
    variables = model.init(KEY, u)
    assert set(params(variables)) == {f"{name}/kernel", f"{name}/bias"}

    def unrolled(kernel, bias, u):
        return jnp.sum(weights() * unroll(lambda z, u: jnp.tanh(z @ kernel + bias + u), u))

    kernel, bias = (params(variables)[f"{name}/{leaf}"] for leaf in ("kernel", "bias"))
    value, (in_kernel, in_bias, in_u) = jax.value_and_grad(unrolled, (0, 1, 2))(kernel, bias, u)
    found, (gradient, found_in_u) = jax.jit(jax.value_and_grad(partial(objective, model), (0, 1)))(
        variables, u
    )
    np.testing.assert_allclose(found, value, rtol=0, atol=1e-11)
    np.testing.assert_allclose(found_in_u, in_u, rtol=0, atol=1e-11)
    np.testing.assert_allclose(params(gradient)[f"{name}/kernel"], in_kernel, rtol=0, atol=1e-11)
    np.testing.assert_allclose(params(gradient)[f"{name}/bias"], in_bias, rtol=0, atol=1e-11)


def test_init_makes_the_cell_s_own_parameters_and_no_tracers():
    u = injection()
    variables = layer(TanhCell()).init(KEY, u)
    assert not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(variables))
    bare = TanhCell().init(KEY, u, u)
    assert jax.tree.map(jnp.shape, variables["params"]["cell"]) == jax.tree.map(
        jnp.shape, bare["params"]
    )


def test_init_gives_the_same_parameters_under_jit_and_shapes_without_work():
    model, u = layer(TanhCell()), injection()
    eager, compiled = model.init(KEY, u), jax.jit(model.init)(KEY, u)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), eager, compiled)
    assert jax.tree.map(jnp.shape, eager) == jax.tree.map(
        jnp.shape, jax.eval_shape(model.init, KEY, u)
    )


class Nested(nn.Module):
    @nn.compact
    def __call__(self, z, u):
        return 0.5 * jnp.tanh(layer(TanhCell())(z + u).value) + u


class Two(nn.Module):
    """A layer within the cell of a layer, and a second one after it, used twice."""

    @nn.compact
    def __call__(self, u):
        u = layer(Nested(), tol=1e-5)(u).value
        last = layer(TanhCell())
        return last(last(u).value).value


def test_nested_layers_and_several_of_them_train():
    model, u = Two(), injection()
    variables = model.init(KEY, u)
    names = {"Nested_0/TanhCell_0/Dense_0", "TanhCell_0/Dense_0"}
    assert set(params(variables)) == {f"{n}/{leaf}" for n in names for leaf in ("kernel", "bias")}
    gradient = jax.jit(jax.grad(partial(objective, model)))(variables, u)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in params(gradient).values())


def test_limits_start_and_probe_are_those_of_fixed_point():
    model, u = DEQ(TanhCell(), solver=picard, tol=1e-5, max_steps=50), injection()
    variables = model.init(KEY, u)
    solve = jax.jit(model.apply)
    found = solve(variables, u)
    assert (found.stats.status == dq.Status.CONVERGED).all()
    assert (solve(variables, u, z0=found.value, tol=1e-4).stats.steps == 0).all()
    assert (solve(variables, u, max_steps=2).stats.steps == 2).all()
    report = jax.grad(lambda probe: jnp.sum(solve(variables, u, probe=probe).value))(
        dq.backward_probe(BATCH)
    )
    assert (report.status == dq.Status.CONVERGED).all()


def test_new_limits_compile_nothing():
    traces = []
    model, u = layer(TanhCell()), injection()
    variables = model.init(KEY, u)

    @jax.jit
    def solve(tol, max_steps):
        traces.append(None)
        return model.apply(variables, u, tol=tol, max_steps=max_steps).stats

    loose, tight = solve(1e-1, 30), solve(1e-5, 30)
    assert len(traces) == 1
    assert int(loose.steps.max()) < int(tight.steps.max())


def test_the_solver_and_the_adjoint_of_the_layer_are_used():
    model, u = DEQ(TanhCell(), solver=partial(anderson, history=2)), injection()
    model = model.clone(adjoint=dq.adjoints.jacobian_free(), tol=1e-6)
    variables = model.init(KEY, u)
    value = model.apply(variables, u).value
    kernel = variables["params"]["cell"]["Dense_0"]["kernel"]
    np.testing.assert_allclose(jnp.tanh(value @ kernel + u), value, rtol=0, atol=1e-5)
    gradient = jax.grad(lambda u: model.apply(variables, u).value.sum())(u)
    np.testing.assert_allclose(gradient, 1 - value**2, rtol=0, atol=1e-5)  # of the last step alone


class Noisy(nn.Module):
    """Draws from Python's side, so each trace has noise of its own."""

    def __call__(self, z, u):
        return 0.5 * jnp.tanh(z) + u * NOISE.normal()


NOISE = np.random.default_rng(0)


def test_debug_reports_randomness_in_python():
    with pytest.raises(dq.NotDeterministicError, match="no fixed point exists"):
        layer(Noisy(), debug=True).init(KEY, injection())


def test_a_function_serves_as_a_cell():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, u):
            return layer(lambda z, u, scale: scale * jnp.cos(z) + u)(u, scale=0.5).value

    u = injection()
    value = Model().apply({}, u)
    np.testing.assert_allclose(value, 0.5 * jnp.cos(value) + u, rtol=0, atol=1e-5)


# slips


def test_a_function_that_hides_a_module_is_refused():
    class Hiding(nn.Module):
        @nn.compact
        def __call__(self, u):
            cell = TanhCell()
            return layer(lambda z, u: cell(z, 2 * u))(u).value

    with pytest.raises(TypeError, match=r"hides the module TanhCell.*give DEQ the module itself"):
        Hiding().init(KEY, injection())


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        (TanhCell, "the cell TanhCell is a class; give DEQ an instance"),
        (NnxCell(), r"the cell TanhCell is an NNX module; its layer is deqjax\.nn\.DEQ"),
    ],
    ids=["class", "NNX module"],
)
def test_a_cell_of_another_kind_is_refused(cell, sentence):
    with pytest.raises(TypeError, match=sentence):
        layer(cell).init(KEY, injection())


def test_an_option_that_the_cell_does_not_have_is_named():
    with pytest.raises(TypeError, match="unexpected keyword argument 'max_step'"):
        layer(TanhCell()).init(KEY, injection(), max_step=3)


def test_options_of_the_cell_beside_a_frozen_map_are_refused():
    with pytest.raises(TypeError, match=r"give \['deterministic'\] to freeze"):
        layer(TanhCell()).apply({}, injection(), f=lambda z, u: u, deterministic=True)


def test_a_layer_without_variables_says_how_to_call_it():
    with pytest.raises(ValueError, match="call it inside a model, or through its init and apply"):
        layer(TanhCell())(injection())


def test_an_nnx_model_may_hold_it_through_flax_s_bridge():
    model, u = nnx.bridge.ToNNX(InCompact(), rngs=nnx.Rngs(0)), injection(width=WIDTH)
    gradient = nnx.grad(lambda model: jnp.sum(model(u)))(model.lazy_init(u))
    assert all((leaf != 0).any() for leaf in jax.tree.leaves(gradient))
