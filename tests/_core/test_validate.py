"""Malformed problems: one clear sentence each, from every solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqjax.solvers import anderson, picard

pytestmark = pytest.mark.usefixtures("strict_promotion")

SOLVERS = pytest.mark.parametrize("solver", [picard, anderson])


def dict_state():
    return {"hidden": jnp.ones((2, 3)), "image": jnp.ones((2, 4, 4))}


def same(z):
    return z


def run(solver, f=same, z0=None, tol=1e-3, max_steps=5, **options):
    z0 = dict_state() if z0 is None else z0
    return solver(f, z0, tol=tol, max_steps=max_steps, **options)


@SOLVERS
def test_a_changed_shape_names_the_leaf(solver):
    with pytest.raises(ValueError, match=r"shape of z\['image'\] from \(2, 4, 4\) to \(2, 4, 2\)"):
        run(solver, lambda z: z | {"image": z["image"][:, :, :2]})


@SOLVERS
def test_a_changed_dtype_names_the_leaf(solver):
    with pytest.raises(TypeError, match=r"dtype of z\['hidden'\] from float32 to bfloat16"):
        run(solver, lambda z: z | {"hidden": z["hidden"].astype(jnp.bfloat16)})


@SOLVERS
def test_a_changed_structure_is_refused(solver):
    with pytest.raises(TypeError, match="structure of z"):
        run(solver, lambda z: {"hidden": z["hidden"]})


@SOLVERS
@pytest.mark.parametrize(
    ("z0", "error", "words"),
    [
        ({"a": jnp.ones((0, 3))}, ValueError, "empty batch"),
        ({"a": jnp.float32(1)}, ValueError, r"z0\['a'\] is a scalar"),
        ({"a": jnp.ones((2, 3)), "b": jnp.ones((3, 3))}, ValueError, r"""z0\['b'\]": 3"""),
        ({"a": jnp.ones((2, 3), jnp.int32)}, TypeError, r"z0\['a'\] has dtype int32"),
        ({"a": jnp.ones((2, 3), jnp.complex64)}, TypeError, r"z0\['a'\] has dtype complex64"),
        ({}, ValueError, "no array leaves"),
    ],
    ids=["empty", "scalar", "batches", "integer", "complex", "leafless"],
)
def test_a_malformed_state_is_refused(solver, z0, error, words):
    with pytest.raises(error, match=words):
        run(solver, z0=z0)


@SOLVERS
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"max_steps": 0}, ValueError, "max_steps must be at least 1, got 0"),
        ({"max_steps": 2.5}, TypeError, "max_steps must be a whole number, got 2.5"),
        ({"max_steps": np.inf}, TypeError, "max_steps must be a whole number, got inf"),
        ({"max_steps": jnp.float32(3)}, TypeError, "max_steps must be a whole number"),
        ({"max_steps": np.ones(3, int)}, ValueError, r"max_steps .* each of the 2 samples.*\(3,\)"),
        ({"max_steps": np.array([3, 0])}, ValueError, "max_steps must be at least 1"),
        ({"min_steps": -1}, ValueError, "min_steps must be at least 0, got -1"),
        ({"norm": "leafs"}, ValueError, "norm must be 'state' or 'leaf', got 'leafs'"),
        ({"tol": -1e-3}, ValueError, "tol must be zero or positive, got -0.001"),
        ({"tol": np.nan}, ValueError, "tol must be zero or positive, got nan"),
        ({"tol": np.ones(3)}, ValueError, "tol must be one number or one for each of the 2"),
        ({"tol": np.array([1.0, -1.0])}, ValueError, "tol must be zero or positive"),
        ({"stop": "relativ"}, ValueError, "stop must be 'relative' or 'absolute', got 'relativ'"),
        ({"trace": -1}, ValueError, "trace must be .* got -1"),
        ({"trace": True}, ValueError, "trace must be .* got True"),
    ],
    ids=str,
)
def test_a_wrong_option_is_refused(solver, options, error, words):
    with pytest.raises(error, match=words):
        run(solver, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"history": 0}, "history must be at least 1, got 0"),
        ({"ridge": -1e-5}, "ridge must be zero or positive, got -1e-05"),
    ],
)
def test_a_wrong_option_of_anderson_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        run(anderson, **options)


def test_differentiable_mode_refuses_a_run_time_max_steps():
    def steps(max_steps):
        return run(picard, max_steps=max_steps, differentiable=True).stats.steps

    with pytest.raises(TypeError, match="max_steps as a Python int"):
        jax.jit(steps)(5)


def test_weakly_typed_and_numpy_states_are_taken():
    solution = picard(lambda z: 0.5 * z, np.ones((2, 3), np.float32), tol=1e-3, max_steps=5)
    assert solution.value.dtype == jnp.float32
