"""Jacobian-free backpropagation: the cotangent itself is the adjoint state."""

from deqjax._core.types import PerSample, State
from deqjax.adjoints._adjoint_state import Transpose, by_adjoint_state, no_steps
from deqjax.adjoints._pattern import Adjoint, Kept


def jacobian_free() -> Adjoint:
    """Gradients of one application of f at the fixed point, for the price of one vjp.

    With the cotangent v of z*, the gradient of the operands is (df/da)^T v: the implicit gradient
    with (I - J^T)^-1 replaced by the identity (Fung et al., AAAI 2022, arXiv 2103.12803). It is a
    descent direction where J contracts enough; its relative error can reach ||J||.

    A probe shows no steps, ``Status.NOT_RUN`` (``DIVERGED`` if not finite) and as its residual how
    far v is from solving w = J^T w + v.

    Returns:
        A rule for ``fixed_point(..., adjoint=...)``.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> def loss(a):  # z = a z + 1, so z* = 1 / (1 - a), with the derivative 4 at a = 0.5
        ...     return deqjax.fixed_point(
        ...         lambda z, a: a * z + 1,
        ...         jnp.zeros((1, 1)),
        ...         a,
        ...         adjoint=deqjax.adjoints.jacobian_free(),
        ...         tol=1e-6,
        ...     ).value.sum()
        >>> print(f"{jax.grad(loss)(0.5):.2f}")
        2.00
    """
    return by_adjoint_state(_cotangent)


def _cotangent(transpose: Transpose, cotangent: State, kept: Kept) -> tuple[State, PerSample]:
    del transpose, kept
    return cotangent, no_steps(cotangent)
