"""Estimates of the Jacobian J = df/dz at a point, matrix-free.

The penalty keeps a model stable while it trains; spectral radius and spectral norm tell how stable
it is. They work on any function of the signature ``f(z, *args)``, so the same penalty regularizes
an input-output Jacobian.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from deqjax import _tree
from deqjax._types import Map, PerSample, State
from deqjax.solvers._validate import check_count


def jacobian_penalty(
    f: Map,
    z: State,
    *args: Any,
    key: jax.Array,
    samples: int = 1,
    mode: Literal["jvp", "vjp"] = "jvp",
    distribution: Literal["normal", "rademacher"] = "normal",
) -> jax.Array:
    """Estimate ||J_f(z)||_F^2 / dim(z), averaged over the batch, differentiable in ``args``.

    Hutchinson's estimator with probes v of unit covariance: E ||J v||^2 = ||J||_F^2 (Bai, Koltun &
    Kolter, ICML 2021, section 4.1, there with v^T J: ``mode="vjp"``). z counts as a constant, so no
    gradient flows into the solve.

    Args:
        f: ``f(z, *args) -> z'``.
        z: where to linearize, usually a fixed point; leaves (batch, ...).
        *args: as for f; what f closes over gets gradients too.
        key: a JAX random key for the probes.
        samples: probes to average; the variance falls as 1 / samples.
        mode: "jvp" differentiates a forward derivative (reverse over forward: one pass less and no
            stored backward pass); "vjp" a backward one. Equal in expectation.
        distribution: of the entries of v, "normal" or "rademacher" (signs: smaller variance).

    Returns:
        () float32 (float64 for float64 z).
    """
    check_count("samples", samples)
    if mode not in ("jvp", "vjp"):
        raise ValueError(f"mode must be 'jvp' or 'vjp', got {mode!r}.")
    if distribution not in ("normal", "rademacher"):
        raise ValueError(f"distribution must be 'normal' or 'rademacher', got {distribution!r}.")
    z = lax.stop_gradient(z)
    size = sum(leaf.size for leaf in jax.tree.leaves(z))

    def evaluate(state: State) -> State:
        return f(state, *args)

    if mode == "jvp":

        def product(v: State) -> State:
            return jax.jvp(evaluate, (z,), (v,))[1]
    else:
        _, pull = jax.vjp(evaluate, z)

        def product(v: State) -> State:
            return pull(v)[0]

    def estimate(key: jax.Array) -> jax.Array:
        image = product(_random_like(key, z, distribution))
        total: jax.Array = jnp.sum(_tree.dot(image, image)) / size
        return total

    if samples == 1:
        return estimate(key)
    return jnp.mean(lax.map(estimate, jax.random.split(key, samples)))


def spectral_radius(
    f: Map, z: State, *args: Any, key: jax.Array, iterations: int = 30
) -> PerSample:
    """Estimate each sample's spectral radius |lambda_max(J_f(z))|.

    Power iteration brings a random vector into the leading invariant subspace; the eigenvalues of J
    restricted to the last two-dimensional Krylov space (Rayleigh-Ritz; Golub & Van Loan, Matrix
    Computations, section 10.1) then give a leading complex pair as well as a real eigenvalue.
    Exact in the limit of many iterations if at most two eigenvalues share the largest modulus. In
    float32 a Jacobian whose norm is over about 10 times its radius needs float64.
    Cost: iterations + 2 Jacobian-vector products.

    Args:
        f: ``f(z, *args) -> z'``.
        z: where to linearize; leaves (batch, ...).
        *args: as for f.
        key: a JAX random key for the start vector.
        iterations: power iterations before the restriction.

    Returns:
        (batch,) float32 (float64 for float64 z), without gradient.
    """
    check_count("iterations", iterations)
    product, start = _linear_map(f, z, args, key)

    def body(v: State, _: None) -> tuple[State, None]:
        return _normalized(product(v)), None

    first, _ = lax.scan(body, _normalized(start), length=iterations)
    image = product(first)
    along = _tree.dot(first, image)
    rest = _tree.subtract(image, _tree.scale(along, first))
    height = _tree.norm(rest)
    second = _normalized(rest)
    image_two = product(second)
    # J restricted to span(first, second): [[along, cross], [height, across]]
    cross, across = _tree.dot(first, image_two), _tree.dot(second, image_two)
    # an image parallel to the start is an eigenvector, whose rest is rounding and spans nothing
    alone = height <= 16 * jnp.finfo(height.dtype).eps * jnp.abs(along)
    radius = jnp.where(alone, jnp.abs(along), _largest_modulus(along, cross, height, across))
    return lax.stop_gradient(radius)


def spectral_norm(f: Map, z: State, *args: Any, key: jax.Array, iterations: int = 30) -> PerSample:
    """Estimate each sample's spectral norm ||J_f(z)||_2 by power iteration on J^T J.

    A lower bound that grows with the iterations. Cost: iterations + 1 products with J and with J^T.

    Args:
        f: ``f(z, *args) -> z'``.
        z: where to linearize; leaves (batch, ...).
        *args: as for f.
        key: a JAX random key for the start vector.
        iterations: power iterations.

    Returns:
        (batch,) float32 (float64 for float64 z), without gradient.
    """
    check_count("iterations", iterations)
    product, start = _linear_map(f, z, args, key)
    transpose = jax.linear_transpose(product, start)

    def body(v: State, _: None) -> tuple[State, None]:
        (back,) = transpose(product(v))
        return _normalized(back), None

    leading, _ = lax.scan(body, _normalized(start), length=iterations)
    return lax.stop_gradient(_tree.norm(product(leading)))


def _linear_map(
    f: Map, z: State, args: tuple[Any, ...], key: jax.Array
) -> tuple[Callable[[State], State], State]:
    """The product with J, linearized once and without gradients, and a random vector."""
    z, args = lax.stop_gradient((z, args))
    _, product = jax.linearize(lambda state: f(state, *args), z)
    return product, _random_like(key, z, "normal")


def _largest_modulus(a: PerSample, b: PerSample, c: PerSample, d: PerSample) -> PerSample:
    """Largest |eigenvalue| of [[a, b], [c, d]]."""
    half_trace, half_gap = (a + d) / 2, (a - d) / 2
    discriminant = half_gap**2 + b * c
    root = jnp.sqrt(jnp.abs(discriminant))
    real = jnp.abs(half_trace) + root
    return jnp.where(discriminant >= 0, real, jnp.hypot(half_trace, root))


def _normalized(v: State) -> State:
    length = _tree.norm(v)
    return _tree.scale(1 / jnp.where(length > 0, length, 1), v)


def _random_like(key: jax.Array, z: State, distribution: str) -> State:
    draw = jax.random.normal if distribution == "normal" else jax.random.rademacher
    leaves, structure = jax.tree.flatten(z)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure, [draw(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    )
