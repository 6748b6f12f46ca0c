"""What a solver returns, and the words for how it ended."""

import enum
from typing import Any, NamedTuple

import jax
import numpy as np

from deqjax._core.summary import describe, summary, table
from deqjax._core.types import PerSample, State


class _ReadsOne(enum.EnumMeta):
    """Says what to do with an array of several statuses, where an enumeration takes one."""

    def __call__(cls, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(value, np.ndarray | jax.Array) and value.size != 1:
            raise ValueError(
                f"an array of shape {value.shape} is no single status: "
                "deqjax.Status.names(statuses) gives the names of all."
            )
        return super().__call__(value, *args, **kwargs)


class Status(enum.IntEnum, metaclass=_ReadsOne):
    """How a sample's solve ended.

    ``NOT_RUN`` is what a probe shows when no backward solve took place; a solver never reports it.
    ``PRECISION_LOST`` is reported by the backward pass of ``adjoints.reversible`` alone.

    Attributes:
        NOT_RUN: no solve took place.
        CONVERGED: the residual fell to the tolerance.
        STEP_LIMIT: ``max_steps`` were taken before that.
        DIVERGED: f(z) or its norm became infinite or NaN; the value is the last good iterate.
        PRECISION_LOST: the states rebuilt backward are not those of the forward pass.
    """

    NOT_RUN = 0
    CONVERGED = 1
    STEP_LIMIT = 2
    DIVERGED = 3
    PRECISION_LOST = 4

    @property
    def sentence(self) -> str:
        """The status in words."""
        return _SENTENCES[self]

    @classmethod
    def names(cls, statuses: Any) -> np.ndarray[Any, Any]:
        """The names of an array of statuses, of `Stats` or `BackwardStats`, as an array of words.

        Examples:
            >>> import numpy as np
            >>> from deqjax import Status
            >>> print(Status.names(np.array([1, 3, 1])))
            ['CONVERGED' 'DIVERGED' 'CONVERGED']
        """
        values = np.asarray(statuses)
        words = np.array([cls(int(value)).name for value in values.ravel()], dtype=str)
        return words.reshape(values.shape)


_SENTENCES = {
    Status.NOT_RUN: "no solve took place",
    Status.CONVERGED: "the residual fell to the tolerance",
    Status.STEP_LIMIT: "max_steps were taken before the residual fell to the tolerance",
    Status.DIVERGED: "f(z) or its norm became infinite or NaN; the value is the last good iterate",
    Status.PRECISION_LOST: "the states rebuilt backward are not those of the forward pass",
}


class Stats(NamedTuple):
    """How a solve went. Carries no gradient.

    Attributes:
        steps: (batch,) int32, updates of z that the sample took.
        residual: (batch,) float32 or float64, ||f(z) - z|| / ||f(z)|| at the returned value
            (with ``stop="absolute"``: ||f(z) - z||); infinite if f was never finite.
        status: (batch,) int32, a [`Status`][deqjax.solvers.Status].
        evaluations: () int32, evaluations of f on the whole batch: one more than the steps of the
            slowest sample, since the residual of the last iterate is measured too; with
            ``has_aux=True`` another one, at the value.
        trace: (rows, batch) residual before each step, NaN once a sample has stopped; None unless
            asked for with ``trace=rows``.
    """

    steps: PerSample
    residual: PerSample
    status: PerSample
    evaluations: jax.Array
    trace: jax.Array | None

    def summary(self) -> str:
        """How the samples did, in a sentence; shapes where the numbers are not known yet.

        Examples:
            >>> import jax.numpy as jnp
            >>> from deqjax.solvers import picard
            >>> solution = picard(lambda z: 0.5 * z, jnp.zeros((2, 3)), tol=0.1, max_steps=9)
            >>> print(solution.stats.summary())
            2 samples: all converged, 0 steps (at most 0), residual at most 0.0e+00
        """
        return summary(self.steps, self.residual, self.status)

    def __repr__(self) -> str:
        return f"Stats({self.summary()})"

    def _repr_html_(self) -> str:
        return table({"stats": self.summary()})


class Solution(NamedTuple):
    """A fixed point and how it was found.

    Attributes:
        value: the best finite iterate of each sample, or what ``returns`` chose instead;
            structure, shapes and dtypes of z0.
        stats: [`Stats`][deqjax.solvers.Stats] of the solve.
        trajectory: the iterates after the chosen steps, leaves (steps, batch, ...); None unless
            asked for with ``trajectory=(4, 8)``. A sample that stopped earlier shows its value.
            Under a backward rule each of them differentiates as if it were the fixed point; under
            ``unrolled`` and ``reversible`` exactly; under ``truncated`` they have no gradient.
        memory: what a method hands to the backward rule that asked for it with
            ``keep_memory=True``; None otherwise.
        aux: what f returned besides at the value; None unless asked for with ``has_aux=True``.
    """

    value: State
    stats: Stats
    trajectory: State | None = None
    memory: Any = None
    aux: Any = None

    def __repr__(self) -> str:
        return f"Solution({'; '.join(f'{name}: {text}' for name, text in self._rows().items())})"

    def _repr_html_(self) -> str:
        return table(self._rows())

    def _rows(self) -> dict[str, str]:
        """Each field that is there, in words."""
        told = {"stats": self.stats.summary()} if isinstance(self.stats, Stats) else {}
        fields = {name: value for name, value in self._asdict().items() if value is not None}
        return told | {n: describe(value) for n, value in fields.items() if n not in told}
