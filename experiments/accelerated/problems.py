"""Fixed points whose value and gradient NumPy knows in float64, without the code that is checked.

z = g(z A^T + b), with g the identity or tanh and A symmetric of spectral radius 0.9. The state is a
dictionary of two leaves, and the loss looks at one of them: where rules for gradients slip.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

RADIUS = 0.9
Array = NDArray[np.float64]


class Problem(NamedTuple):
    """A map, and all that is known of its fixed point.

    Attributes:
        name: for the record.
        f: ``f(z, matrix, offset) -> z'``, z of leaves "left" and "right", (batch, n / 2) each.
        matrix: (n, n).
        offset: (batch, n).
        cotangent: (batch, n) of the loss <cotangent, z*>; zero for the leaf "right".
        value: (batch, n).
        gradients: of the loss in matrix and offset.
    """

    name: str
    f: Callable[..., Any]
    matrix: Array
    offset: Array
    cotangent: Array
    value: Array
    gradients: tuple[Array, Array]


def problems(tiny: bool) -> list[Problem]:
    """The linear and the curved one; the first is left out of a tiny trial."""
    rows, size = (3, 8) if tiny else (64, 256)
    both = [
        _problem("linear", lambda y: y, np.array, np.ones_like, rows, size),
        _problem("tanh", jnp.tanh, np.tanh, lambda y: 1 - np.tanh(y) ** 2, rows, size),
    ]
    return both[1:] if tiny else both


def split(flat: Any) -> dict[str, Any]:
    """(batch, n) as a state."""
    half = flat.shape[-1] // 2
    return {"left": flat[:, :half], "right": flat[:, half:]}


def joined(state: dict[str, Any]) -> Any:
    """The inverse of `split`."""
    return jnp.concatenate([state["left"], state["right"]], axis=-1)


def _problem(name, g, np_g, slope, rows: int, size: int) -> Problem:
    draw = np.random.default_rng(0)
    matrix = _with_radius(size, draw)
    offset = draw.normal(size=(rows, size))
    cotangent = draw.normal(size=(rows, size))
    cotangent[:, size // 2 :] = 0

    def f(z, matrix, offset):
        return split(g(joined(z) @ matrix.T + offset))

    value = _solved(np_g, slope, matrix, offset)
    slopes = slope(value @ matrix.T + offset)
    identity = np.eye(size)
    # per sample: w = J^T w + v with J = diag(slope) A
    adjoint = [
        np.linalg.solve(identity - (s[:, None] * matrix).T, v)
        for s, v in zip(slopes, cotangent, strict=True)
    ]
    pulled = slopes * np.stack(adjoint)
    return Problem(name, f, matrix, offset, cotangent, value, (pulled.T @ value, pulled))


def _with_radius(size: int, draw: np.random.Generator) -> Array:
    """Symmetric (n, n), eigenvalues of both signs up to 0.5 and one of 0.9."""
    basis, _ = np.linalg.qr(draw.normal(size=(size, size)))
    eigenvalues = np.append(np.linspace(-0.5, 0.5, size - 1), RADIUS)
    found: Array = basis @ np.diag(eigenvalues) @ basis.T
    return found


def _solved(g, slope, matrix: Array, offset: Array) -> Array:
    """By Newton's method, sample by sample, to rounding."""
    z, identity = np.zeros_like(offset), np.eye(len(matrix))
    for _ in range(50):
        y = z @ matrix.T + offset
        rest = g(y) - z
        if np.abs(rest).max() < 1e-13:
            return z
        jacobians = identity - slope(y)[:, :, None] * matrix
        z = z + np.linalg.solve(jacobians, rest[:, :, None])[:, :, 0]
    raise ArithmeticError("Newton's method found no fixed point.")
