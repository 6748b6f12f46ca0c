"""Adjoints that a user writes, by the public means for it, against the library's own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import deqjax as dq
from deqjax.adjoints import by_adjoint_state, jacobian_free, neumann, solve_forward
from deqjax.solvers import picard

pytestmark = pytest.mark.usefixtures("float64", "strict_promotion")

MATRIX = 0.4 * np.random.default_rng(0).normal(size=(3, 3))


def layer(z, matrix, step=None):
    """A dict state, and an f that changes by its step if it sees one."""
    slope = 1.0 if step is None else 1 / (1 + step.astype(jnp.float64))
    return {"a": jnp.tanh(slope * z["b"] @ matrix + 1), "b": jnp.sin(z["a"] @ matrix)}


def gradient(adjoint, numbered=False, probe=None):
    def loss(matrix, probe):
        z0 = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((2, 3))}
        solution = dq.fixed_point(
            layer, z0, matrix, solver=picard, adjoint=adjoint, tol=0.0, max_steps=6,
            numbered=numbered, probe=probe,
        )  # fmt: skip
        return jnp.sum(solution.value["a"] ** 2)

    argnums = 0 if probe is None else (0, 1)
    return jax.jit(jax.grad(loss, argnums=argnums))(jnp.asarray(MATRIX), probe)


@dataclasses.dataclass(frozen=True)
class TwoTerms:
    """v + weight J^T v."""

    def __call__(self, transpose, v, kept):
        w = jax.tree.map(lambda a, b: a + kept.controls * b, v, transpose(v))
        return w, jnp.ones(len(v["a"]), jnp.int32)


@pytest.mark.parametrize("numbered", [False, True])
def test_a_rule_for_the_adjoint_state(numbered):
    probe = dq.backward_probe(2)
    found = gradient(by_adjoint_state(TwoTerms(), controls=1.0), numbered, probe)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12),
        found,
        gradient(neumann(2), numbered, probe),
    )
    none = gradient(by_adjoint_state(TwoTerms(), controls=0.0), numbered)
    np.testing.assert_allclose(none, gradient(jacobian_free(), numbered), rtol=1e-12)


def one_step(f, z0, operands, *, solver, tol, max_steps, probe):
    held = jax.lax.stop_gradient((z0, operands))
    solution = solve_forward(f, *held, solver=solver, tol=tol, max_steps=max_steps)
    through = jax.lax.stop_gradient(solution.value)
    value = jax.tree.map(  # the value of z*, the gradient of f there
        lambda z, fz: z + fz - jax.lax.stop_gradient(fz),
        through,
        f(through, f.at_end(operands, solution)),
    )
    return solution._replace(value=value)


@pytest.mark.parametrize("numbered", [False, True])
def test_a_function_that_solves_and_differentiates(numbered):
    found = gradient(one_step, numbered)
    np.testing.assert_allclose(found, gradient(jacobian_free(), numbered), rtol=1e-12)


def test_equal_rules_make_equal_adjoints():
    assert by_adjoint_state(TwoTerms()) == by_adjoint_state(TwoTerms())
    assert neumann(3, clip=1.0) == neumann(3, clip=1.0) != neumann(3)
