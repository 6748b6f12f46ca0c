"""Small problems of other packages' tests, and scalars.

SciPy: the six functions of its tests of large-scale root finders, F to F6. KINSOL: the examples of
its user guide (Hindmarsh et al., ACM TOMS 2005): Ferraris & Tronconi's system and robot kinematics
from Floudas et al., Handbook of Test Problems (1999), Robertson's kinetics, a map in three unknowns
and a diagonal system.
"""

import jax.numpy as jnp
import numpy as np

from equations import Problem, from_zero


def scaled_cubic(x, _):
    """F1: -d x - 0.01 |x|^2 x."""
    return -jnp.array([3, 2, 1.5, 1, 0.5]) * x - 0.01 * jnp.sum(x**2) * x


def identity(x, _):
    """F2."""
    return x


def tridiagonal(x, _):
    """F3: linear and negative definite."""
    return jnp.array([[-2.0, 1, 0], [1, -2, 1], [0, 1, -2]]) @ x - jnp.array([1.0, 2, 3])


def powell(x, _):
    """F4: Powell's badly scaled function from another start."""
    return jnp.stack([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


def pressure_network(x, _):
    """F5: flows of equal pressure that add up to 4."""
    pressure = 0.5 * x**2
    return jnp.concatenate([pressure[1:] - pressure[0], jnp.sum(x, keepdims=True) - 4])


def preconditioned(x, _):
    """F6: two equations behind an approximate inverse of their Jacobian."""
    matrix = np.linalg.inv([[-4.256, 14.7], [0.8394989, 0.59964207]])
    rows = [(x[0] + 3) * (x[1] ** 5 - 7) + 18, jnp.sin(x[1] * jnp.exp(x[0]) - 1)]
    return -jnp.asarray(matrix) @ jnp.stack(rows)


def ferraris_tronconi(x, _):
    """Two roots in (0.25, 1) x (1.5, 2 pi)."""
    pi, e = jnp.pi, jnp.e
    return jnp.stack(
        [
            0.5 * jnp.sin(x[0] * x[1]) - 0.25 * x[1] / pi - 0.5 * x[0],
            (1 - 0.25 / pi) * (jnp.exp(2 * x[0]) - e) + e * x[1] / pi - 2 * e * x[0],
        ]
    )


def robot_kinematics(x, _):
    """Eight joints' sines and cosines."""
    a, b, c, d = x[0], x[1], x[2], x[3]
    motion = [
        0.004731 * a * c - 0.3578 * b * c - 0.1238 * a - 0.001637 * b - 0.9338 * d + x[6] - 0.3571,
        0.2238 * a * c + 0.7623 * b * c + 0.2638 * a - 0.07745 * b - 0.6734 * d - x[6] - 0.6022,
        x[5] * x[7] + 0.3578 * a + 0.004731 * b,
        -0.7623 * a + 0.2238 * b + 0.3461,
    ]
    circles = x[::2] ** 2 + x[1::2] ** 2 - 1
    return jnp.concatenate([jnp.stack(motion), circles])


def robertson(y, step):
    """An implicit Euler step of stiff kinetics from (1, 0, 0)."""
    slow, fast = 0.04 * y[0], 1e4 * y[1] * y[2]
    last = 3e7 * y[1] ** 2
    change = jnp.stack([fast - slow, slow - fast - last, last])
    return jnp.array([1.0, 0, 0]) + step * change


def three_unknowns(x, _):
    """Contracts near its root (1/2, 1, -pi/6)."""
    return jnp.stack(
        [
            jnp.cos((x[1] - 1) * x[2]) / 3 + 1 / 6,
            jnp.sqrt(x[0] ** 2 + jnp.sin(x[2]) + 1.06) / 9 + 0.9,
            -jnp.exp(-x[0] * (x[1] - 1)) / 20 - (10 * jnp.pi - 3) / 60,
        ]
    )


def squares(x, _):
    """u_i^2 = i^2."""
    return x**2 - jnp.arange(1, len(x) + 1) ** 2


SCALARS = {
    "cos z": (lambda z, _: jnp.cos(z), 0.0),
    "exp(-z)": (lambda z, _: jnp.exp(-z), 0.0),
    "1 + 1 / z": (lambda z, _: 1 + 1 / z, 1.0),
    "2 / z": (lambda z, _: 2 / z, 1.0),
    "1 - 3 z": (lambda z, _: 1 - 3 * z, 0.0),
    "logistic 3.2": (lambda z, _: 3.2 * z * (1 - z), 0.4),
    "10 exp(-z)": (lambda z, _: 10 * jnp.exp(-z), 1.0),
    "sin z + 1": (lambda z, _: jnp.sin(z) + 1, 0.0),
    "Kepler 0.99": (lambda z, _: 0.2 + 0.99 * jnp.sin(z), 0.0),
    "z / 2": (lambda z, _: z / 2, 1.0),
}


def problems() -> list[Problem]:
    """SciPy's, KINSOL's and scalars."""
    scipy = [
        (scaled_cubic, from_zero(5, 1)),
        (identity, np.arange(1.0, 7)),
        (tridiagonal, np.arange(1.0, 4)),
        (powell, np.array([-1.0, -2])),
        (pressure_network, np.array([2.0, 0, 2, 0])),
        (preconditioned, np.array([-0.5, 1.4])),
    ]
    found = [
        Problem("SciPy", f"F{number} {equation.__name__}", equation, start)
        for number, (equation, start) in enumerate(scipy, 1)
    ]
    low, high = np.array([0.25, 1.5]), np.array([1.0, 2 * np.pi])
    rows = [
        Problem("", "Ferraris-Tronconi, corner", ferraris_tronconi, low),
        Problem("", "Ferraris-Tronconi, middle", ferraris_tronconi, (low + high) / 2),
        Problem("", "robot kinematics", robot_kinematics, from_zero(8, 0.5**0.5)),
        Problem("", "Robertson, step 1e-4", robertson, np.eye(3)[0], 1e-4, True),
        Problem("", "Robertson, step 0.1", robertson, np.eye(3)[0], 0.1, True),
        Problem("", "three unknowns", three_unknowns, np.array([0.1, 0.1, -0.1]), (), True),
        Problem("", "squares", squares, 2.0 * np.arange(1, 9)),
    ]
    found += [row._replace(family="KINSOL") for row in rows]
    return found + [
        Problem("scalars", name, equation, np.array([start]), (), True)
        for name, (equation, start) in SCALARS.items()
    ]
