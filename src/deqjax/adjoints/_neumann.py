"""The truncated Neumann series of the adjoint state."""

import dataclasses

from jax import lax

from deqjax._core import algebra
from deqjax._core.types import PerSample, Scalar, State
from deqjax._core.validate import check_count
from deqjax.adjoints._adjoint_state import Transpose, by_adjoint_state, no_steps
from deqjax.adjoints._clip import check_clip, cut
from deqjax.adjoints._pattern import Adjoint, Kept


def neumann(terms: int = 5, *, clip: Scalar | None = None) -> Adjoint:
    """Gradients by the first terms of the Neumann series of (I - J^T)^-1.

    With the cotangent v of z* and J = df/dz at z*, the adjoint state is

        w = v + J^T v + ... + (J^T)^(terms - 1) v

    (Geng et al., NeurIPS 2021, arXiv 2111.05177: the Neumann-series phantom gradient, undamped).
    One term is the Jacobian-free gradient; the limit, where the spectral radius is below 1, the
    implicit one. Cost: ``terms`` vjps, of one linearization.

    ``clip`` bounds it where f does not contract at z*: each product J^T w on the way,
    w <- v + J^T w, is cut per sample to a norm of at most clip * ||v||, so that
    ||w|| <= (1 + clip) ||v||. With two terms, the attractor language model trains so
    (arXiv 2605.12466).

    A probe shows ``terms - 1`` steps, ``Status.NOT_RUN`` (``DIVERGED`` if not finite) and the
    residual of w in w = J^T w + v, where nothing is cut.

    Args:
        terms: terms of the series, at least 1; a Python int.
        clip: most of ||J^T w|| / ||v||, 0 or more; None cuts nothing; may be traced.

    Returns:
        A rule for ``fixed_point(..., adjoint=...)``.

    Raises:
        ValueError, TypeError: a number of terms that is no whole number >= 1, or a clip that is
            negative or NaN.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> def loss(a):  # z = a z + 1, so z* = 1 / (1 - a), with the derivative 4 at a = 0.5
        ...     return deqjax.fixed_point(
        ...         lambda z, a: a * z + 1,
        ...         jnp.zeros((1, 1)),
        ...         a,
        ...         adjoint=deqjax.adjoints.neumann(3),
        ...         tol=1e-6,
        ...     ).value.sum()
        >>> print(f"{jax.grad(loss)(0.5):.2f}")
        3.50
    """
    check_count("terms", terms)
    check_clip(clip)
    return by_adjoint_state(_Series(int(terms) - 1), controls=clip)


@dataclasses.dataclass(frozen=True)
class _Series:
    """The series by Horner's rule."""

    steps: int

    def __call__(
        self, transpose: Transpose, cotangent: State, kept: Kept
    ) -> tuple[State, PerSample]:

        def horner(w: State, _: None) -> tuple[State, None]:
            return algebra.add(cut(transpose(w), cotangent, kept.controls), cotangent), None

        w, _ = lax.scan(horner, cotangent, length=self.steps)
        return w, no_steps(cotangent) + self.steps
