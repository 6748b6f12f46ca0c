"""Solver settings: every combination builds or says why not, and every adjoint trains a model."""

import dataclasses
import itertools
from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

import deqjax as dq
from deqjax.models._shape import TransformerShape
from deqjax.models._solver_settings import SolverSettings
from deqjax.models._transformer_lm import DEQTransformerLM
from deqjax.models._transformer_xl import TransformerXL
from deqjax.models._trellisnet_lm import DEQTrellisNetLM

NAMES = {name: get_args(hint) for name, hint in get_type_hints(SolverSettings).items()}
NEEDED = {"reversible": "reversible", "shine": "broyden"}
SHAPE = TransformerShape(
    vocabulary=5, length=2, memory_length=1, width=4, heads=1, hidden=4, weight_scale=0.2
)
BATCH = 2


def fits(method, adjoint):
    return NEEDED.get(adjoint, method) == method


PAIRS = list(itertools.product(NAMES["method"], NAMES["adjoint"]))


@pytest.mark.parametrize(("method", "adjoint"), [pair for pair in PAIRS if fits(*pair)])
@pytest.mark.parametrize("backward", NAMES["backward_method"])
def test_a_combination_builds(method, adjoint, backward):
    settings = SolverSettings(method=method, adjoint=adjoint, backward_method=backward)
    assert callable(settings.build_solver())
    assert callable(settings.build_adjoint())


@pytest.mark.parametrize(("method", "adjoint"), [pair for pair in PAIRS if not fits(*pair)])
def test_an_adjoint_refuses_a_method_that_does_not_keep_what_it_needs(method, adjoint):
    settings = SolverSettings(method=method, adjoint=adjoint)
    needed = NEEDED[adjoint]
    with pytest.raises(
        ValueError, match=f"'{adjoint}' needs the method '{needed}', got '{method}'"
    ):
        settings.build_adjoint()


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (SolverSettings("anderson"), {"history": 6, "ridge": 1e-5}),
        (
            SolverSettings("anderson", damping=0.5, history=3, ridge=1e-3),
            {"damping": 0.5, "history": 3, "ridge": 1e-3},
        ),
        (SolverSettings("broyden", history=4), {"rank": 4}),
        (SolverSettings("picard"), {}),
        (SolverSettings("picard", stop="absolute"), {"stop": "absolute"}),
        (SolverSettings("picard", damping=0.7), {"damping": 0.7}),
        (SolverSettings("picard", returns="last"), {"returns": "last"}),
        (SolverSettings("reversible", damping=0.8), {"damping": 0.8}),
        (SolverSettings("newton_krylov"), {}),
        (SolverSettings("picard", min_steps=3), {"min_steps": 3}),
    ],
    ids=[
        "anderson",
        "anderson-set",
        "broyden",
        "picard",
        "absolute",
        "picard-set",
        "last",
        "reversible",
        "newton",
        "least",
    ],
)
def test_a_solver_gets_its_own_options_and_no_others(settings, options):
    solver = settings.build_solver()
    assert solver.func is getattr(dq.solvers, settings.method)
    assert solver.keywords == options


@pytest.mark.parametrize(("backward_history", "rank"), [(None, 4), (9, 9)])
def test_the_backward_solve_keeps_what_the_forward_one_does_or_its_own(
    monkeypatch, backward_history, rank
):
    used = []
    monkeypatch.setattr(dq.adjoints, "implicit", lambda solver, *_: used.append(solver))
    SolverSettings(
        history=4, backward_method="broyden", backward_history=backward_history
    ).build_adjoint()
    assert used[0].func is dq.solvers.broyden
    assert used[0].keywords == {"rank": rank}


@pytest.mark.parametrize("adjoint", ["neumann", "phantom"])
def test_rules_that_pull_back_step_by_step_are_given_the_clip(adjoint):
    settings = SolverSettings(adjoint=adjoint, backward_max_steps=2, backward_clip=0.5)
    assert settings.build_adjoint() == getattr(dq.adjoints, adjoint)(2, clip=0.5)


@pytest.mark.parametrize("method", NAMES["method"])
def test_every_method_takes_the_options_that_it_is_given(method):
    solution = jax.eval_shape(
        lambda z: SolverSettings(method).build_solver()(
            lambda z: 0.5 * z + 1, z, tol=1e-3, max_steps=3
        ),
        jnp.zeros((BATCH, 3)),
    )
    assert solution.value.shape == (BATCH, 3)


RUNS = {
    "implicit": SolverSettings("picard", backward_method="gmres"),
    "jacobian_free": SolverSettings("picard", adjoint="jacobian_free"),
    "neumann": SolverSettings("picard", adjoint="neumann"),
    "phantom": SolverSettings("picard", adjoint="phantom", backward_max_steps=2),
    "truncated": SolverSettings("picard", adjoint="truncated", backward_max_steps=1),
    "shine": SolverSettings("broyden", adjoint="shine", history=4),
    "reversible": SolverSettings("reversible", adjoint="reversible", damping=0.5),
    "unrolled": SolverSettings("picard", adjoint="unrolled"),
}


def test_every_adjoint_is_run():
    assert sorted(RUNS) == sorted(NAMES["adjoint"])


@pytest.mark.parametrize("name", RUNS)
def test_an_adjoint_trains_a_model(name):
    settings = dataclasses.replace(RUNS[name], max_steps=10)
    # the larger program where the rule reads what the solver kept of it
    transformer = name in NEEDED
    model = (DEQTransformerLM if transformer else DEQTrellisNetLM)(
        SHAPE, settings, rngs=nnx.Rngs(0)
    )
    graph, parameters, rest = nnx.split(model, nnx.Param, ...)
    tokens = jnp.array([[0, 1], [2, 3]])

    @jax.jit
    def gradient(parameters, probe):
        def loss(parameters, probe):
            model = nnx.merge(graph, parameters, rest, copy=True)
            prediction = model(tokens, probe=probe)
            nll = model.negative_log_likelihood(prediction.states, (tokens + 1) % 5)
            return jnp.mean(nll), prediction.equilibrium.solution.stats

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(parameters, probe)

    (of_parameters, report), stats = gradient(parameters, dq.backward_probe(BATCH))
    assert (stats.residual < 0.1).all()
    for leaf in jax.tree.leaves(of_parameters):
        assert jnp.isfinite(leaf).all()
    cell = of_parameters["deq"]["cell"]
    assert jnp.abs(cell["up" if transformer else "kernel"]["kernel"][...]).max() > 1e-6
    assert jnp.isfinite(report.residual).all()


def test_mixed_precision_is_a_dtype_of_the_model():
    shape = dataclasses.replace(SHAPE, dtype="mixed")
    settings = SolverSettings("picard", max_steps=60, tol=1e-6, backward_method="gmres")
    layers = []
    for each in (SHAPE, shape):
        model = DEQTrellisNetLM(each, settings, rngs=nnx.Rngs(0))
        tokens = jnp.arange(2 * BATCH).reshape(BATCH, 2) % 5
        layers.append(model(tokens).equilibrium.solution)
    plain, mixed = layers
    assert 0 < mixed.stats.low_evaluations < mixed.stats.evaluations
    assert plain.stats.low_evaluations is None
    assert jnp.all(mixed.stats.residual <= 1e-6)
    for a, b in zip(*map(jax.tree.leaves, (plain.value, mixed.value)), strict=True):
        assert jnp.allclose(a, b, atol=1e-5)
    backward = settings.build_adjoint("mixed").backward.rule.solver
    assert backward.func is dq.solvers.gmres


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (SolverSettings("reversible", damping=0.5), "'mixed' does not go with the method"),
        (SolverSettings(adjoint="unrolled"), "'mixed' does not go with the adjoint 'unrolled'"),
        (
            SolverSettings("broyden", adjoint="shine"),
            "'mixed' does not go with the adjoint 'shine', which needs what broyden learns",
        ),
    ],
)
def test_mixed_precision_refuses_what_needs_every_step(settings, told):
    shape = dataclasses.replace(SHAPE, dtype="mixed")
    with pytest.raises(ValueError, match=told):
        DEQTrellisNetLM(shape, settings, rngs=nnx.Rngs(0))


def test_only_what_is_not_replaced_has_to_go_with_mixed_precision():
    own, rule = dq.solvers.picard, dq.adjoints.implicit()
    for settings in (SolverSettings("reversible"), SolverSettings(adjoint="unrolled")):
        assert settings.build_layer(lambda z, u: z, own, None, "mixed").solver is own
    unrolled = SolverSettings(adjoint="unrolled").build_layer(lambda z, u: z, None, rule, "mixed")
    assert unrolled.adjoint is rule
    with pytest.raises(ValueError, match="'mixed' does not go with the method 'reversible'"):
        SolverSettings("reversible").build_layer(lambda z, u: z, None, rule, "mixed")


def test_a_stack_of_layers_has_nothing_to_mix():
    with pytest.raises(ValueError, match="dtype 'mixed' is a way to solve"):
        TransformerXL(dataclasses.replace(SHAPE, dtype="mixed"), 1, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("dtype", "tol"), [("float32", None), ("bfloat16", 2**-7), ("mixed", None)]
)
def test_a_backward_tolerance_of_none_is_by_the_dtype_of_the_model(dtype, tol):
    rule = SolverSettings(backward_tol=None).build_adjoint(dtype)
    assert rule.controls[0] == tol
    assert SolverSettings(backward_tol=1e-4).build_adjoint(dtype).controls[0] == 1e-4
    reversible = SolverSettings("reversible", adjoint="reversible", backward_tol=None)
    assert reversible.build_adjoint().controls == dq.adjoints.reversible().controls
