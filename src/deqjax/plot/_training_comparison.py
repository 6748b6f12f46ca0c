"""Several runs over the same panels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deqjax._records import Record, loss_unit
from deqjax._scores import words_of_score
from deqjax.plot._style import draw_level, finish, line_style, logarithmic, new_figure

_COLUMNS = 4  # of the legend, at most
_LABELS = {
    "forward_steps": "solver steps (mean per sample)",
    "forward_residual": "relative residual (mean)",
    "spectral_radius": "spectral radius (mean)",
    "spectral_radius_max": "spectral radius (largest sample)",
}


def training_comparison(
    runs: Mapping[str, Sequence[Record]],
    *,
    title: str = "",
    metrics: Sequence[str] = ("loss", "forward_steps", "forward_residual", "spectral_radius"),
) -> Figure:
    """Draw the validation records of several runs, a panel for each metric, a line for each run.

    Example:
        >>> from deqjax import plot
        >>> def run(radius):
        ...     return [
        ...         {"step": s, "split": "validation", "spectral_radius": radius} for s in (1, 2)
        ...     ]
        >>> runs = {"penalty off": run(2.0), "penalty on": run(0.9)}
        >>> figure = plot.training_comparison(runs, metrics=["spectral_radius"])

    Args:
        runs: label -> records of `deqjax.training.read_metrics`. Values that are not finite are
            left out, and so are runs that do not have a panel's metric.
        title: stands above the panels.
        metrics: names of metrics; "loss" is the loss in the runs' own unit.

    Raises:
        ValueError: there is no run or no metric.
    """
    if not runs or not metrics:
        raise ValueError("training_comparison needs at least one run and one metric.")
    chosen = {
        label: [record for record in records if record["split"] == "validation"]
        for label, records in runs.items()
    }
    name, unit = loss_unit(record for records in chosen.values() for record in records)
    # two by two, or all in a row
    columns = 2 if len(metrics) == 4 else len(metrics)
    rows = -(-len(metrics) // columns)
    figure = new_figure(max(6.0, 4.6 * columns), 4.2 * rows, title)
    for axes, metric in zip(
        figure.subplots(rows, columns, squeeze=False).ravel(), metrics, strict=True
    ):
        key = name if metric == "loss" else metric
        label = _loss_label(unit) if metric == "loss" else _label(key)
        _draw(axes, chosen, key)
        finish(axes, xlabel="training step", ylabel=label, integer=True)
    _share_legend(figure, list(runs))
    return figure


def _loss_label(unit: str) -> str:
    return f"validation loss ({unit})" if unit else "validation loss"


def _label(metric: str) -> str:
    return _LABELS[metric] if metric in _LABELS else words_of_score(metric)[0]


def _share_legend(figure: Figure, runs: Sequence[str]) -> None:
    """One legend below the panels, where it hides no line, as wide as there is room."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries = dict(zip(labels, handles, strict=True)) | entries
        if (own := axes.get_legend()) is not None:
            own.remove()
    if not entries:
        return
    names = dict.fromkeys(label for label in [*runs, *entries] if label in entries)
    canvas: Any = figure.canvas
    for columns in range(_COLUMNS, 0, -1):
        legend = figure.legend(
            [entries[name] for name in names],
            list(names),
            loc="outside lower center",
            ncols=columns,
            fontsize=10,
        )
        size = legend.get_window_extent(canvas.get_renderer())
        if size.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    # many runs must not leave the panels without height
    figure.set_figheight(figure.get_figheight() + size.height / figure.dpi)


def _draw(axes: Axes, runs: Mapping[str, Sequence[Record]], key: str) -> None:
    for index, (label, records) in enumerate(runs.items()):
        pairs = np.array([(r["step"], r[key]) for r in records if key in r], float).reshape(-1, 2)
        steps, values = pairs[np.isfinite(pairs[:, 1])].T
        if values.size:
            axes.plot(steps, values, **line_style(index, marker=True), label=label)
    if not axes.has_data():
        return
    if key == "forward_residual":
        logarithmic(axes)
    if key.startswith("spectral_radius"):
        draw_level(axes, 1.0, "contraction below 1")
    if key.startswith("spectral_radius") or key == "forward_steps":
        axes.set_ylim(bottom=0)
