"""Batched graphs: which rows of a state belong together, and how they become samples."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deqjax._core.types import State


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segments:
    """Which graph each row of a state belongs to, with sizes that are known before the ids are.

    ``fixed_point(..., segments=ids)`` counts for itself where it can read the ids. Inside `jax.jit`
    they are run-time values, and the shapes of a program are not: give bounds here. A graph with
    more than ``longest`` rows is not solved: its rows come back NaN, its status is ``DIVERGED``. A
    row whose id is none of 0 to ``count - 1`` comes back NaN, and no graph sees it.

    Attributes:
        rows: (rows,) integers, row -> graph, in any order.
        count: number of graphs, a Python int; graphs may be empty.
        longest: most rows that a graph has, a Python int.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> import deqjax
        >>> @jax.jit
        ... def solve(x, ids):
        ...     def f(z, x):
        ...         means = jax.ops.segment_sum(z, ids, 2) / 2
        ...         return 0.5 * means[ids] + x
        ...
        ...     segments = deqjax.Segments(ids, count=2, longest=3)
        ...     return deqjax.fixed_point(f, jnp.zeros_like(x), x, segments=segments, tol=1e-6)
        >>> solution = solve(jnp.array([1.0, 3.0, 5.0, 5.0]), jnp.array([0, 0, 1, 1]))
        >>> print(solution.value.round(2), solution.stats.steps.shape)
        [ 3.  5. 10. 10.] (2,)
    """

    rows: Any
    count: int = dataclasses.field(metadata={"static": True})
    longest: int = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        for name in ("count", "longest"):
            size = getattr(self, name)
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
                raise ValueError(
                    f"Segments({name}=...) must be a Python int >= 1, got {size!r}: it is a shape."
                )


@dataclasses.dataclass(frozen=True)
class Graphs:
    """Rows gathered into (graphs, longest, ...), zeros where a graph has fewer.

    A padded entry is zero in the state and in its image, so it adds nothing to norms and small
    systems: each graph is solved as if alone.
    """

    members: Any  # (graphs, longest) int32, the row at each place; the number of rows at padding
    places: Any  # (rows,) int32, the place of each row among graphs * longest; that many if lost
    too_long: Any  # (graphs,) bool, None if all fit

    sample = "graph"

    def inward(self, leaf: jax.Array) -> jax.Array:
        """(rows, ...) -> (graphs, longest, ...); NaN in a graph that does not fit."""
        if leaf.ndim == 0 or len(leaf) != len(self.places):
            raise ValueError(
                f"f returned a leaf of shape {leaf.shape}, but with segments= axis 0 must be the "
                f"{len(self.places)} rows."
            )
        gathered = jnp.take(leaf, self.members, axis=0, mode="fill", fill_value=0)
        return self._fill_too_long(gathered, jnp.nan)

    def outward(self, leaf: jax.Array) -> jax.Array:
        """(graphs, longest, ...) -> (rows, ...), as f sees it: zeros for rows without a place."""
        # f never sees the NaN: it might reach other graphs, as in a product with a dense matrix
        return self._rows(self._fill_too_long(leaf, 0), 0)

    def show(self, leaf: jax.Array) -> jax.Array:
        """(graphs, longest, ...) -> (rows, ...), as the user sees it: NaN where rows are lost."""
        return self._rows(self._fill_too_long(leaf, jnp.nan), jnp.nan)

    def _rows(self, leaf: jax.Array, fill: float) -> jax.Array:
        joined = leaf.reshape(-1, *leaf.shape[2:])
        return jnp.take(joined, self.places, axis=0, mode="fill", fill_value=fill)

    def _fill_too_long(self, leaf: jax.Array, value: float) -> jax.Array:
        if self.too_long is None:
            return leaf
        mask = self.too_long.reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.where(mask, value, leaf)


def graphs_of(segments: Any, z0: State) -> Graphs:
    """The arrangement of rows that the ids ask for, or a ValueError or TypeError in a sentence."""
    sized = isinstance(segments, Segments)
    rows = _check_rows(segments.rows if sized else segments, len(jax.tree.leaves(z0)[0]))
    known = not isinstance(rows, jax.core.Tracer)
    if known:
        rows = np.asarray(rows)
    elif not sized:
        raise TypeError(
            "segments is a run-time array here, and shapes must be known: give "
            "deqjax.Segments(rows, count=..., longest=...) with bounds on their number and length."
        )
    if known:
        count, longest = _check_sizes(rows, segments if sized else None)
    else:
        count, longest = int(segments.count), int(segments.longest)
    return _arrange(rows, count, longest)


def _check_rows(rows: Any, expected: int) -> Any:
    array = rows if isinstance(rows, jax.Array) else np.asarray(rows)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"segments must be whole numbers, row -> graph, got an array of {array.dtype}."
        )
    if array.shape != (expected,):
        raise ValueError(
            f"segments must give a graph for each of the {expected} rows of z0, got an array of "
            f"shape {array.shape}."
        )
    return array


def _check_sizes(rows: np.ndarray[Any, Any], stated: Segments | None) -> tuple[int, int]:
    """Number of graphs and length of the longest, from ids that can be read."""
    least, most = int(np.min(rows)), int(np.max(rows))
    if least < 0:
        raise ValueError(f"segments must be at least 0, got {least}: graphs count from 0.")
    if stated is not None and most >= stated.count:
        raise ValueError(
            f"segments names graph {most}, but count={stated.count}: ids are 0 to count - 1."
        )
    lengths = np.bincount(rows.astype(np.int64)).tolist()
    longest = max(lengths)
    if stated is None:
        return len(lengths), longest
    if longest > stated.longest:
        raise ValueError(
            f"graph {lengths.index(longest)} has {longest} rows, more than "
            f"longest={stated.longest}: raise it."
        )
    return int(stated.count), int(stated.longest)


def _arrange(rows: Any, count: int, longest: int) -> Graphs:
    """Tables from rows to places and back: NumPy's where the ids are known, else traced."""
    known = isinstance(rows, np.ndarray)
    xp: Any = np if known else jnp
    total, rows = len(rows), rows.astype(np.int32)
    order = (np.argsort(rows, kind="stable") if known else jnp.argsort(rows)).astype(np.int32)
    rank = xp.argsort(order).astype(np.int32)  # the order's inverse
    graphs, along = xp.arange(count, dtype=np.int32), xp.arange(longest, dtype=np.int32)
    first = xp.searchsorted(rows[order], graphs).astype(np.int32)
    lengths = xp.searchsorted(rows[order], graphs, side="right").astype(np.int32) - first

    among_sorted = xp.clip(first[:, None] + along[None], 0, total - 1)
    members = xp.where(along[None] < lengths[:, None], order[among_sorted], total)
    within = rank - first[xp.clip(rows, 0, count - 1)]
    placed = (rows >= 0) & (rows < count) & (within < longest)
    places = xp.where(placed, rows * longest + within, count * longest)
    too_long = None if known else lengths > longest
    return Graphs(members.astype(np.int32), places.astype(np.int32), too_long)
