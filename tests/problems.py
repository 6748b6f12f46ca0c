"""Analytic fixed points, the one table behind the tests of all solvers and all adjoints.

Everything is numpy in float64, solved by LAPACK or scipy: none of the code under test is used.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize

BATCH = 4
SIZE = 6


@dataclass(frozen=True)
class Problem:
    """z* = f(z*, *args), with what is known about it."""

    name: str
    f: Callable[..., Any]
    z0: Any  # leaves (batch, ...)
    args: tuple[Any, ...]
    solution: Any  # like z0
    contracts: bool  # whether Picard iteration converges
    matrix: np.ndarray | None = None  # (n, n) Jacobian of a linear map on raveled states

    def cast(self, dtype):
        """z0 and args as JAX arrays of a dtype."""
        return jax.tree.map(lambda x: jnp.asarray(x, dtype), (self.z0, self.args))

    def dense_gradient(self, cotangent):
        """Gradients of <cotangent, z*> in the matrix and the offset, by a dense solve."""
        adjoint = np.linalg.solve(np.eye(len(self.matrix)) - self.matrix.T, ravel(cotangent).T).T
        return adjoint.T @ ravel(self.solution), adjoint


def ravel(state):
    """(batch, n): each sample's leaves side by side."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(state)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def affine(z, matrix, offset):
    return z @ matrix.T + offset


def affine_dict(z, matrix, offset):
    """The leaves coupled block by block; z: hidden (batch, 3) and image (batch, 2, 2)."""
    hidden, image = z["hidden"], z["image"]
    both = jnp.concatenate([hidden, image.reshape(len(image), 4)], axis=1) @ matrix.T
    return {
        "hidden": both[:, :3] + offset["hidden"],
        "image": both[:, 3:].reshape(image.shape) + offset["image"],
    }


def tanh_layer(z, matrix, offset):
    return jnp.tanh(z @ matrix.T + offset)


def cosine(z, slope, offset):
    return slope * jnp.cos(z) + offset


def with_radius(radius, size=SIZE, seed=0):
    """Symmetric (size, size) matrix with eigenvalues of both signs and the given radius."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    eigenvalues = np.linspace(-0.8, 1, size) * radius
    return basis @ np.diag(eigenvalues) @ basis.T


def non_normal(radius, size=SIZE, seed=0):
    """Upper triangular (size, size): radius on the diagonal, a 2-norm well above 1."""
    rng = np.random.default_rng(seed)
    return radius * np.eye(size) + np.triu(rng.uniform(0.5, 1, (size, size)), 1)


def linear(name, matrix, contracts):
    rng = np.random.default_rng(1)
    offset = rng.normal(size=(BATCH, len(matrix)))
    solution = np.linalg.solve(np.eye(len(matrix)) - matrix, offset.T).T
    return Problem(
        name, affine, np.zeros_like(offset), (matrix, offset), solution, contracts, matrix
    )


def coupled_dict():
    rng = np.random.default_rng(2)
    matrix = with_radius(0.7, size=7, seed=2)

    def state(flat):
        return {"hidden": flat[:, :3], "image": flat[:, 3:].reshape(-1, 2, 2)}

    offset = rng.normal(size=(BATCH, 7))
    solution = state(np.linalg.solve(np.eye(7) - matrix, offset.T).T)
    args = (matrix, state(offset))
    return Problem("dict", affine_dict, state(0 * offset), args, solution, True, matrix)


def tanh_problem():
    matrix = with_radius(0.9, seed=3)
    offset = np.random.default_rng(3).normal(size=(BATCH, SIZE))
    solution = np.stack([_root(lambda z, b=b: np.tanh(matrix @ z + b) - z, b) for b in offset])
    return Problem("tanh", tanh_layer, np.zeros_like(offset), (matrix, offset), solution, True)


def cosine_problem():
    """One number per sample: leaves of shape (batch,)."""
    offset = np.linspace(-1, 1, BATCH)
    slope = np.array(0.6)
    solution = np.array([_root(lambda z, b=b: slope * np.cos(z) + b - z, [b])[0] for b in offset])
    return Problem("1-d", cosine, np.zeros_like(offset), (slope, offset), solution, True)


def _root(residual, start):
    found = scipy.optimize.root(residual, start, tol=1e-14)
    assert np.abs(found.fun).max() < 1e-13
    return found.x


LINEAR = {
    problem.name: problem
    for problem in (
        linear("radius 0.5", with_radius(0.5), contracts=True),
        linear("radius 0.9", with_radius(0.9), contracts=True),
        linear("radius 0.99", with_radius(0.99), contracts=True),
        linear("non-normal", non_normal(0.5), contracts=True),
        linear("radius 1.5", with_radius(1.5), contracts=False),
        coupled_dict(),
    )
}
PROBLEMS = {**LINEAR, **{p.name: p for p in (tanh_problem(), cosine_problem())}}
CONTRACTING = {name: problem for name, problem in PROBLEMS.items() if problem.contracts}
