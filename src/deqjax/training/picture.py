"""One picture of a run: loss, solver steps, residuals and stability over the training steps."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deqjax.training.metrics import is_rollback, read_metrics
from deqjax.training.quantities import loss_unit
from deqjax.training.workdir import Workdir, WorkdirError, read_config, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the palette of Okabe and Ito, which colour-blind readers can tell apart.
_BLUE, _ORANGE, _GREEN, _GRAY = "#0072B2", "#D55E00", "#009E73", "#555555"
_PINK = "#CC79A7"
_WIDTH, _HEIGHT, _DPI = 1200, 750, 100  # pixels, pixels, pixels per inch
_POINTS = 500  # of one curve that are drawn, at most

Record = Mapping[str, Any]


def draw_run(records: Sequence[Record], *, title: str) -> "Figure":
    """Draws the records of `read_metrics` in four panels; a panel without data says so.

    Args:
        records: each with "step", "split" and metrics. Drawn are "bits_per_byte" or else "loss",
            "bigram_bits_per_byte" or "bigram_loss" (a baseline, as a line), "forward_steps",
            "backward_steps", "forward_residual", "backward_residual", "tolerance" (as a line),
            "spectral_radius" and "spectral_radius_max". Values that are not finite are left out.
            Marked in the panel of the loss are rollbacks, and the training records with skipped
            updates or a loss that is not finite; in that of the residual, those with diverged
            backward solves.
        title: stands above the panels.

    Returns:
        A figure of 1200 x 750 pixels that belongs to no window and to no global state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)  # inches
    figure = Figure(figsize=(_WIDTH / _DPI, _HEIGHT / _DPI), dpi=_DPI, layout=layout)
    FigureCanvasAgg(figure)
    figure.suptitle(textwrap.fill(title, 90), fontsize=15)
    panels = figure.subplots(2, 2, sharex=True).ravel()
    _draw_loss(panels[0], records)
    _draw_steps(panels[1], records)
    _draw_residual(panels[2], records)
    _draw_radius(panels[3], records)
    return figure


def save_run_picture(workdir: Workdir) -> Path:
    """Draws the run in a folder into its `run.png`, and returns that file's path.

    Raises:
        WorkdirError: if the folder holds no run, or cannot be written to.
        MetricsError: if its metrics are damaged.
    """
    experiment, _ = read_config(workdir.path)
    figure = draw_run(read_metrics(workdir.metrics), title=experiment)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_DPI, pil_kwargs={"optimize": True})
    try:
        write_atomically(workdir.picture, content.getvalue())
    except OSError as error:
        raise WorkdirError(
            f"{workdir.picture} cannot be written ({error.strerror or error}); make room there, "
            "or put the permissions right."
        ) from error
    return workdir.picture


def _draw_loss(axes: "Axes", records: Sequence[Record]) -> None:
    name, unit = loss_unit([r for r in records if r["split"] in ("train", "validation")])
    _curve(axes, records, "train", name, _BLUE, "training")
    _points(axes, records, name, _ORANGE, "validation")
    _line(axes, records, f"bigram_{name}", "bigram baseline")
    train = [record for record in records if record["split"] == "train"]
    bad = [r for r in train if r.get("skipped", 0) > 0 or not math.isfinite(r.get(name, 0))]
    _marks(axes, bad, "x", _GRAY, "skipped or not finite")
    back = {record["step"] for record in records if is_rollback(record)}
    for number, step in enumerate(sorted(back)):
        label = "" if number else "rollback"
        axes.axvline(step, color=_PINK, linestyle=":", linewidth=1.8, label=label)
    _finish(axes, "Loss", f"loss ({unit})")


def _draw_steps(axes: "Axes", records: Sequence[Record]) -> None:
    _curve(axes, records, "train", "forward_steps", _BLUE, "forward")
    _curve(axes, records, "train", "backward_steps", _ORANGE, "backward")
    _points(axes, records, "forward_steps", _GREEN, "forward, validation")
    if axes.has_data():
        axes.set_ylim(bottom=0)
    _finish(axes, "Cost of a solve", "solver steps (mean per sample)")


def _draw_residual(axes: "Axes", records: Sequence[Record]) -> None:
    _curve(axes, records, "train", "forward_residual", _BLUE, "forward", log=True)
    _curve(axes, records, "train", "backward_residual", _ORANGE, "backward", log=True)
    _points(axes, records, "forward_residual", _GREEN, "forward, validation")
    _line(axes, records, "tolerance", "tolerance")
    diverged = [r for r in records if r["split"] == "train" and r.get("backward_diverged", 0) > 0]
    if diverged:
        most = max(record["backward_diverged"] for record in diverged)
        _marks(axes, diverged, "v", _PINK, f"backward diverged,\nat most {most:.1%}")
    if axes.has_data():
        axes.set_yscale("log", nonpositive="mask")
    _finish(axes, "Accuracy of a solve", "relative residual (mean)")


def _draw_radius(axes: "Axes", records: Sequence[Record]) -> None:
    _points(axes, records, "spectral_radius_max", _ORANGE, "largest sample")
    _points(axes, records, "spectral_radius", _BLUE, "mean")
    if axes.has_data():
        axes.axhline(1.0, color=_GRAY, linestyle="--", linewidth=1.2, label="contraction below 1")
        axes.set_ylim(bottom=0)
    _finish(axes, "Stability at the fixed point", "spectral radius of the Jacobian")


def _series(
    records: Sequence[Record], split: str | None, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values, float (n,) each, of the finite values of one metric."""
    chosen = [r for r in records if name in r and split in (None, r["split"])]
    pairs = np.array([(r["step"], r[name]) for r in chosen], float).reshape(-1, 2)
    pairs = pairs[np.isfinite(pairs[:, 1])]
    return pairs[:, 0], pairs[:, 1]


def _curve(
    axes: "Axes",
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


def _points(axes: "Axes", records: Sequence[Record], name: str, color: str, label: str) -> None:
    steps, values = _series(records, "validation", name)
    if values.size:
        axes.plot(steps, values, "o-", color=color, markersize=4.5, linewidth=1.2, label=label)


def _line(axes: "Axes", records: Sequence[Record], name: str, label: str) -> None:
    _, values = _series(records, None, name)
    if values.size:
        axes.axhline(values[-1], color=_GRAY, linestyle="--", linewidth=1.2, label=label)


def _marks(axes: "Axes", records: Sequence[Record], shape: str, color: str, label: str) -> None:
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


def _finish(axes: "Axes", title: str, ylabel: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, fontsize=12, pad=12)
    axes.set_xlabel("training step", fontsize=11)
    axes.set_ylabel(ylabel, fontsize=11)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.tick_params(labelsize=10, labelbottom=True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.has_data():
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.legend(fontsize=10, framealpha=0.8)
    else:
        axes.set_yticks([])
        text = axes.text(0.5, 0.5, "no data", fontsize=12, color=_GRAY, transform=axes.transAxes)
        text.set(ha="center", va="center")
