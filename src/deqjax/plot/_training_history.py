"""One picture of a run: loss, solver steps, residuals and stability over the training steps."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from deqjax._records import Record, is_rollback, loss_unit
from deqjax.plot._style import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PINK,
    draw_level,
    finish,
    logarithmic,
    new_figure,
)

_POINTS = 500  # of one curve that are drawn, at most


def training_history(records: Sequence[Record], *, title: str = "") -> Figure:
    """Draw the records of a run in four panels; a panel without data says so.

    Example:
        >>> from deqjax import plot
        >>> records = [{"step": s, "split": "train", "bits_per_byte": 8 / s} for s in range(1, 9)]
        >>> figure = plot.training_history(records, title="a run")

    Args:
        records: of `deqjax.training.read_metrics`, each with "step", "split" and metrics. Drawn are
            "bits_per_byte" or else "loss", what is called NAME_bits_per_byte or NAME_loss beside it
            (a baseline, as a line at its last value), "forward_steps", "backward_steps",
            "forward_residual", "backward_residual", "tolerance" (as a line), "spectral_radius" and
            "spectral_radius_max". Values that are not finite are left out. Marked in the panel of
            the loss are rollbacks, and the training records with skipped updates or a loss that is
            not finite; in that of the residual, those with diverged backward solves.
        title: stands above the panels.

    Returns:
        A figure of 1200 x 750 pixels.
    """
    figure = new_figure(12, 7.5, title)
    panels = figure.subplots(2, 2, sharex=True).ravel()
    _draw_loss(panels[0], records)
    _draw_steps(panels[1], records)
    _draw_residual(panels[2], records)
    _draw_radius(panels[3], records)
    return figure


def _draw_loss(axes: Axes, records: Sequence[Record]) -> None:
    name, unit = loss_unit([r for r in records if r["split"] in ("train", "validation")])
    _curve(axes, records, "train", name, BLUE, "training")
    _points(axes, records, name, ORANGE, "validation")
    # a bigram model's, or what else a task sets beside the loss
    for other in {each: None for record in records for each in record}:
        if other.endswith(f"_{name}"):
            _line(axes, records, other, other.removesuffix(f"_{name}").replace("_", " "))
    train = [record for record in records if record["split"] == "train"]
    bad = [r for r in train if r.get("skipped", 0) > 0 or not math.isfinite(r.get(name, 0))]
    _marks(axes, bad, "x", GRAY, "skipped or not finite")
    back = {record["step"] for record in records if is_rollback(record)}
    for number, step in enumerate(sorted(back)):
        label = "" if number else "rollback"
        axes.axvline(step, color=PINK, linestyle=":", linewidth=1.8, label=label)
    label = f"loss ({unit})" if unit else "loss"
    finish(axes, title="Loss", xlabel="training step", ylabel=label, integer=True)


def _draw_steps(axes: Axes, records: Sequence[Record]) -> None:
    _curve(axes, records, "train", "forward_steps", BLUE, "forward")
    _curve(axes, records, "train", "backward_steps", ORANGE, "backward")
    _points(axes, records, "forward_steps", GREEN, "forward, validation")
    if axes.has_data():
        axes.set_ylim(bottom=0)
    finish(
        axes,
        title="Cost of a solve",
        xlabel="training step",
        ylabel="solver steps (mean per sample)",
        integer=True,
    )


def _draw_residual(axes: Axes, records: Sequence[Record]) -> None:
    _curve(axes, records, "train", "forward_residual", BLUE, "forward", log=True)
    _curve(axes, records, "train", "backward_residual", ORANGE, "backward", log=True)
    _points(axes, records, "forward_residual", GREEN, "forward, validation")
    _line(axes, records, "tolerance", "tolerance")
    diverged = [r for r in records if r["split"] == "train" and r.get("backward_diverged", 0) > 0]
    if diverged:
        most = max(record["backward_diverged"] for record in diverged)
        _marks(axes, diverged, "v", PINK, f"backward diverged,\nat most {most:.1%}")
    logarithmic(axes)
    finish(
        axes,
        title="Accuracy of a solve",
        xlabel="training step",
        ylabel="relative residual (mean)",
        integer=True,
    )


def _draw_radius(axes: Axes, records: Sequence[Record]) -> None:
    _points(axes, records, "spectral_radius_max", ORANGE, "largest sample")
    _points(axes, records, "spectral_radius", BLUE, "mean")
    if axes.has_data():
        draw_level(axes, 1.0, "contraction below 1")
        axes.set_ylim(bottom=0)
    finish(
        axes,
        title="Stability at the fixed point",
        xlabel="training step",
        ylabel="spectral radius of the Jacobian",
        integer=True,
    )


def _series(
    records: Sequence[Record], split: str | None, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, float (n,) each, of the finite values of one metric."""
    chosen = [r for r in records if name in r and split in (None, r["split"])]
    pairs = np.array([(r["step"], r[name]) for r in chosen], float).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs[:, 1])]
    return pairs[:, 0], pairs[:, 1]


def _curve(
    axes: Axes,
    records: Sequence[Record],
    split: str,
    name: str,
    color: str,
    label: str,
    *,
    log: bool = False,
) -> None:
    """A faint line of the values, and a clear one of their moving mean (of logarithms if asked)."""
    steps, values = _series(records, split, name)
    if log:
        steps, values = steps[values > 0], values[values > 0]
    if values.size:
        mean = np.exp(_smooth(np.log(values))) if log else _smooth(values)
        # More points than the panel has pixels would only make the file large.
        shown = np.unique(np.linspace(0, values.size - 1, _POINTS, dtype=int))
        axes.plot(steps[shown], values[shown], color=color, alpha=0.25, linewidth=0.8)
        axes.plot(steps[shown], mean[shown], color=color, linewidth=1.8, label=label)


def _points(axes: Axes, records: Sequence[Record], name: str, color: str, label: str) -> None:
    steps, values = _series(records, "validation", name)
    if values.size:
        axes.plot(steps, values, "o-", color=color, markersize=4.5, linewidth=1.2, label=label)


def _line(axes: Axes, records: Sequence[Record], name: str, label: str) -> None:
    _, values = _series(records, None, name)
    if values.size:
        draw_level(axes, values[-1], label)


def _marks(axes: Axes, records: Sequence[Record], shape: str, color: str, label: str) -> None:
    """A mark above the panel, clear of curves and legend, at the step of each record."""
    steps = [record["step"] for record in records]
    if steps:
        edge = axes.get_xaxis_transform()  # steps along the axis, height in parts of the panel
        (marks,) = axes.plot(steps, [1.025] * len(steps), shape, transform=edge, clip_on=False)
        marks.set(color=color, markersize=6, label=label)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centered moving mean over about a fortieth of the run, over less at the two ends."""
    half = values.size // 80
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(values.size)
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, values.size)
    mean: np.ndarray = (total[high] - total[low]) / (high - low)
    return mean
