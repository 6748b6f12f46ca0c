"""All eigenvalues of a small layer's Jacobian."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deqjax._core import algebra
from deqjax._core.convolution import in_fast_layout
from deqjax._core.flatten import ravel, unravel
from deqjax._core.types import Map, State
from deqjax._core.validate import check_map, check_state

_MOST = 4096  # features: a dense Jacobian of 128 MiB in float64, and minutes of LAPACK


def jacobian_spectrum(f: Map, z: State, *args: Any) -> np.ndarray:
    """Every eigenvalue of each sample's Jacobian df/dz at z, densely.

    J is built column by column from Jacobian-vector products, all samples at once, and handed to
    LAPACK in float64. For layers of some hundred features: memory is batch x features^2, time grows
    with features^3. Of a large layer [`deqjax.spectral_radius`][] finds the largest eigenvalue
    without J.

    Args:
        f: ``f(z, *args) -> z'`` with the structure, shapes and dtypes of z.
        z: where to linearize, usually a fixed point; leaves (batch, ...), real floating point.
        *args: as for f.

    Returns:
        (batch, features) complex128, the largest modulus first; NaN for a sample whose J is not
        finite.

    Raises:
        ValueError, TypeError: a z that is no batch of real states, an f that changes its structure,
            shapes or dtypes, more than 4096 features, or a call under jit.

    Examples:
        >>> import jax.numpy as jnp
        >>> from deqjax.diagnostics import jacobian_spectrum
        >>> matrix = jnp.array([[0.0, -0.5], [0.5, 0.0]])  # a rotation: eigenvalues +- 0.5 i
        >>> abs(jacobian_spectrum(lambda z: z @ matrix, jnp.zeros((3, 2)))).round(3).tolist()
        [[0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((z, args))):
        raise TypeError(
            "jacobian_spectrum hands the Jacobian to LAPACK and cannot run inside jit, grad or "
            "vmap: call it on concrete arrays."
        )
    z = check_state(z)
    check_map(jax.eval_shape(f, z, *args), z)
    batch = algebra.batch_size(z)
    features = sum(leaf.size for leaf in jax.tree.leaves(z)) // batch
    if features > _MOST:
        raise ValueError(
            f"z has {features} features a sample, and jacobian_spectrum takes at most {_MOST}; use "
            "spectral_radius, which needs no dense Jacobian."
        )
    dtype = algebra.accumulation_dtype(z)

    @jax.jit
    def columns(z: State, args: Any) -> jax.Array:
        evaluate = in_fast_layout(lambda state: f(state, *args))

        def column(direction: jax.Array) -> jax.Array:
            tangent = unravel(jnp.broadcast_to(direction, (batch, features)), z)
            return ravel(jax.jvp(evaluate, (z,), (tangent,))[1], dtype)

        stacked: jax.Array = jax.lax.map(column, jnp.eye(features, dtype=dtype))
        return stacked  # (column, batch, row)

    jacobians = np.moveaxis(np.asarray(columns(z, args), np.float64), 0, 2)
    found = np.full((batch, features), np.nan, np.complex128)
    finite = np.all(np.isfinite(jacobians), axis=(1, 2))
    found[finite] = np.linalg.eigvals(jacobians[finite])
    order = np.argsort(-np.abs(found), axis=1)
    return np.take_along_axis(found, order, axis=1)
