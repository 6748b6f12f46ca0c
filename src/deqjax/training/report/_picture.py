"""The picture that a run leaves in its folder."""

import io
from pathlib import Path

from deqjax.training._workdir import Workdir, WorkdirError, read_config, write_atomically
from deqjax.training.records import read_metrics


def save_run_picture(workdir: Workdir) -> Path:
    """Draws the run in a folder into its `run.png`, and returns that file's path.

    The picture is that of `deqjax.plot.training_history`, 1200 x 750 pixels.

    Raises:
        WorkdirError: if the folder holds no run, or cannot be written to.
        MetricsError: if its metrics cannot be read.
    """
    from deqjax.plot import training_history  # matplotlib is slow to import

    experiment, _ = read_config(workdir.path)
    figure = training_history(read_metrics(workdir.metrics), title=as_it_is(experiment))
    content = io.BytesIO()
    figure.savefig(content, format="png", pil_kwargs={"optimize": True})
    try:
        write_atomically(workdir.picture, content.getvalue())
    except OSError as error:
        raise WorkdirError(
            f"{workdir.picture} cannot be written ({error.strerror or error}); make room there, "
            "or put the permissions right."
        ) from error
    return workdir.picture


def as_it_is(name: str) -> str:
    """A name for a picture: dollar signs begin no formula in it."""
    return name.replace("$", r"\$").encode(errors="replace").decode()
