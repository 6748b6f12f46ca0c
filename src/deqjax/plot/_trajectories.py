"""The paths of samples to their fixed points, seen in a plane."""

import math

import jax
import numpy as np
from matplotlib.figure import Figure

from deqjax._core.types import State
from deqjax.plot._style import finish, line_style, new_figure
from deqjax.solvers import Solution


def trajectories(states: State, *, title: str = "") -> Figure:
    """Draw the paths of a batch in the plane in which they vary most.

    The plane is that of the first two principal components of all states of all samples. A circle
    marks a start, a star an end.

    Example:
        >>> import jax.numpy as jnp
        >>> from deqjax import plot, solvers
        >>> f, z0 = lambda z: 0.5 * z, jnp.array([[1.0, 2.0, 0.0], [-1.0, 0.5, 1.0]])
        >>> found = solvers.picard(f, z0, tol=0.0, max_steps=4, trajectory=(1, 2, 3, 4))
        >>> figure = plot.trajectories(jnp.stack([z0, *found.trajectory]))

    Args:
        states: leaves (steps, batch, ...), such as ``solution.trajectory`` with the start before
            it; or a [`deqjax.Solution`][], whose trajectory is drawn.
        title: stands above the panel.

    Raises:
        ValueError: a solution without a trajectory, fewer than two steps, leaves that differ in
            steps or batch, fewer than two features, or a state that is not finite.
    """
    if isinstance(states, Solution):
        if states.trajectory is None:
            raise ValueError(
                "the solution has no trajectory: give its solver the steps to keep, as in "
                "partial(anderson, trajectory=(1, 2, 3))."
            )
        states = states.trajectory
    points = _points(states)
    steps, batch, features = points.shape
    flat = points.reshape(-1, features)
    plane, share = _plane(flat - flat.mean(axis=0))
    plane = plane.reshape(steps, batch, 2)

    figure = new_figure(6.5, 5.4, title)
    axes = figure.subplots()
    for sample in range(batch):
        path, style = plane[:, sample], line_style(sample)
        color = style["color"]
        axes.plot(*path.T, **style, linewidth=1.2)
        axes.plot(*path[1:-1].T, ".", color=color, markersize=4)
        first = {"start": path[0], "end": path[-1]}
        for (label, at), shape in zip(first.items(), ("o", "*"), strict=True):
            axes.plot(
                *at,
                shape,
                color=color,
                markersize=6 if shape == "o" else 12,
                markerfacecolor="white" if shape == "o" else color,
                label=label if sample == 0 else None,
            )
    finish(
        axes,
        xlabel=f"first principal component ({share[0]:.0%} of the variance)",
        ylabel=f"second principal component ({share[1]:.0%})",
    )
    return figure


def _plane(centered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components of each row, and their shares of the variance.

    From the eigenvectors of the Gram matrix, features by features or rows by rows: of two matrices
    with the same eigenvalues but zero, the smaller one.
    """
    wide = centered.shape[1] > centered.shape[0]
    gram = centered @ centered.T if wide else centered.T @ centered
    squares, vectors = np.linalg.eigh(gram)  # ascending
    squares, vectors = np.maximum(squares[:-3:-1], 0), vectors[:, :-3:-1]
    plane = vectors * np.sqrt(squares) if wide else centered @ vectors
    return plane, squares / max(np.trace(gram), np.finfo(float).tiny)


def _points(states: State) -> np.ndarray:
    """(steps, batch, features), float64."""
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(states)]
    if not leaves or any(leaf.ndim < 2 for leaf in leaves):
        raise ValueError("states must have leaves of the shape (steps, batch, ...).")
    shapes = {leaf.shape[:2] for leaf in leaves}
    if len(shapes) > 1:
        raise ValueError(f"the leaves of states differ in steps and batch: {sorted(shapes)}.")
    [(steps, batch)] = shapes
    features = sum(math.prod(leaf.shape[2:]) for leaf in leaves)
    if steps < 2 or features < 2 or batch < 1:
        raise ValueError(
            "states must hold at least two steps of a sample with at least two features, got "
            f"{steps} steps of {batch} samples with {features} features."
        )
    points = np.concatenate([leaf.reshape(steps, batch, -1) for leaf in leaves], axis=2)
    if not np.all(np.isfinite(points)):
        raise ValueError("states holds values that are not finite; leave diverged samples out.")
    return points
