"""Tiny language models, and the compiled functions that the tests of several of them share."""

import dataclasses
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

import deqjax as dq
from deqjax.models._shape import TransformerShape
from deqjax.models._solver_settings import SolverSettings
from deqjax.models._transformer_lm import DEQTransformerLM
from deqjax.models._transformer_xl import TransformerXL
from deqjax.models._trellisnet_lm import DEQTrellisNetLM

BATCH, LENGTH, VOCABULARY, WIDTH, HIDDEN = 2, 4, 11, 8, 12
SHAPE = TransformerShape(
    vocabulary=VOCABULARY,
    length=LENGTH,
    memory_length=LENGTH,
    width=WIDTH,
    heads=2,
    hidden=HIDDEN,
    weight_norm=True,
    weight_scale=0.3,
)
SETTINGS = SolverSettings(
    max_steps=40, tol=1e-6, backward_max_steps=40, backward_tol=1e-6, history=2
)
SIMPLE = SolverSettings(
    "picard", max_steps=80, tol=1e-6, backward_method="picard", backward_max_steps=80
)
DEPTH = 2
MODELS = {"transformer": DEQTransformerLM, "trellisnet": DEQTrellisNetLM}


def tokens(seed=0, length=LENGTH):
    return jax.random.randint(jax.random.key(seed), (BATCH, length), 0, VOCABULARY)


def changed_at(tokens, position):
    return tokens.at[:, position].set((tokens[:, position] + 1) % VOCABULARY)


def make(kind, shape=SHAPE, settings=SIMPLE):
    """A model of kind "transformer", "trellisnet" or "xl", with " pre-LN" after it or not."""
    name, *form = kind.split()
    shape = dataclasses.replace(shape, pre_layer_norm=form == ["pre-LN"])
    if name == "xl":
        return TransformerXL(shape, DEPTH, rngs=nnx.Rngs(0))
    return MODELS[name](shape, settings, rngs=nnx.Rngs(0))


@cache
def built(kind, shape=SHAPE, settings=SIMPLE):
    """Graph, parameters and the rest, drawn in one program: eagerly each shape has its own."""
    graphs = []

    @jax.jit
    def draw():
        graph, *states = nnx.split(make(kind, shape, settings), nnx.Param, ...)
        graphs.append(graph)
        return states

    parameters, rest = draw()
    return graphs[0], parameters, rest


def some_memory(model, capacity=LENGTH):
    """A memory that holds random numbers, in the second row only two positions of them."""
    memory = model.initial_memory(BATCH, capacity)
    key, held = jax.random.key(7), memory.states.shape[-2]
    injection = memory.injection
    return memory._replace(
        states=jnp.tanh(jax.random.normal(key, memory.states.shape)),
        injection=None if injection is None else jax.random.normal(key, injection.shape),
        filled=jnp.minimum(jnp.array([held, 2], jnp.int32), held),
    )


@partial(jax.jit, static_argnums=0)
def read(graph, parameters, rest, tokens, memory):
    """States and memory of a segment."""
    prediction = nnx.merge(graph, parameters, rest, copy=True)(tokens, memory)
    return prediction.states, prediction.memory


@partial(jax.jit, static_argnums=0)
def solve(graph, parameters, rest, tokens, memory, z0, tol, max_steps):
    """States, f(z*) with the returned map, and the solution of a segment."""
    model = nnx.merge(graph, parameters, rest, copy=True)
    prediction = model(tokens, memory, z0=z0, tol=tol, max_steps=max_steps)
    f, u, solution = prediction.equilibrium
    return prediction.states, f(solution.value, u), solution


def solved(kind, tokens, *, z0=None, tol=1e-6, max_steps=40):
    """:func:`solve` by Anderson after :func:`some_memory`."""
    parts = built(kind, SHAPE, SETTINGS)
    model = nnx.merge(*parts, copy=True)
    z0 = model.zero_state(*tokens.shape) if z0 is None else z0
    return solve(*parts, tokens, some_memory(model), z0, tol, max_steps)


def relative_residual(value, image):
    """Of a whole state, per sample."""

    def norm(tree):
        squares = [np.sum(x.reshape(BATCH, -1) ** 2, axis=1) for x in jax.tree.leaves(tree)]
        return np.sqrt(sum(squares))

    image, value = (jax.tree.map(np.asarray, tree) for tree in (image, value))
    return norm(jax.tree.map(np.subtract, image, value)) / norm(image)


@cache
def gradients(kind):
    """Of a loss, of the same loss unrolled, the probe's report, the penalty and its gradient."""
    graph, parameters, rest = built(kind, SHAPE, SETTINGS)
    whole = nnx.merge(graph, parameters, rest, copy=True)
    memory, zero = some_memory(whole), whole.zero_state(BATCH, LENGTH)

    def likelihood(model, states):
        return jnp.mean(model.negative_log_likelihood(states, tokens(1)))

    def loss(parameters, probe):
        model = nnx.merge(graph, parameters, rest, copy=True)
        return likelihood(model, model(tokens(), memory, probe=probe).states)

    def unrolled(parameters):
        model = nnx.merge(graph, parameters, rest, copy=True)
        cell, u = model.deq.cell, model.inputs(tokens(), memory)
        z, _ = lax.scan(lambda z, _: (cell(z, u), None), zero, length=50)
        return likelihood(model, getattr(z, "h", z))

    def penalty(parameters, z):
        model = nnx.merge(graph, parameters, rest, copy=True)
        u = model.inputs(tokens(), memory)
        return dq.jacobian_penalty(model.deq.freeze(u, z), z, u, key=jax.random.key(5))

    @jax.jit
    def all_of_them(parameters, z, probe):
        of_loss, report = jax.grad(loss, argnums=(0, 1))(parameters, probe)
        of_penalty = jax.value_and_grad(penalty)(parameters, z)
        return of_loss, jax.grad(unrolled)(parameters), report, *of_penalty

    return all_of_them(parameters, solved(kind, tokens())[2].value, dq.backward_probe(BATCH))


def leaves(state):
    """The leaves of an NNX state by path."""
    return {"/".join(map(str, path)): leaf[...] for path, leaf in nnx.to_flat_state(state)}


def largest(state):
    """The largest magnitude in each leaf of an NNX state, by path."""
    return {name: float(np.abs(leaf).max()) for name, leaf in leaves(state).items()}


def readers_of(jaxpr, shapes, in_loop=False):
    """Primitives that read an array of one of the shapes: {(name, whether in a while loop)}."""
    found = set()
    for equation in jaxpr.eqns:
        inside = in_loop or equation.primitive.name == "while"
        parts = list(_jaxprs_in(equation.params))
        for part in parts:
            found |= readers_of(part, shapes, inside)
        if not parts and any(getattr(x.aval, "shape", None) in shapes for x in equation.invars):
            found.add((equation.primitive.name, in_loop))
    return found


def _jaxprs_in(params):
    for value in jax.tree.leaves(params, is_leaf=lambda x: hasattr(x, "eqns")):
        if hasattr(value, "eqns"):
            yield getattr(value, "jaxpr", value)


def weight_readers(kind):
    """:func:`readers_of` of the layer's matrices, in the gradient of a training step."""
    graph, parameters, rest = built(kind, dataclasses.replace(SHAPE, dropout=0.5), SETTINGS)

    def loss(parameters):
        model = nnx.merge(graph, parameters, rest, copy=True)
        return jnp.sum(model(tokens()).states)

    kernels = [leaf for name, leaf in leaves(parameters).items() if "deq" in name]
    shapes = {leaf.shape for leaf in kernels if leaf.ndim == 2 and min(leaf.shape) >= WIDTH}
    return readers_of(jax.make_jaxpr(jax.grad(loss))(parameters).jaxpr, shapes)
