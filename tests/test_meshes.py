"""Meshes: what is sharded stays so, and devices meet only where they must."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import deqjax as dq
from deqjax.adjoints import implicit, phantom, shine
from deqjax.solvers import anderson, broyden, gmres, jaxopt, newton_krylov, picard, reversible

BATCH, SIZE = 8, 6
RNG = np.random.default_rng(0)
WEIGHT = np.asarray(0.2 * RNG.normal(size=(SIZE, SIZE)), np.float32)
INPUT = np.asarray(RNG.normal(size=(BATCH, SIZE)), np.float32)


def layer(z, weight, x):
    return jnp.tanh(z @ weight + x)


def solve(weight, x, solver=anderson, adjoint=None):
    return dq.fixed_point(
        layer, jnp.zeros_like(x), weight, x, solver=solver, adjoint=adjoint, tol=1e-5
    ).value


def gradient(weight, x, **options):
    return jax.grad(lambda w: jnp.sum(solve(w, x, **options) ** 2))(weight)


def placed(kind=AxisType.Explicit, spec=("data",)):
    """Weight and input on a mesh of two axes."""
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=2 * (kind,))
    return (
        jax.device_put(WEIGHT, NamedSharding(mesh, PartitionSpec())),
        jax.device_put(INPUT, NamedSharding(mesh, PartitionSpec(*spec))),
    )


def collectives(function, kind):
    """(in the entry, in loops): the results of the compiled program's collectives."""
    text = jax.jit(function).lower(*placed(kind)).compile().as_text()
    found = {True: [], False: []}
    for part in text.split("\n\n"):
        pattern = r"= (\S+) (?:all-\w+|reduce-scatter|collective-\w+)(?:-start)?\("
        found[part.lstrip().startswith("ENTRY")] += re.findall(pattern, part)
    return found[True], found[False]


KINDS = pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto], ids=lambda k: k.name)


@KINDS
@pytest.mark.parametrize(
    ("solver", "loops"),
    [
        (picard, 1),
        (partial(anderson, history=2), 1),
        (partial(broyden, rank=2), 1),
        (partial(broyden, rank=2, line_search=True), 1),
        (reversible, 1),
        (partial(newton_krylov, krylov=2), 3),
    ],
    ids=["picard", "anderson", "broyden", "line search", "reversible", "newton_krylov"],
)
def test_a_loop_asks_only_whether_any_sample_goes_on(solver, loops, kind):
    entry, inside = collectives(partial(solve, solver=solver), kind)
    # a linear solve inside of the loop asks for itself, before it starts and at each step
    assert set(inside) == {"pred[]"}
    assert len(inside) <= loops
    assert not entry


@KINDS
@pytest.mark.parametrize(
    ("options", "loops"),
    [
        ({}, 2),
        ({"solver": picard, "adjoint": implicit(partial(gmres, restart=2))}, 4),
        ({"solver": partial(broyden, rank=2), "adjoint": shine()}, 1),
    ],
    ids=["default", "gmres", "shine"],
)
def test_the_gradient_of_parameters_is_summed_once_after_the_loop(options, loops, kind):
    entry, inside = collectives(partial(gradient, **options), kind)
    assert [shape.split("{")[0] for shape in entry] == [f"f32[{SIZE},{SIZE}]"]
    assert set(inside) == {"pred[]"}
    assert len(inside) <= loops


@pytest.mark.parametrize(
    "function", [solve, gradient, partial(gradient, adjoint=phantom(3))],
    ids=["value", "gradient", "phantom"],
)  # fmt: skip
def test_the_inputs_alone_may_tell_the_mesh(function):
    # no jax.set_mesh: zeros made under jit do not know then what they stand beside
    np.testing.assert_allclose(
        jax.jit(function)(*placed()), jax.jit(function)(WEIGHT, INPUT), rtol=1e-4, atol=1e-5
    )


def test_features_may_be_sharded_too():
    _, x = placed(spec=("data", "model"))

    def shift(z, x):
        return 0.5 * jnp.tanh(z) + x

    def value(x):
        return dq.fixed_point(shift, jnp.zeros_like(x), x, tol=1e-5).value

    with jax.set_mesh(x.sharding.mesh):
        found = jax.jit(value)(x)
    assert found.sharding.spec == PartitionSpec("data", "model")
    np.testing.assert_allclose(found, jax.jit(value)(INPUT), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["spectral_radius", "spectral_norm", "jacobian_penalty"])
def test_estimates_of_the_jacobian(name):
    estimate = partial(getattr(dq, name), layer, key=jax.random.key(0))
    weight, x = placed()
    with jax.set_mesh(x.sharding.mesh):
        found = jax.jit(estimate)(x, weight, x)
    np.testing.assert_allclose(found, jax.jit(estimate)(INPUT, WEIGHT, INPUT), rtol=1e-4)


def test_a_probe_reports_where_the_samples_are():
    weight, x = placed()

    def report(probe, weight, x):
        return jnp.sum(dq.fixed_point(layer, jnp.zeros_like(x), weight, x, probe=probe).value)

    with jax.set_mesh(x.sharding.mesh):
        found = jax.jit(jax.grad(report))(dq.backward_probe(BATCH), weight, x)
    assert (found.status == dq.Status.CONVERGED).all()


def test_traces_and_trajectories():
    solver = partial(picard, trace=40, trajectory=(1, 3, 100))

    def rows(weight, x):
        solution = dq.fixed_point(layer, jnp.zeros_like(x), weight, x, solver=solver)
        return solution.stats.trace, solution.trajectory

    found, expected = jax.jit(rows)(*placed()), jax.jit(rows)(WEIGHT, INPUT)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), found, expected)


def test_a_layer_that_changes_the_sharding_is_refused():
    _, x = placed()
    spread = PartitionSpec(None, "data")
    with (
        jax.set_mesh(x.sharding.mesh),
        pytest.raises(TypeError, match=r"f changes the sharding of z from P.*'data'.* to P\(None"),
    ):
        jax.jit(lambda x: dq.fixed_point(lambda z: jax.sharding.reshard(z, spread), x).value)(x)


def test_jaxopt_is_refused():
    with pytest.raises(ValueError, match="JAXopt knows no meshes with Explicit axes"):
        jax.jit(partial(solve, solver=jaxopt))(*placed())
