"""The 23 systems that tests of nonlinear solvers share.

Numbers 1 to 14 are from Moré, Garbow & Hillstrom, "Testing unconstrained optimization software"
(ACM TOMS 1981), posed as systems with the signs of MINPACK's collection; 15 and 16 are
Hammarling's matrix square roots, 17 from Dennis & Schnabel (1983), 18 to 20 of singular Jacobians
(Kearfott), 21 from Freudenstein & Roth (J. ACM 1963), 22 from Boggs (SIAM J. Numer. Anal. 1971),
23 Chandrasekhar's equation (Kelley, Iterative Methods, 1995). NonlinearSolve.jl numbers them so.
"""

import jax.numpy as jnp
import numpy as np

from equations import Problem, from_zero, neighbours

SIZE = 10  # of the systems that have any size


def rosenbrock(x, _):
    """Root at ones."""
    return jnp.concatenate([1 - x[:1], 10 * (x[1:] - x[:-1] ** 2)])


def powell_singular(x, _):
    """Root at zero, of a Jacobian of rank 2."""
    return jnp.stack(
        [
            x[0] + 10 * x[1],
            5**0.5 * (x[2] - x[3]),
            (x[1] - 2 * x[2]) ** 2,
            10**0.5 * (x[0] - x[3]) ** 2,
        ]
    )


def powell_badly_scaled(x, _):
    """Root near (1.1e-5, 9.1)."""
    return jnp.stack([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


def wood(x, _):
    """The gradient of Wood's function."""
    a, b = x[1] - x[0] ** 2, x[3] - x[2] ** 2
    return jnp.stack(
        [
            -200 * x[0] * a - (1 - x[0]),
            200 * a + 20.2 * (x[1] - 1) + 19.8 * (x[3] - 1),
            -180 * x[2] * b - (1 - x[2]),
            180 * b + 20.2 * (x[3] - 1) + 19.8 * (x[1] - 1),
        ]
    )


def helical_valley(x, _):
    """Root at (1, 0, 0)."""
    angle = jnp.arctan2(x[1], x[0]) / (2 * jnp.pi)
    radius = jnp.sqrt(x[0] ** 2 + x[1] ** 2)
    return jnp.stack([10 * (x[2] - 10 * angle), 10 * (radius - 1), x[2]])


def watson(x, _):
    """The gradient of half of Watson's sum of squares."""
    t = jnp.arange(1, 30) / 29
    degrees = jnp.arange(len(x))
    powers = t[:, None] ** degrees
    # the derivative of sum x_j t^j
    slopes = degrees[1:] * t[:, None] ** degrees[:-1]
    value = powers @ x
    residual = slopes @ x[1:] - value**2 - 1
    inner = jnp.pad(slopes, ((0, 0), (1, 0))) - 2 * value[:, None] * powers
    last = x[1] - x[0] ** 2 - 1
    end = jnp.zeros_like(x).at[0].set(x[0] - 2 * x[0] * last).at[1].add(last)
    return residual @ inner + end


def chebyquad(x, _):
    """Nodes of Chebyshev's quadrature on (0, 1)."""
    y, count = 2 * x - 1, len(x)
    before, now, rows = jnp.ones_like(y), y, []
    for degree in range(1, count + 1):
        exact = 0.0 if degree % 2 else -1 / (degree**2 - 1)
        rows.append(jnp.mean(now) - exact)
        before, now = now, 2 * y * now - before
    return jnp.stack(rows)


def brown_almost_linear(x, _):
    """All rows but the last are linear."""
    linear = x + jnp.sum(x) - (len(x) + 1)
    return linear.at[-1].set(jnp.prod(x) - 1)


def _grid(count):
    return jnp.arange(1, count + 1) / (count + 1)


def discrete_boundary_value(x, _):
    """Solve u'' = (u + t + 1)^3 / 2 in differences."""
    t, h = _grid(len(x)), 1 / (len(x) + 1)
    left, right = neighbours(x)
    return 2 * x - left - right + h**2 * (x + t + 1) ** 3 / 2


def discrete_integral(x, _):
    """The same by its Green's function."""
    t, h = _grid(len(x)), 1 / (len(x) + 1)
    cubes = (x + t + 1) ** 3
    below = jnp.cumsum(t * cubes)
    above = jnp.sum((1 - t) * cubes) - jnp.cumsum((1 - t) * cubes)
    return x + h / 2 * ((1 - t) * below + t * above)


def trigonometric(x, _):
    """Several roots."""
    i = jnp.arange(1, len(x) + 1)
    return len(x) - jnp.sum(jnp.cos(x)) + i * (1 - jnp.cos(x)) - jnp.sin(x)


def variably_dimensioned(x, _):
    """Root at ones."""
    i = jnp.arange(1, len(x) + 1)
    total = jnp.sum(i * (x - 1))
    return x - 1 + i * total * (1 + 2 * total**2)


def broyden_tridiagonal(x, _):
    """Broyden (Math. Comp. 1965)."""
    left, right = neighbours(x)
    return (3 - 2 * x) * x - left - 2 * right + 1


def broyden_banded(x, _):
    """Five neighbours below, one above."""
    count = len(x)
    i, j = np.mgrid[:count, :count]
    near = jnp.asarray((j >= i - 5) & (j <= i + 1) & (i != j), x.dtype)
    return x * (2 + 5 * x**2) + 1 - near @ (x * (1 + x))


def square_root(x, target):
    """X X = A, row by row."""
    matrix = x.reshape(target.shape)
    return (matrix @ matrix - target).ravel()


def dennis_schnabel(x, _):
    """Roots at (3, 0) and (0, 3)."""
    return jnp.stack([x[0] + x[1] - 3, x[0] ** 2 + x[1] ** 2 - 9])


def sample_18(x, _):
    """Singular at its root, zero."""

    def ratio(s):
        safe = jnp.where(s == 0, 1, s)
        return jnp.where(s == 0, 0, (1 - jnp.exp(-(safe**2))) / safe)

    return jnp.stack([x[1] ** 2 * ratio(x[0]), x[0] * ratio(x[1])])


def sample_19(x, _):
    """A triple root at zero."""
    return x * jnp.sum(x**2)


def double_root(x, _):
    """Solve x (x - 5)^2 = 0."""
    return x * (x - 5) ** 2


def freudenstein_roth(x, _):
    """Root at (5, 4), beyond a local minimum of |F|."""
    return jnp.stack(
        [
            x[0] - x[1] ** 3 + 5 * x[1] ** 2 - 2 * x[1] - 13,
            x[0] + x[1] ** 3 + x[1] ** 2 - 14 * x[1] - 29,
        ]
    )


def boggs(x, _):
    """Three roots."""
    return jnp.stack([x[0] ** 2 - x[1] + 1, x[0] - jnp.cos(jnp.pi * x[1] / 2)])


def chandrasekhar(x, c):
    """H (1 - c/2 int mu H / (mu + nu)) = 1 by the midpoint rule."""
    nodes = (jnp.arange(len(x)) + 0.5) / len(x)
    kernel = nodes[:, None] / (nodes[:, None] + nodes)
    return x - 1 / (1 - c / 2 * jnp.mean(kernel * x, axis=1))


def problems() -> list[Problem]:
    """All 23 from their usual starts."""
    t = np.arange(1, SIZE + 1) / (SIZE + 1)
    nearly_zero = 1e-4 * np.eye(2) + np.eye(2, k=1)
    three = 1e-4 * np.eye(3)
    three[0, 1] = 1
    listed = [
        (rosenbrock, np.r_[-1.2, np.ones(SIZE - 1)]),
        (powell_singular, [3, -1, 0, 1]),
        (powell_badly_scaled, [0, 1]),
        (wood, [-3, -1, -3, -1]),
        (helical_valley, [-1, 0, 0]),
        (watson, from_zero(2)),
        (chebyquad, np.arange(1, 6) / 6),
        (brown_almost_linear, from_zero(SIZE, 0.5)),
        (discrete_boundary_value, t * (t - 1)),
        (discrete_integral, t * (t - 1)),
        (trigonometric, from_zero(SIZE, 1 / SIZE)),
        (variably_dimensioned, 1 - np.arange(1, SIZE + 1) / SIZE),
        (broyden_tridiagonal, from_zero(SIZE, -1)),
        (broyden_banded, from_zero(SIZE, -1)),
        (square_root, [1, 0, 0, 1], nearly_zero),
        (square_root, np.eye(3).ravel(), three),
        (dennis_schnabel, [1, 5]),
        (sample_18, [2, 2]),
        (sample_19, [3, 3]),
        (double_root, [1]),
        (freudenstein_roth, [0.5, -2]),
        (boggs, [1, 0]),
        (chandrasekhar, from_zero(SIZE, 1), 0.9),
    ]
    return [
        Problem(
            "standard systems",
            f"p{number} {equation.__name__}",
            equation,
            np.asarray(start, np.float64),
            *args,
        )
        for number, (equation, start, *args) in enumerate(listed, 1)
    ]
