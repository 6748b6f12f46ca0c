"""What is easily written in place of a solver or an adjoint gets a sentence, before compilation."""

import functools
import re

import jax.numpy as jnp
import pytest

import deqjax as dq
from deqjax import adjoints, solvers


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"solver": "anderson"}, "is a name: give the function itself, deqjax.solvers.anderson."),
        ({"solver": "andersen"}, "one of deqjax.solvers.anderson, deqjax.solvers.broyden, "),
        ({"solver": 3}, "solver must be a function"),
        ({"adjoint": "implicit"}, "give the rule itself, deqjax.adjoints.implicit()."),
        ({"adjoint": "explicit"}, "one of deqjax.adjoints.implicit, "),
        ({"adjoint": 3}, "adjoint must be a rule of deqjax.adjoints or None, got 3"),
        ({"adjoint": functools.partial(adjoints.phantom, 3)}, "give deqjax.adjoints.phantom()."),
    ],
    ids=[
        "a solver's name",
        "no name",
        "no function",
        "an adjoint's name",
        "none",
        "no rule",
        "partial",
    ],
)
def test_a_slip_is_named(options, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        dq.fixed_point(lambda z: 0.5 * z, jnp.ones((2, 3)), **options)


NO_RULES = {"backward_probe", "backward_steps", "by_adjoint_state", "solve_forward"}


@pytest.mark.parametrize("name", [n for n in adjoints.__all__ if n.islower() and n not in NO_RULES])
def test_an_adjoint_that_was_not_called_is_named(name):
    with pytest.raises(TypeError, match=re.escape(f"give deqjax.adjoints.{name}().")):
        dq.fixed_point(lambda z: 0.5 * z, jnp.ones((2, 3)), adjoint=getattr(adjoints, name))


def test_a_solver_that_was_called_is_named():
    solution = solvers.picard(lambda z: 0.5 * z, jnp.ones((2, 3)), tol=0.1, max_steps=3)
    with pytest.raises(TypeError, match="solver is a Solution: give the function itself"):
        dq.fixed_point(lambda z: 0.5 * z, jnp.ones((2, 3)), solver=solution)


@pytest.mark.parametrize("adjoint", [None, adjoints.unrolled()], ids=["implicit", "unrolled"])
def test_a_solver_that_returns_no_solution_is_named(adjoint):
    def mine(f, z0, **options):
        return z0

    with pytest.raises(TypeError, match=r"the solver mine returned ArrayImpl|DynamicJaxprTracer"):
        dq.fixed_point(lambda z: 0.5 * z, jnp.ones((2, 3)), solver=mine, adjoint=adjoint)


def test_the_version_is_the_installed_one():
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", dq.__version__)
