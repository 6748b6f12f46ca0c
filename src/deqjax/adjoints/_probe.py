"""The probe: how a backward pass, which returns only gradients, tells what it did."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from deqjax._core import algebra
from deqjax._core.sharding import filled_per_sample, placed_like
from deqjax._core.summary import summary, table
from deqjax._core.types import PerSample, State


class BackwardStats(NamedTuple):
    """How a backward solve went, per sample; the gradient of a `backward_probe`.

    Gradients are floating point, so the counts are too.

    Attributes:
        steps: (batch,) float32, updates of the adjoint state.
        residual: (batch,) float32, relative residual of the returned adjoint state.
        status: (batch,) float32 that compares equal to a [`deqjax.Status`][]; ``NOT_RUN`` (0)
            where no backward solve took place.
    """

    steps: PerSample
    residual: PerSample
    status: PerSample

    def summary(self) -> str:
        """How the samples' backward solves did, in a sentence; shapes inside of a transform."""
        return summary(self.steps, self.residual, self.status)

    def __repr__(self) -> str:
        return f"BackwardStats({self.summary()})"

    def _repr_html_(self) -> str:
        return table({"backward": self.summary()})


def backward_probe(batch: int) -> BackwardStats:
    """Zeros to pass as ``probe=``; the gradient with respect to them reports the backward solve.

    Use one probe for one solve, since gradients of a shared probe add up. Its values do not depend
    on the scale of the loss.

    Args:
        batch: the batch size of the solve on this device.

    Returns:
        [`BackwardStats`][deqjax.adjoints.BackwardStats] of zeros, leaves (batch,) float32.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> def loss(a, probe):
        ...     z0 = jnp.zeros((2, 3))
        ...     return deqjax.fixed_point(lambda z, a: a * z + 1, z0, a, probe=probe).value.sum()
        >>> gradient, report = jax.grad(loss, argnums=(0, 1))(0.5, deqjax.backward_probe(2))
        >>> print(deqjax.Status(int(report.status[0])).name, report.residual.shape)
        CONVERGED (2,)
    """
    return BackwardStats(*(jnp.zeros((batch,), jnp.float32) for _ in range(3)))


def check_probe(probe: BackwardStats | None, z0: State) -> BackwardStats | None:
    """Return the probe where the samples are, or raise if it does not fit the batch."""
    batch = algebra.batch_size(z0)
    if probe is None:
        return None
    if not isinstance(probe, BackwardStats):
        raise TypeError(
            f"probe must be deqjax.backward_probe({batch}), got {type(probe).__name__}."
        )
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(probe)}
    if shapes != {(batch,)}:
        raise ValueError(
            f"probe has leaves of shape {sorted(shapes)}, but z0 is a batch of {batch}: "
            f"use deqjax.backward_probe({batch})."
        )
    samples = filled_per_sample(z0, 0, jnp.float32)
    placed: BackwardStats = placed_like(probe, BackwardStats(samples, samples, samples))
    return placed
