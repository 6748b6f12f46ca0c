"""The built-in models, observed: an observer's options do what the models' own options do."""

import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import language_models
import numpy as np
import pytest
from flax import nnx

import deqjax as dq
from deqjax.models import MDEQ, MDEQShape, ResDEQ, ResidualShape, SolverSettings
from deqjax.nn import observe

BATCH = 2
SETTINGS = SolverSettings(
    "picard", max_steps=30, tol=1e-6, backward_method="picard", backward_max_steps=6
)
IMAGES = jax.random.normal(jax.random.key(0), (BATCH, 8, 8, 3))
DROPPING = {"dropout": 0.5}
SIZES = {"classes": 3, "input_channels": 3, "dropout": 0.5}


def build(kind):
    rngs = nnx.Rngs(0)
    if kind in language_models.MODELS:
        shape = dataclasses.replace(language_models.SHAPE, **DROPPING)
        return language_models.MODELS[kind](shape, SETTINGS, rngs=rngs)
    if kind == "mdeq":
        sizes = {"channels": (4,), "groups": 2, "expansion": 2}
        heads = {"head_channels": (1,), "final_channels": 5}
        return MDEQ(MDEQShape(**sizes, **heads, **SIZES), SETTINGS, rngs=rngs)
    sizes = {"channels": (4, 8), "groups": 2, "pooled_grid": 4}
    return ResDEQ(ResidualShape(**sizes, **SIZES), SETTINGS, rngs=rngs)


@cache
def built(kind):
    """Graph, parameters and the rest, drawn in one program."""
    graphs = []

    @jax.jit
    def draw():
        graph, *states = nnx.split(build(kind), nnx.Param, ...)
        graphs.append(graph)
        return states

    states = draw()
    return graphs[0], *states


# of each: how many layers it has, and where
LAYERS = {
    "transformer": ["deq"],
    "trellisnet": ["deq"],
    "mdeq": ["deq"],
    "resdeq": ["layers.0", "layers.1"],
}
EACH = pytest.mark.parametrize("kind", LAYERS)


def called(model, kind, *, probes=None, **options):
    """A loss, and what the model itself reports."""
    if kind in language_models.MODELS:
        probe = {} if probes is None else {"probe": probes[0]}
        prediction = model(language_models.tokens(), **probe, **options)
        loss = model.negative_log_likelihood(prediction.states, language_models.tokens(1))
        return loss.mean(), [prediction.equilibrium or prediction.unrolled]
    given = {} if probes is None else {"probes": probes}
    prediction = model(IMAGES, **given, **options)
    return jnp.sin(prediction.logits).sum(), prediction.equilibria or prediction.unrolled


@EACH
def test_the_solves_are_those_that_the_model_reports(kind):
    graph, *states = built(kind)

    @jax.jit
    def run(states):
        model = nnx.merge(graph, *states, copy=True)
        with observe(model) as seen:
            _, reported = called(model, kind)
        assert [each.layer for each in seen.solves] == LAYERS[kind]
        assert all(each.max_steps == 30 and each.tol == 1e-6 for each in seen.solves)
        for each, (f, u, solution) in zip(seen.solves, reported, strict=True):
            assert each.f is f
            assert each.u is u
            assert each.solution is solution
        # with other masks than the solve's own this would be no fixed point
        return [(each.f(each.solution.value, each.u), each.solution) for each in seen.solves]

    for image, solution in run(states):
        assert (solution.stats.status == dq.Status.CONVERGED).all()
        for one, other in zip(*map(jax.tree.leaves, (image, solution.value)), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-4)


@EACH
@pytest.mark.parametrize("layers", [None, 2])
def test_the_options_of_an_observer_are_the_models_own(kind, layers):
    """Loss, gradient and report agree bit for bit: it is the same program."""
    graph, parameters, rest = built(kind)
    probes = tuple(dq.backward_probe(BATCH) for _ in LAYERS[kind])
    limits = {"tol": 1e-2, "max_steps": 3} if layers is None else {"layers": layers}

    def observed(parameters, probes):
        model = nnx.merge(graph, parameters, rest, copy=True)
        with observe(model, probes=probes, **limits) as seen:
            loss, _ = called(model, kind)
        return loss, [each.solution.value for each in seen.solves]

    def asked(parameters, probes):
        model = nnx.merge(graph, parameters, rest, copy=True)
        loss, found = called(model, kind, probes=probes, **limits)
        values = [each.value if layers else each.solution.value for each in found]
        return loss, values

    def run(call):
        differentiated = jax.value_and_grad(call, argnums=(0, 1), has_aux=True)
        return jax.jit(differentiated)(parameters, probes)

    for one, other in zip(*map(jax.tree.leaves, (run(observed), run(asked))), strict=True):
        np.testing.assert_array_equal(one, other)
