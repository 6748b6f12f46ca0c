"""Integral and differential equations in differences, statistics, and a self-consistent field.

Chandrasekhar's H (Kelley 1995, section 5.6), Bratu's problem on a line and a square (Doedel's
AUTO; PETSc's ex5), the p-Laplacian (Barrett & Liu 1993), expectation maximization (Dempster, Laird
& Rubin 1977; its slowness is a fixed point's, Redner & Walker 1984), and the density of electrons
on a ring of sites that repel each other, in mean field.
"""

import jax
import jax.numpy as jnp
import numpy as np

from equations import Problem, from_zero, neighbours


def chandrasekhar(x, c):
    """H = 1 / (1 - c/2 int mu H / (mu + nu)), midpoint rule."""
    nodes = (jnp.arange(len(x)) + 0.5) / len(x)
    kernel = nodes[:, None] / (nodes[:, None] + nodes)
    return 1 / (1 - c / 2 * jnp.mean(kernel * x, axis=1))


def bratu_line(u, rate):
    """-u'' = rate exp(u), times h^2."""
    left, right = neighbours(u)
    return 2 * u - left - right - rate / (len(u) + 1) ** 2 * jnp.exp(u)


def bratu_integral(u, rate):
    """The same, inverted by its Green's function."""
    t = jnp.arange(1, len(u) + 1) / (len(u) + 1)
    green = jnp.minimum(t[:, None], t) * (1 - jnp.maximum(t[:, None], t)) / (len(u) + 1)
    return rate * green @ jnp.exp(u)


def bratu_square(u, rate):
    """-laplace u = rate exp(u) on the unit square, times h^2 / 4."""
    side = round(len(u) ** 0.5)
    grid = jnp.pad(u.reshape(side, side), 1)
    around = grid[:-2, 1:-1] + grid[2:, 1:-1] + grid[1:-1, :-2] + grid[1:-1, 2:]
    return u - (around.ravel() + rate / (side + 1) ** 2 * jnp.exp(u)) / 4


def p_laplacian(u, power):
    """-(|u'|^(p - 2) u')' = 1, times h, the slope's square raised by 1e-4."""
    h = 1 / (len(u) + 1)
    slope = jnp.diff(jnp.pad(u, 1)) / h
    flux = (slope**2 + 1e-4) ** (power / 2 - 1) * slope
    return -jnp.diff(flux) * h / 2 - h**2 / 2


def mixture(z, data):
    """One step of expectation maximization: logit of the share, two means, two log deviations."""
    share, means, widths = jax.nn.sigmoid(z[0]), z[1:3], jnp.exp(z[3:5])
    logs = jnp.log(jnp.stack([share, 1 - share])) - jnp.log(widths)
    logs = logs - (data[:, None] - means) ** 2 / (2 * widths**2)
    weights = jax.nn.softmax(logs, axis=1)
    total = jnp.sum(weights, axis=0)
    means = weights.T @ data / total
    spread = jnp.sum(weights * (data[:, None] - means) ** 2, axis=0) / total
    return jnp.concatenate([jnp.log(total[:1] / total[1:]), means, jnp.log(spread) / 2])


def density(rho, repulsion):
    """Density of the lowest half of the states of -laplace + potential + repulsion rho."""
    count = len(rho)
    hopping = jnp.eye(count, k=1) + jnp.eye(count, k=-1)
    potential = jnp.cos(2 * jnp.pi * jnp.arange(count) / count)
    _, states = jnp.linalg.eigh(jnp.diag(potential + repulsion * rho) - hopping)
    return jnp.sum(states[:, : count // 2] ** 2, axis=1)


def two_clusters(distance: float) -> np.ndarray:
    """200 points around two centers, the same at every call."""
    draw = np.random.default_rng(0)
    return np.concatenate([draw.normal(0, 1, 120), draw.normal(distance, 0.7, 80)])


def problems() -> list[Problem]:
    """From the starts that their literature takes."""
    found = [
        Problem("Chandrasekhar H", f"c = {c}", chandrasekhar, from_zero(32, 1), c, True)
        for c in (0.5, 0.9, 0.99, 0.999, 0.99999)
    ]
    for rate in (1.0, 3.0, 3.5):
        zero = from_zero(32)
        found.append(Problem("Bratu", f"line, {rate}", bratu_line, zero, rate))
        found.append(Problem("Bratu", f"integral, {rate}", bratu_integral, zero, rate, True))
    found += [
        Problem("Bratu", f"square, {rate}", bratu_square, from_zero(64), rate)
        for rate in (1.0, 5.0, 6.7)
    ]
    t = np.arange(1, 17) / 17
    found += [
        Problem("p-Laplacian", f"p = {p}", p_laplacian, t * (1 - t) / 2, p) for p in (1.5, 3.0, 4.0)
    ]
    guess = np.array([0.0, -1, 3, 0, 0])
    found += [
        Problem("EM mixture", f"distance {d}", mixture, guess, two_clusters(d), True)
        for d in (5.0, 3.0, 2.0)
    ]
    return found + [
        Problem("self-consistent field", f"U = {u}", density, from_zero(12, 0.5), u, True)
        for u in (0.5, 2.0, 4.0)
    ]
