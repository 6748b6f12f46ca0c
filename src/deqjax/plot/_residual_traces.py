"""How the residuals of a batch fall, or do not, from step to step."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from deqjax.plot._style import draw_level, finish, line_style, logarithmic, new_figure
from deqjax.solvers import Solution, Stats, Status


def residual_traces(
    traces: Mapping[str, Solution | Stats | ArrayLike],
    *,
    tol: float | None = None,
    title: str = "",
    ylabel: str = "relative residual (median, all samples)",
) -> Figure:
    """Draw the residual over the steps of one or several solves.

    A line is the median of the samples, the band around it reaches from the smallest to the largest
    of them. A sample that has converged goes on at its last residual; one that diverged ends with a
    cross and counts as infinite, so that the median of those that are left is never taken for that
    of all. A line ends where a sample's residual was not recorded any more.

    Example:
        >>> import jax.numpy as jnp
        >>> from deqjax import plot, solvers
        >>> f, z0 = jnp.cos, jnp.zeros((2, 1))
        >>> found = solvers.picard(f, z0, tol=1e-3, max_steps=20, trace=21)
        >>> figure = plot.residual_traces({"Picard": found.stats}, tol=1e-3)

    Args:
        traces: label -> [`deqjax.Solution`][], or its stats, of a solver that was called with
            ``trace=max_steps + 1`` (fewer rows show the beginning), or a trace alone, (rows,
            batch), whose lines are the medians of the values in each row that are not NaN.
        tol: drawn as a dashed line.
        title: stands above the panel.
        ylabel: for solves with ``stop="absolute"``, whose residual is not relative.

    Raises:
        TypeError: a single solve, without its label.
        ValueError: a solve without a trace, or a trace of another shape.
    """
    if not isinstance(traces, Mapping):
        raise TypeError(
            f"traces is a {type(traces).__name__}: give solves by name, as in "
            'residual_traces({"Anderson": solution}).'
        )
    figure = new_figure(7.5, 4.5, title)
    axes = figure.subplots()
    for index, (label, trace) in enumerate(traces.items()):
        values, diverged = _values(label, trace)
        _draw(axes, values, index, label)
        for sample in diverged:
            path = values[:, sample]
            last = np.flatnonzero(np.isfinite(path) & (path > 0))[-1:]
            axes.plot(last, path[last], "x", color=line_style(index)["color"], markersize=9)
    if tol is not None and tol > 0:
        draw_level(axes, tol, "tolerance")
    logarithmic(axes)
    finish(axes, xlabel="solver steps", ylabel=ylabel, integer=True)
    return figure


def _draw(axes: Axes, values: np.ndarray, index: int, label: str) -> None:
    """Median and band, of the rows in which the median is finite."""
    known = np.any(~np.isnan(values), axis=1)
    rows = np.flatnonzero(known)
    median = np.nanmedian(values[known], axis=1) if rows.size else np.zeros(0)
    shown = np.isfinite(median) & (median > 0)
    rows, median = rows[shown], median[shown]
    if not rows.size:
        return
    every = max(1, len(rows) // 8)
    style = line_style(index, marker=True)
    # markers of neighboring lines stand apart
    axes.plot(rows, median, **style, markevery=(index % every, every), linewidth=1.8, label=label)
    if values.shape[1] > 1:
        band = np.where(np.isfinite(values[rows]) & (values[rows] > 0), values[rows], np.nan)
        low, high = np.nanmin(band, axis=1), np.nanmax(band, axis=1)
        axes.fill_between(rows, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _values(label: str, trace: Solution | Stats | ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The residuals, (rows, batch), infinite after a sample has diverged; and who diverged."""
    if isinstance(trace, Solution):
        trace = trace.stats
    stats = trace if isinstance(trace, Stats) else None
    found = stats.trace if stats is not None else trace
    if found is None:
        raise ValueError(
            f"the solve {label!r} kept no trace; give its solver trace=rows, as in "
            "partial(anderson, trace=30)."
        )
    values = np.array(found, float)
    if values.ndim != 2:
        raise ValueError(
            f"traces[{label!r}] must have the shape (rows, batch), got {values.shape}."
        )
    if stats is None:
        return values, np.array([], int)
    status, taken = np.asarray(stats.status), np.asarray(stats.steps)
    # one row more, for the residuals after the last step of samples that have converged
    values = np.vstack([values, np.full(values.shape[1], np.nan)])
    after = np.arange(len(values))[:, None] >= taken[None]
    values = np.where(
        after & (status == Status.CONVERGED), np.asarray(stats.residual, float), values
    )
    diverged = status == Status.DIVERGED
    values = np.where(~np.isfinite(values) & diverged, np.inf, values)
    unknown = np.any(np.isnan(values), axis=1)
    rows = int(np.argmax(unknown)) if unknown.any() else len(values)
    return values[: min(rows, int(taken.max()) + 1)], np.flatnonzero(diverged)
