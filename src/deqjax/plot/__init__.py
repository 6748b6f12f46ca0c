"""Pictures of solves, spectra and runs, as matplotlib figures.

Each function returns a `matplotlib.figure.Figure` that belongs to no window and to no global state:
as the last line of a notebook's cell it shows itself, and ``figure.savefig("name.png")`` writes it.
Lines differ in color (the palette of Okabe and Ito, which color-blind readers can tell apart), in
dashes and in markers, so that they can be told apart in print, too.
"""

from deqjax._extras import needs

with needs("plot", "deqjax.plot"):
    from deqjax.plot._curves import curves
    from deqjax.plot._depth_sweep import depth_sweep
    from deqjax.plot._residual_traces import residual_traces
    from deqjax.plot._spectrum import spectrum
    from deqjax.plot._style import line_style, new_figure
    from deqjax.plot._training_comparison import training_comparison
    from deqjax.plot._training_history import training_history
    from deqjax.plot._trajectories import trajectories

__all__ = [
    "curves",
    "depth_sweep",
    "line_style",
    "new_figure",
    "residual_traces",
    "spectrum",
    "training_comparison",
    "training_history",
    "trajectories",
]
