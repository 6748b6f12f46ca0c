"""Observing the equilibrium layers of somebody else's model."""

import functools

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import deqjax as dq
import deqjax.linen
from deqjax.nn import DEQ, ObservationError, observe
from deqjax.solvers import picard

WEAK = nnx.initializers.normal(0.1)


class Cell(nnx.Module):
    def __init__(self, width, rngs):
        self.linear = nnx.Linear(width, width, kernel_init=WEAK, rngs=rngs)

    def __call__(self, z, u):
        return jnp.tanh(self.linear(z) + u)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.deq = DEQ(Cell(3, rngs), solver=picard, max_steps=20)

    def __call__(self, x):
        return self.deq(x).value


class Model(nnx.Module):
    """Two layers, of which the second is called twice."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.second = Block(rngs), DEQ(Cell(3, rngs), solver=picard, tol=1e-2)

    def __call__(self, x):
        z = self.first(x)
        return self.second(self.second(z).value + x).value


def x(batch=4):
    return jnp.linspace(-1, 1, 3 * batch).reshape(batch, 3)


def test_every_call_is_seen_with_its_layer():
    with observe(Model()) as seen:
        Model()  # another model is not observed
        model = Model()
        model(x())
    assert seen.solves == []
    with observe(model) as seen:
        model(x())
    assert [each.layer for each in seen.solves] == ["first.deq", "second", "second"]
    assert [each.tol for each in seen.solves] == [1e-3, 1e-2, 1e-2]
    assert [each.max_steps for each in seen.solves] == [20, 30, 30]
    assert seen.samples == (4, 4, 4)
    for each in seen.solves:
        z = each.solution.value
        np.testing.assert_allclose(each.f(z, each.u), z, atol=2e-2)


def test_probes_report_and_change_no_gradient():
    model = Model()
    graph, parameters = nnx.split(model)

    def loss(parameters, probes):
        model = nnx.merge(graph, parameters)
        with observe(model, probes=probes):
            return model(x()).sum()

    probes = tuple(dq.backward_probe(4) for _ in range(3))
    gradient, reports = jax.jit(jax.grad(loss, argnums=(0, 1)))(parameters, probes)
    plain = jax.jit(jax.grad(lambda p: nnx.merge(graph, p)(x()).sum()))(parameters)
    for one, other in zip(*map(jax.tree.leaves, (gradient, plain)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert all((each.status == dq.Status.CONVERGED).all() for each in reports)


def test_limits_reach_every_solve():
    model = Model()
    with observe(model, tol=0.0, max_steps=2) as seen:
        model(x())
    assert [int(each.solution.stats.steps.max()) for each in seen.solves] == [2, 2, 2]
    with observe(model, tol=0.0, max_steps=lambda own: own // 10) as seen:
        model(x())
    assert [int(each.solution.stats.steps.max()) for each in seen.solves] == [2, 3, 3]


def test_a_warm_up_applies_each_cell_so_often():
    model = Model()
    with observe(model, layers=2) as seen:
        found = model(x())

    def applied(cell, u):
        return cell(cell(jnp.zeros_like(u), u), u)

    first = applied(model.first.deq.cell, x())
    expected = applied(model.second.cell, applied(model.second.cell, first) + x())
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert (seen.solves[0].solution.stats.status == dq.Status.NOT_RUN).all()


def test_a_list_of_layers_and_layers_that_are_shared():
    class Stack(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.blocks = nnx.List([Block(rngs), Block(rngs)])
            self.named = nnx.Dict(last=self.blocks[0].deq)

        def __call__(self, x):
            for block in self.blocks:
                x = block(x)
            return self.named["last"](x).value

    model = Stack()
    with observe(model, max_steps=2, tol=0.0) as seen:
        model(x())
    assert [each.layer for each in seen.solves] == ["blocks.0.deq", "blocks.1.deq", "blocks.0.deq"]
    assert [int(each.solution.stats.steps.max()) for each in seen.solves] == [2, 2, 2]


def test_what_a_call_asks_for_itself_stays():
    deq = DEQ(Cell(3, nnx.Rngs(0)))
    with observe(deq, tol=1e-9, max_steps=9) as seen:
        deq(x(), tol=0.0, max_steps=2)
    assert (seen.solves[0].solution.stats.steps == 2).all()


class Dropped(Cell):
    def __init__(self, rngs):
        super().__init__(16, rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, z, u):
        return self.dropout(super().__call__(z, u))


def test_the_map_has_the_masks_of_its_call():
    deq, u = DEQ(Dropped(nnx.Rngs(0)), tol=1e-6), jnp.ones((4, 16))
    with observe(deq) as seen:
        deq(u)
        deq(u)
    values = [each.solution.value for each in seen.solves]
    images = [[each.f(z, u) for z in values] for each in seen.solves]
    for row, column in np.ndindex(2, 2):
        apart = np.abs(images[row][column] - values[column]).max()
        assert (apart < 1e-4) == (row == column)


@pytest.mark.parametrize("options", [{}, {"has_aux": True}, {"numbered": True}, {"coupled": True}])
def test_a_warm_up_serves_every_form_of_layer(options):
    def cell(z, u, step=0):
        z = 0.5 * z + u + step
        return (z, z.sum()) if "has_aux" in options else z

    deq = DEQ(cell, **options)
    with observe(deq, layers=3) as seen:
        solution = deq(jnp.ones((4, 3)))
    expected = 4.25 if "numbered" in options else 1.75
    np.testing.assert_allclose(solution.value, expected)
    if "has_aux" in options:
        np.testing.assert_allclose(solution.aux, 12 * expected)
    [each] = seen.solves
    assert seen.samples == ((1,) if "coupled" in options else (4,))
    shown = each.f(each.solution.value, each.u)
    shown = shown[0] if "has_aux" in options else shown
    following = expected / 2 + 1 + (3 if "numbered" in options else 0)
    np.testing.assert_allclose(shown, jnp.full((4, 3), following))


@pytest.mark.parametrize("coupled", [False, True])
def test_a_warm_up_shows_what_the_solver_is_asked_to(coupled):
    shown = functools.partial(picard, trajectory=(1, 2, 9), trace=4)
    deq = DEQ(lambda z, u: 0.5 * z + u, solver=shown, coupled=coupled)
    u = jnp.ones((4, 3))
    solved = jax.eval_shape(deq, u)
    with observe(deq, layers=3):
        applied = deq(u)
    assert applied.trajectory.shape == solved.trajectory.shape
    assert applied.stats.trace.shape == solved.stats.trace.shape
    np.testing.assert_allclose(applied.trajectory[:, 0, 0], [1.0, 1.5, 1.75])


def test_a_warm_up_without_layers_is_a_sentence():
    with pytest.raises(ValueError, match="at least 1, got 0"), observe(Model(), layers=0):
        pass


def test_too_few_probes_are_a_sentence():
    model = Model()
    probes = [dq.backward_probe(4)] * 2
    with pytest.raises(ObservationError, match=r"2 probe\(s\)"), observe(model, probes=probes):
        model(x())


def test_a_transform_of_the_models_own_is_a_sentence():
    model = Model()
    with pytest.raises(ObservationError, match="called inside a transform"), observe(model):
        jax.jit(model.first)(x())


def test_a_model_is_observed_once_at_a_time_and_then_left_as_it_was():
    model = Model()
    before = nnx.graphdef(model)
    with observe(model), pytest.raises(ObservationError, match="already"), observe(model):
        pass
    assert nnx.graphdef(model) == before


class Outer(nnx.Module):
    """A cell with an equilibrium of its own."""

    def __init__(self, rngs):
        self.inner = DEQ(Cell(3, rngs))

    def __call__(self, z, u):
        return 0.3 * self.inner(z + u).value


def test_a_layer_inside_a_cell_is_solved_and_not_observed():
    deq = DEQ(Outer(nnx.Rngs(0)))
    plain = deq(x()).value
    with observe(deq, probes=[dq.backward_probe(4)]) as seen:
        found = deq(x()).value
    np.testing.assert_array_equal(found, plain)
    assert [each.layer for each in seen.solves] == ["model"]
    with observe(deq) as seen:
        deq.cell.inner(x())
    assert [each.layer for each in seen.solves] == ["cell.inner"]


def test_a_linen_layer_inside_a_cell_is_not_observed_either():
    class Cell(nnx.Module):
        def __init__(self):
            layer = deqjax.linen.DEQ(lambda z, u: 0.3 * z + u)
            self.inner = nnx.bridge.ToNNX(layer, rngs=nnx.Rngs(0)).lazy_init(x())

        def __call__(self, z, u):
            return 0.3 * self.inner(z + u, rngs={}).value

    deq = DEQ(Cell())
    with observe(deq) as seen:
        f = deq.freeze(x())
        deq(x(), f=f)
        [each] = seen.solves
        image = each.f(each.solution.value, each.u)  # as a penalty does
    assert len(seen.solves) == 1
    np.testing.assert_allclose(image, each.solution.value, atol=1e-2)


def test_the_form_of_a_layer_goes_to_the_penalty():
    deq = DEQ(lambda z, u: (0.5 * z + u, jnp.sum(z)), coupled=True, has_aux=True)
    with observe(deq) as seen:
        deq(x(1)[0])
    [each] = seen.solves
    assert seen.samples == (1,)
    point, key = (each.solution.value, each.u), jax.random.key(0)
    penalty = dq.jacobian_penalty(each.f, *point, key=key, **each.form)
    expected = dq.jacobian_penalty(lambda z, u: 0.5 * z + u, *point, key=key, coupled=True)
    np.testing.assert_allclose(penalty, expected, rtol=1e-6)


class LinenCell(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, z, u):
        weak = flax.linen.initializers.normal(0.1)
        return jnp.tanh(flax.linen.Dense(3, kernel_init=weak)(z) + u)


class LinenModel(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x):
        z = deqjax.linen.DEQ(LinenCell(), name="layer")(x).value
        return deqjax.linen.DEQ(LinenCell())(z, max_steps=5).value


def test_linen_layers_behind_the_bridge():
    model = nnx.bridge.ToNNX(LinenModel(), rngs=nnx.Rngs(0)).lazy_init(x())
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)

    def loss(parameters, probes):
        model = nnx.merge(graph, parameters, rest, copy=True)
        with observe(model, probes=probes) as seen:
            value = model(x()).sum()
        each = seen.solves[0]
        z = each.solution.value
        penalty = dq.jacobian_penalty(each.f, z, each.u, key=jax.random.key(0), **each.form)
        names = [each.layer for each in seen.solves]
        assert names == ["layer", "DEQ_0"]
        return value + penalty

    probes = tuple(dq.backward_probe(4) for _ in range(2))
    gradient, reports = jax.jit(jax.grad(loss, argnums=(0, 1)))(parameters, probes)
    assert all((each.status == dq.Status.CONVERGED).all() for each in reports)
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradient))


def test_limits_and_a_warm_up_reach_linen_layers():
    model = nnx.bridge.ToNNX(LinenModel(), rngs=nnx.Rngs(0)).lazy_init(x())
    with observe(model, tol=0.0, max_steps=3) as seen:
        model(x())
    assert [int(each.solution.stats.steps.max()) for each in seen.solves] == [3, 5]
    with observe(model, layers=2) as seen:
        found = model(x())
    z = x()
    for each in seen.solves:
        z = each.f(each.f(jnp.zeros_like(z), z), z)
        assert (each.solution.stats.status == dq.Status.NOT_RUN).all()
    np.testing.assert_allclose(found, z, rtol=1e-6)


def test_the_map_of_a_linen_layer_has_the_masks_of_its_call():
    class Dropping(flax.linen.Module):
        @flax.linen.compact
        def __call__(self, z, u, train):
            return flax.linen.Dropout(0.5, deterministic=not train)(0.3 * z + u)

    model = nnx.bridge.ToNNX(deqjax.linen.DEQ(Dropping(), tol=1e-6), rngs=nnx.Rngs(0))
    model.lazy_init(jnp.ones((4, 16)), train=False)
    with observe(model) as seen:
        for _ in range(2):
            model(jnp.ones((4, 16)), train=True)
    one, other = seen.solves
    z = one.solution.value
    np.testing.assert_allclose(one.f(z, one.u), z, atol=1e-4)
    assert np.abs(other.f(z, one.u) - z).max() > 0.1


def test_options_beside_a_map_are_refused_when_observed_too():
    model = deqjax.linen.DEQ(lambda z, u: 0.5 * z + u)
    with observe(nnx.Module()), pytest.raises(TypeError, match="to freeze"):
        model.apply({}, x(), f=lambda z, u: 0.5 * z + u, train=True)
