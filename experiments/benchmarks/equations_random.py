"""Random maps of known spectral radius: z = W z + b and z = tanh(W z + b).

W has independent normal entries, scaled to the radius; the equilibrium models of this library are
of the second kind (Bai, Kolter & Koltun 2019), and backward solves of the first.
"""

import jax.numpy as jnp
import numpy as np

from equations import Problem, from_zero

SIZES = (8, 24, 64)
SEEDS = (0, 1)


def linear(z, args):
    """W z + b."""
    matrix, shift = args
    return matrix @ z + shift


def saturated(z, args):
    """tanh(W z + b)."""
    return jnp.tanh(linear(z, args))


def draw(size: int, radius: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """W and b."""
    generator = np.random.default_rng([seed, size])
    matrix = generator.normal(size=(size, size))
    matrix *= radius / np.max(np.abs(np.linalg.eigvals(matrix)))
    return matrix, generator.normal(size=size)


def problems() -> list[Problem]:
    """Linear maps of four radii, saturated ones of five."""
    kinds = [
        ("random linear maps", linear, (0.5, 0.9, 1.5, 3.0)),
        ("random tanh maps", saturated, (0.5, 0.9, 1.5, 2.0, 3.0)),
    ]
    return [
        Problem(
            family,
            f"radius {radius}, {size} dimensions, seed {seed}",
            equation,
            from_zero(size),
            draw(size, radius, seed),
            True,
        )
        for family, equation, radii in kinds
        for radius in radii
        for size in SIZES
        for seed in SEEDS
    ]
