"""Layers that a model calls under transforms of its own: told by a sentence, never missed."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import deqjax.linen
from deqjax.nn import DEQ, ObservationError, observe
from deqjax.solvers import picard

X = jnp.linspace(-1, 1, 12).reshape(4, 3)
BROADCAST = nnx.StateAxes({...: None})
CALLED_BEFORE = pytest.mark.parametrize("called_before", [False, True])


class Cell(nnx.Module):
    def __init__(self):
        weak = nnx.initializers.normal(0.1)
        self.linear = nnx.Linear(3, 3, kernel_init=weak, rngs=nnx.Rngs(0))

    def __call__(self, z, u):
        return jnp.tanh(self.linear(z) + u)


class Model(nnx.Module):
    def __init__(self):
        self.deq = DEQ(Cell(), solver=picard, max_steps=3)

    def scaled(self, x):
        return 2 * x


def solve(model, x):
    return model.deq(x).value


def step(model, x, _):
    return solve(model, x), None


def refuses(call, called_before):
    """That a call is refused while its model is observed, be its trace there already or not."""
    model = Model()
    run = call(model)
    graph, plain = nnx.graphdef(model), run() if called_before else None
    with pytest.raises(ObservationError, match="deq is called inside a transf"), observe(model):
        run()
    assert nnx.graphdef(model) == graph
    if called_before:
        np.testing.assert_array_equal(jax.tree.leaves(run())[0], jax.tree.leaves(plain)[0])


# transforms of NNX copy the model: the copies are observed with it

NNX = {
    "jit": nnx.jit(solve),
    "vmap": lambda model, x: nnx.vmap(solve, in_axes=(None, 0))(model, x[:, None]),
    "scan": lambda model, x: nnx.scan(
        step, in_axes=(BROADCAST, nnx.Carry, 0), out_axes=(nnx.Carry, 0)
    )(model, x, jnp.arange(2)),
    "remat": nnx.remat(solve),
    "cond": lambda model, x: nnx.cond(jnp.bool(True), solve, lambda _, x: x, model, x),
    "grad": nnx.grad(lambda model, x: solve(model, x).sum()),
}


@CALLED_BEFORE
@pytest.mark.parametrize("name", NNX)
def test_a_transform_of_nnx(name, called_before):
    refuses(lambda model: lambda: NNX[name](model, X), called_before)


# transforms of JAX keep what they traced, with whatever it closes over

JAX = {
    "jit": jax.jit,
    "vmap": jax.vmap,
    "remat": jax.checkpoint,
    "scan": lambda call: lambda x: lax.scan(call, x, length=2),
    "grad": lambda call: jax.grad(lambda x: call(x)[0].sum()),
}


@CALLED_BEFORE
@pytest.mark.parametrize("name", JAX)
def test_a_transform_of_jax(name, called_before):
    def call(model):
        transformed = JAX[name](lambda x, _=None: step(model, x, None))
        return lambda: transformed(X[:, None] if name == "vmap" else X)

    refuses(call, called_before)


class LinenCell(nn.Module):
    @nn.compact
    def __call__(self, z, u):
        return jnp.tanh(nn.Dense(3, kernel_init=nn.initializers.normal(0.1))(z) + u)


def linen_layer(lifted=None, **options):
    """A Linen layer, or what a lifted transform makes of its class."""
    cls = deqjax.linen.DEQ if lifted is None else lifted(deqjax.linen.DEQ, **options)
    return cls(LinenCell(), solver=picard, max_steps=3, name="layer")


class LinenModel(nn.Module):
    call: str

    @nn.compact
    def __call__(self, x):
        return getattr(self, self.call)(x)

    def plain(self, x):
        return linen_layer()(x).value

    def jit(self, x):
        return linen_layer(nn.jit)(x).value

    def remat(self, x):
        return linen_layer(nn.remat)(x).value

    def vmap(self, x):
        shared = {"variable_axes": {"params": None}, "split_rngs": {"params": False}}
        return linen_layer(nn.vmap, **shared)(x[:, None]).value

    def scan(self, x):
        shared = {"variable_broadcast": "params", "split_rngs": {"params": False}}
        scanned = nn.scan(step_of_linen, length=2, **shared)
        return scanned(linen_layer(), x, None)[0]


def step_of_linen(layer, x, _):
    return layer(x).value, None


def behind_the_bridge(call):
    return nnx.bridge.ToNNX(LinenModel(call), rngs=nnx.Rngs(0)).lazy_init(X)


@CALLED_BEFORE
@pytest.mark.parametrize("call", ["jit", "remat", "vmap", "scan"])
def test_a_lifted_transform_of_linen(call, called_before):
    model = behind_the_bridge(call)
    if called_before:
        model(X)
    with pytest.raises(ObservationError, match="layer is called inside"), observe(model):
        model(X)


@CALLED_BEFORE
@pytest.mark.parametrize("transform", [jax.jit, jax.checkpoint, nnx.jit])
def test_a_transform_around_the_bridge(transform, called_before):
    model = behind_the_bridge("plain")
    if transform is nnx.jit:
        run = partial(nnx.jit(lambda model, x: model(x, rngs={})), model)
    else:
        run = transform(lambda x: model(x, rngs={}))
    if called_before:
        run(X)
    with pytest.raises(ObservationError, match="layer is called inside"), observe(model):
        run(X)


# what transforms may do


def test_a_part_without_a_layer_may_be_under_a_transform():
    model = Model()
    scaled = nnx.jit(Model.scaled)  # of which the whole model is an argument
    for _ in range(2):
        graph = nnx.graphdef(model)
        with observe(model) as seen:
            value = solve(model, scaled(model, X))
        assert len(seen.solves) == 1
        assert nnx.graphdef(model) == graph
    np.testing.assert_array_equal(value, solve(model, 2 * X))


def test_a_transform_inside_of_the_cell():
    class Scanned(Cell):
        def __call__(self, z, u):
            return jax.jit(jax.checkpoint(super().__call__))(z, u)

    deq = DEQ(Scanned(), solver=picard, max_steps=3)
    with observe(deq) as seen:
        value = deq(X).value
    np.testing.assert_array_equal(seen.solves[0].solution.value, value)


def test_the_observation_may_be_under_transforms():
    graph, state = nnx.split(Model())

    @jax.jit
    @jax.vmap
    def solved(row):
        model = nnx.merge(graph, state, copy=True)
        with observe(model) as seen:
            solve(model, row[None])
        return seen.solves[0].solution.value[0]

    np.testing.assert_allclose(solved(X), solve(nnx.merge(graph, state), X), atol=1e-6)


def test_a_copy_outlives_its_observation():
    model = Model()
    with observe(model) as seen:
        copy = nnx.clone(model)
        solve(copy, X)
    assert [each.layer for each in seen.solves] == ["deq"]
    solve(copy, X)
    with observe(copy) as again:
        solve(copy, X)
    assert len(seen.solves) == len(again.solves) == 1
